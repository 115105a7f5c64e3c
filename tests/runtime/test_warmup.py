"""What a warm-up measures, and what later sessions make of it; times are given, none is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from graphopt.bench import warmup_table
from graphopt.measure import Timing
from graphopt.runtime import Session
from graphopt.runtime import warmup as module
from graphopt.runtime.execute.region import Region
from graphopt.runtime.place.measured import chosen, partition_key, region_digest, region_times
from tests.runtime.forms import feed
from tests.runtime.test_transformer import feeds_of, make_block


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Attention with products that are quantized while running; parts of its fused operations could run alone."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    onnx.save(make_block(), tmp_path / "float.onnx")
    path = tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(tmp_path / "float.onnx", path, op_types_to_quantize=["MatMul"])
    return path


class Races:
    """Takes the place of the stop watch: `slow` tells the regions that lose on kernels, `cost` the seconds of a model
    in a session's partition, in its so many-th race."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, slow: Callable[[Region], bool], cost: Callable[[Session, int], float]
    ) -> None:  # fmt: skip
        self.slow, self.cost, self.seen = slow, cost, Counter[str]()
        self.pairs: list[tuple[Session, Session]] = []
        monkeypatch.setattr(module, "_race", self.race)

    def race(self, candidate: partial[Any], beside: partial[Any], seconds: float, threads: int) -> module.Race:
        runner, other = candidate.func.__self__, beside.func.__self__  # type: ignore[attr-defined]
        if isinstance(runner, Region):
            self.seen[region_digest(runner.segment)] += 1
            return module.Race(2.0, 1.0) if self.slow(runner) else module.Race(1.0, 2.0)
        self.pairs.append((runner, other))
        return module.Race(*(self.cost(one, len(self.pairs)) for one in (runner, other)))


def operators(region: Region) -> list[str]:
    return [type(operation).__name__ for operation in region.segment.operations]


def as_told(timings: list[Any]) -> list[tuple[str, str]]:
    return [(timing.part, timing.runs_on) for timing in timings]


def test_a_ban_holds_for_the_parts_of_fused_operations(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = feeds_of(2, 5)
    want = Session(block, 1, kernels=False).run(None, feeds)[0]
    assert len(Session(block, 1, kernels=True).regions) == 1
    assert not Session(block, 1, kernels="predicted").regions
    races = Races(monkeypatch, lambda region: True, lambda session, _: 1.0 + len(session.regions))
    timings = module.warmup(block, feeds, threads=1)
    assert as_told(timings) == [("all regions on kernels", "as predicted"), ("region 0", "onnxruntime")]
    assert races.seen.total() == 1 == len(races.pairs)
    measured = Session(block, 1, kernels="measured")
    assert not measured.regions and "measured slower" in str(measured.describe())
    session = Session(block, 1)
    assert not session.regions
    np.testing.assert_array_equal(session.run(None, feeds)[0], want)


def test_partitions_are_measured_until_nothing_is_new(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a ban does not hold for parts, they come up as regions of other digests, and are measured as such."""
    from graphopt.runtime.place import lowered_model

    def only(coverage: Any, left: Any, segments: Any) -> set[Any]:
        return set(left)

    feeds = feeds_of(2, 5)

    def cost(session: Session, _: int) -> float:
        return {0: 2.0, 1: 3.0}.get(len(session.regions), 1.0)

    monkeypatch.setattr(lowered_model, "with_parts", only)
    feeds = feeds_of(2, 5)
    races = Races(monkeypatch, lambda region: len(operators(region)) != 1, cost)
    timings = module.warmup(block, feeds, threads=1)
    times, session = region_times(1).load(), Session(block, 1)
    assert len(races.seen) >= 3 and set(races.seen.values()) == {1} and len(races.pairs) == 1 + module.OPENED
    assert as_told(timings)[0] == ("all regions on kernels", "as predicted")
    assert as_told(timings)[-1] == ("the faster regions on kernels",) * 2
    assert "measured: the faster regions on kernels" in str(session.describe())
    assert session.regions
    for region in session.regions:
        kernels, ort = times[region_digest(region.segment)]
        assert kernels < ort and len(operators(region)) == 1
    for _ in range(2):  # the second from its plan
        assert len(Session(block, 1).regions) == len(session.regions)


def test_a_model_that_loses_as_a_whole_stays_whole(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    path = made["qdq"]
    assert Session(path, 1, kernels="predicted").regions
    races = Races(monkeypatch, lambda region: False, lambda session, _: 1.0 + len(session.regions))
    for turn in range(2):  # each call seeks its verdict anew
        timings = module.warmup(path, feed(), threads=1)
        assert as_told(timings) == [("whole in onnxruntime", "whole in onnxruntime"), ("region 0", "kernels")]
        assert len(races.pairs) == module.OPENED * (turn + 1)
        assert not Session(path, 1).regions and Session(path, 1, kernels=True).regions
    races.cost = lambda session, _: 1.0
    module.warmup(path, feed(), threads=1)
    assert Session(path, 1).regions and Session(path, 1).describe().parts


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_every_race_must_be_won_in_sessions_opened_anew(
    lost: int, block: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """All regions on kernels are twice as fast as the whole in onnxruntime, but for the race that is lost."""
    races = Races(
        monkeypatch, lambda region: True, lambda session, race: 1.0 if bool(session.regions) != (race == lost) else 2.0
    )
    timings = module.warmup(block, feeds_of(2, 5), threads=1)
    assert timings[0] == module.PartitionTiming(
        "all regions on kernels", *((1.0, 2.0, True) if not lost else (2.0, 1.0, False))
    )
    assert len(races.pairs) == (lost or module.OPENED)
    assert len({id(session) for pair in races.pairs for session in pair}) == 2 * len(races.pairs)
    for turn, (candidate, beside) in enumerate(races.pairs):
        assert bool(candidate.regions) is (turn % 2 == 0) and bool(beside.regions) is (turn % 2 == 1)
    assert bool(Session(block, 1).regions) is (lost == 0)


def test_nothing_is_raced_when_the_time_is_spent(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = feeds_of(2, 5)
    races = Races(monkeypatch, lambda region: False, lambda session, _: 2.0 - len(session.regions))
    module.warmup(block, feeds, threads=1)
    assert Session(block, 1).regions and races.pairs
    races.pairs.clear()
    monkeypatch.setattr(module, "GRANTED", 0)
    timings = module.warmup(block, feeds, threads=1)
    assert timings == [module.PartitionTiming("all regions on kernels")] and not races.pairs
    assert not Session(block, 1).regions  # as predicted: what an earlier warm-up found is sought anew
    rows = [*warmup_table(timings).columns[2].cells]
    assert rows == ["not measured"]


def test_a_verdict_is_sought_until_it_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def timed(errors: list[tuple[float, float]]) -> Callable[..., list[Timing]]:
        def interleaved(candidates: Any, *, seconds: float, clock: Any) -> list[Timing]:
            asked.append(seconds)
            ratio, error = errors[len(asked) - 1]
            return [Timing("onnxruntime", 1.0, 1.0, 1.0, 5), Timing("kernels", 2.0, 2.0, ratio, 5, error)]

        return interleaved

    for errors, want in (
        ([(1.1, 0.05), (0.9, 0.02)], (2.0, 1.8, 0.02)),  # clear the second time
        ([(1.02, 0.01)], (2.0, 2.04, 0.01)),
        ([(0.98, 0.1)] * module.ATTEMPTS, (2.0, 1.96, 0.1)),  # never clear: the loser of the longest race
    ):
        asked.clear()
        monkeypatch.setattr(module, "interleaved", timed(errors))
        found = module._race(lambda: None, lambda: None, 0.5, 1)
        assert astuple(found) == pytest.approx(want) and asked == [0.5 * 2**i for i in range(len(errors))]


@pytest.mark.parametrize(
    ("races", "choice"),
    [
        ({}, "predicted"),
        ({"all": (0.99, 1.0, 0.001)}, "predicted"),  # a tie
        ({"all": (0.9, 1.0, 0.001)}, "all"),
        ({"all": (0.9, 1.0, 0.06)}, "predicted"),  # within twice its error
        ({"whole": (0.9, 1.0, 0.01), "all": (1.2, 1.0, 0.01)}, "whole"),
        ({"whole": (0.9, 1.0, 0.01), "all": (0.8, 1.0, 0.01), "measured": (0.85, 1.0, 0.01)}, "all"),
        ({"whole": (0.9, 1.0, 0.01), "all": (0.8, 1.0, 0.2), "measured": (0.85, 1.0, 0.01)}, "measured"),
    ],
)
def test_the_predicted_partition_stays_unless_another_is_clearly_faster(
    races: dict[Any, tuple[float, float, float]], choice: str
) -> None:
    """Seconds of partitions and of the one predicted, and the errors of their ratios."""
    greedy = ("region", "partition:1")
    times = {partition_key(greedy, one): module.Race(*race).doubted for one, race in races.items()}
    assert chosen(greedy, times) == choice and chosen((), times) == "predicted"
