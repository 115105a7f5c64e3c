"""The int8 benchmarks' table: a row that fails is told and costs no other row; shares and means are what they say."""

import numpy as np
import pytest

import graphopt
from tests.bench import side_by_side
from tests.bench.side_by_side import OURS, Measured, best, integer_share, quality, rows, table
from tests.quantize.nets import convnet, images


def test_a_row_that_fails_costs_no_other_row(capsys, monkeypatch):
    found = {OURS: [Measured(0.9, 0.3, 2.0, 30.0, 1.0), Measured(0.9, 0.3, 1.0, 20.0, 0.5)]}
    monkeypatch.setattr(side_by_side, "compare", lambda case, *_: (found, "words"))

    def fails():
        raise ImportError("No module named 'PIL'\nand more")

    assert table([("first", fails), ("second", lambda: None)], 2, 0.1) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["first", "failed:", "ImportError:", "No", "module", "named", "'PIL'"]
    assert lines[2].split() == [
        "second",
        OURS,
        "90%",
        "0.30",
        "1.500",
        "(1.000)",
        "25.0",
        "(20.0)",
        "75.00%",
        "(50.00%)",
    ]
    assert rows("second", found)[0] == lines[2]


def test_the_best_setting_is_the_fastest_or_else_the_most_faithful():
    slow, exact = Measured(1, 1, 0.5, 40.0, 0.9), Measured(1, 1, 0.2, 10.0, 1.0)
    ours = {OURS: Measured(1, 1, 9.0, 99.0, 1.0)}
    assert best({**ours, "a": slow, "b": exact}) == ("b",)
    assert best({**ours, "a": slow, "b": exact, "c": Measured(0, 1, 1.01, 1.0, 0.0)}) == ("c",)
    assert best(ours) == ()


@pytest.mark.parametrize(("mode", "share"), [("static", 1.0), ("dynamic", 0.0007561), ("weights", 0.0)])
def test_share_on_integers(mode, share):
    options = graphopt.Quantize(mode=mode, speed=False, min_sqnr=-100, min_top1=0)
    result = graphopt.optimize(convnet(), quantize=options, calibration=images(4))
    found = integer_share(result.model.SerializeToString(), images(1)[0])
    assert found == pytest.approx(share, rel=1e-3)  # dynamic: products alone


def test_quality_counts_decisions_and_the_worst_output():
    class Gives:
        def __init__(self, *results):
            self.results = results

        def run(self, names, feed):
            return [np.array(r, np.float32) for r in self.results]

    sqnr, same = quality(lambda r: list(r[0]), Gives([1, 2], [10]), Gives([1, 3], [11]), [{}])
    assert (sqnr, same) == (pytest.approx(10 * np.log10(5)), 0.5)
