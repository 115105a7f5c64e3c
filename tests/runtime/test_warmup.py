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
    """Takes the place of the stop watch: `slow` tells the regions, or the session (True), that lose on kernels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: Callable[[Any], bool]) -> None:
        self.slow, self.seen = slow, Counter[str]()
        monkeypatch.setattr(module, "_race", self.race)

    def race(self, kernels: partial[Any], ort: Any, seconds: float, threads: int) -> module.Race:
        runner = kernels.func.__self__  # type: ignore[attr-defined]
        self.seen[region_digest(runner.segment) if isinstance(runner, Region) else "whole model"] += 1
        return module.Race(2.0, 1.0) if self.slow(runner) else module.Race(1.0, 2.0)


def operators(region: Region) -> list[str]:
    return [type(operation).__name__ for operation in region.segment.operations]


def test_a_ban_holds_for_the_parts_of_fused_operations(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = feeds_of(2, 5)
    want = Session(block, 1, kernels=False).run(None, feeds)[0]
    assert len(Session(block, 1, kernels=True).regions) == 1
    races = Races(monkeypatch, lambda runner: True)
    timings = module.warmup(block, feeds, threads=1)
    assert [timing.runs_on for timing in timings] == ["onnxruntime"] * 2 and races.seen.total() == 2
    measured = Session(block, 1, kernels="measured")
    assert not measured.regions and "measured slower" in str(measured.describe())
    session = Session(block, 1)
    assert not session.regions
    np.testing.assert_array_equal(session.run(None, feeds)[0], want)


def _slow(runner: Any) -> bool:
    """Regions of several operations lose, and sessions with one region do."""
    return len(operators(runner)) != 1 if isinstance(runner, Region) else len(runner.regions) == 1


def test_partitions_are_measured_until_nothing_is_new(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a ban does not hold for parts, they come up as regions of other digests, and are measured as such."""
    from graphopt.runtime.place import lowered_model

    def only(coverage: Any, slow: Any, regions: Any) -> set[Any]:
        return {operation for region in slow for operation in region.operations}

    monkeypatch.setattr(lowered_model, "with_parts", only)
    feeds = feeds_of(2, 5)
    races = Races(monkeypatch, _slow)
    timings = module.warmup(block, feeds, threads=1)
    times, session = region_times(1).load(), Session(block, 1)
    assert races.seen.pop("whole model") == 2 and len(races.seen) >= 3 and set(races.seen.values()) == {1}
    assert [t.part for t in timings if t.runs_on == "kernels"][-1] == "partition of the faster regions"
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
    races = Races(monkeypatch, lambda runner: isinstance(runner, Session))
    for _ in range(2):  # each call seeks its verdict anew
        timings = module.warmup(path, feed(), threads=1)
        assert [timing.part for timing in timings] == ["region 0", "partition as predicted"]
        assert [timing.runs_on for timing in timings] == ["kernels", "onnxruntime"]
        assert not Session(path, 1).regions and Session(path, 1, kernels=True).regions
    assert races.seen["whole model"] == 2
    races.slow = lambda runner: False
    module.warmup(path, feed(), threads=1)
    assert Session(path, 1).regions and Session(path, 1).describe().parts


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


def test_the_predicted_partition_stays_unless_another_is_clearly_faster() -> None:
    greedy = ("region", "partition:1")

    def choice(**ratios: float) -> str:
        return chosen(greedy, {partition_key(greedy, name): (ratio, 1.0) for name, ratio in ratios.items()})  # type: ignore[arg-type]

    assert choice() == "predicted" == chosen((), {})
    assert choice(predicted=0.9, all=0.89, measured=0.95) == "predicted"
    assert choice(predicted=0.9, all=0.8, measured=0.79) == "measured"
    assert choice(predicted=1.0, all=0.9, measured=0.95) == "all"
    assert choice(predicted=1.01, all=1.5, measured=1.2) == "predicted"  # no clear loss
    assert choice(predicted=1.1, all=1.5, measured=0.99) == "whole" == choice(predicted=1.1, all=1.5)


@pytest.mark.parametrize(
    ("predicted", "every", "regions"),
    [
        ((1.0, 0.001), (0.9, 0.001), "all"),  # both are known well
        ((1.0, 0.001), (0.9, 0.06), "predicted"),  # within twice its error
        ((1.0, 0.04), (0.96, 0.001), "predicted"),
        ((1.2, 0.01), (1.3, 0.01), "whole"),
        ((1.2, 0.11), (1.3, 0.01), "predicted"),  # perhaps as fast as onnxruntime
    ],
)
def test_an_interval_that_is_not_clear_leaves_the_prediction(
    predicted: tuple[float, float], every: tuple[float, float], regions: str
) -> None:
    """Times and errors of partitions, in onnxruntime's time."""
    greedy = ("region", "partition:1")
    races = {"predicted": module.Race(predicted[0], 1.0, predicted[1]), "all": module.Race(every[0], 1.0, every[1])}
    times = {partition_key(greedy, one): module._verdict(one, race) for one, race in races.items()}  # type: ignore[arg-type]
    assert chosen(greedy, times) == regions
