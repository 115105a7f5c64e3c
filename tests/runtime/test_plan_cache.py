"""Plans on disk: a later process makes the same session from them without reading the graph, and is never misled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.kernels import Buffer, Library, Step
from graphopt.kernels.layout.moves import COPY_ROWS
from graphopt.runtime import Session
from graphopt.runtime.cache import plan_cache
from graphopt.runtime.compile.executable import Executable, ProgramStep, hidden_addresses
from graphopt.runtime.place import lowered_model, measured
from graphopt.runtime.place.lowered_model import LoweredModel
from graphopt.runtime.place.measured import partition_key, region_times
from tests.runtime.forms import FORMS, feed

_CHILD = """
import sys, numpy as np
import graphopt.runtime.place.lowered_model as lowered
def refuse(self):
    raise AssertionError("the graph was read")
if sys.argv[4] == "refuse":
    lowered.LoweredModel._lower = refuse
from graphopt.runtime import Session
from graphopt.runtime.cache import plan_cache
session = Session(sys.argv[1], int(sys.argv[3]), kernels=True)
x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
np.save(sys.argv[2], session.run(None, {"x": x})[0])
assert session.describe().parts and session.get_inputs()[0].shape == ["N", 3, 16, 16]
print(session.covered, "numba" in sys.modules, "onnx" in sys.modules)
"""


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the module's own."""
    folder = tmp_path_factory.getbasetemp() / "store"
    monkeypatch.setenv("GRAPHOPT_CACHE", str(folder))
    return folder


def plans(cache: Path) -> list[Path]:
    return [file for file in (cache / "plans").rglob("*") if file.is_file()]


@pytest.mark.parametrize("form", [*FORMS, "dynamic"])
def test_another_process_runs_the_stored_plan(made: dict[str, Path], form: str, tmp_path: Path) -> None:
    session = Session(made[form], 1, kernels=True)
    want = session.run(None, feed())[0]
    for threads, graph in (("1", "read"), ("1", "refuse"), ("2", "refuse")):
        command = [sys.executable, "-c", _CHILD, str(made[form]), str(tmp_path / "y.npy"), threads, graph]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        if graph == "refuse":
            assert said == [str(session.covered), "False", "False"]
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


def forbid_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LoweredModel) -> None:
        raise AssertionError("the graph was read")

    monkeypatch.setattr(LoweredModel, "_lower", refuse)


def test_damaged_files_are_made_anew(made: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = Session(made["qdq"], 1, kernels=True).run(None, feed(3))[0]
    for damage in (lambda b: b[:100], lambda b: b"", lambda b: b[:60] + bytes(8) + b[68:], lambda b: b[:-1]):
        for file in plans(cache):
            file.write_bytes(damage(file.read_bytes()))
        np.testing.assert_array_equal(Session(made["qdq"], 1, kernels=True).run(None, feed(3))[0], want)
    forbid_the_graph(monkeypatch)
    np.testing.assert_array_equal(Session(made["qdq"], 1, kernels=True).run(None, feed(3))[0], want)


def test_a_model_that_changed_is_another_model(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made["qdq"].read_bytes())
    Session(path, 1, kernels=True).run(None, feed(2))
    session = Session(path, 1, kernels=True)
    path.write_bytes(made["qdq-7bit"].read_bytes())
    session.run(None, feed(2))  # its plan is on disk
    with pytest.raises(graphopt.ModelError, match="has changed since the session was made"):
        session.run(None, feed(17))
    want = Session(made["qdq-7bit"], 1, kernels=True).run(None, feed(2))[0]
    np.testing.assert_array_equal(Session(path, 1, kernels=True).run(None, feed(2))[0], want)


def test_weights_in_files_of_their_own_are_always_read(made: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load(made["qdq"])
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=512)
    want = Session(made["qdq"], 1, kernels=True).run(None, feed(2))[0]
    before = plans(cache)
    first = Session(path, 1, kernels=True).run(None, feed(2))[0]
    np.testing.assert_array_equal(first, want)
    data = bytearray((tmp_path / "weights").read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    (tmp_path / "weights").write_bytes(data)
    assert not np.array_equal(Session(path, 1, kernels=True).run(None, feed(2))[0], first)
    assert {file.parent for file in plans(cache)} == {file.parent for file in before}


def test_options_tell_plans_apart(made: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = Session(made["qdq-7bit"], 1, kernels=True).run(None, feed(2))[0]
    folders = len({file.parent for file in plans(cache)})
    for small, level in ((True, None), (False, "portable"), (True, "portable")):
        if level is not None:
            monkeypatch.setenv("GRAPHOPT_ISA", level)
        session = Session(made["qdq-7bit"], 1, kernels=True, memory="small" if small else "fast")
        np.testing.assert_array_equal(session.run(None, feed(2))[0], want)
        folders += 1
        assert len({file.parent for file in plans(cache)}) == folders


def test_only_measurements_of_its_own_regions_change_a_model(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    first, other = Session(made["qdq"], 1, kernels=True), Session(made["dynamic"], 1, kernels=True)
    want = first.run(None, feed())[0]
    other.run(None, feed())
    own, foreign = (partition_key(session.greedy, "all") for session in (first, other))
    whole = partition_key(first.greedy, "whole")
    region_times(1).add({own: (1.0, 2.0)})
    np.testing.assert_array_equal(Session(made["qdq"], 1).run(None, feed())[0], want)
    region_times(1).add({foreign: (1.0, 3.0)})
    with monkeypatch.context() as patch:
        forbid_the_graph(patch)
        np.testing.assert_array_equal(Session(made["qdq"], 1).run(None, feed())[0], want)
    region_times(1).add({whole: (1.0, 3.0)})
    for graph in ("read", "not read"):
        with monkeypatch.context() as patch:
            if graph == "not read":
                forbid_the_graph(patch)
            banned = Session(made["qdq"], 1)
            assert not banned.regions and "measured slower" in str(banned.describe())
            np.testing.assert_array_equal(Session(made["qdq"], 1, kernels=True).run(None, feed())[0], want)
    region_times(1).add({whole: (1.0, 1.0)})
    forbid_the_graph(monkeypatch)
    np.testing.assert_array_equal(Session(made["qdq"], 1).run(None, feed())[0], want)


def test_whole_models_are_kept_too(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    want = Session(made["float"], 1).run(None, feed())[0]
    forbid_the_graph(monkeypatch)
    session = Session(made["float"].read_bytes(), 1)
    np.testing.assert_array_equal(session.run(None, feed())[0], want)
    assert str(session.describe()).count("onnxruntime") == 1


def test_the_least_used_models_are_forgotten(
    made: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Session(made["qdq"], 1, kernels=True).run(None, feed(2))
    monkeypatch.setattr(plan_cache, "_MOST", 1)
    Session(made["qoperator"], 1, kernels=True).run(None, feed(29))
    assert len({file.parent for file in plans(cache)}) == 1
    monkeypatch.setattr(plan_cache, "_LARGEST", 1)
    Session(made["qoperator"], 1, kernels=True).run(None, feed(30))
    assert len({file.parent for file in plans(cache)}) == 1


def test_sizes_of_other_models_are_read_once_for_many_bytes(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    read: list[Path] = []
    forget, tally = plan_cache._forget, tmp_path / "plans.tally"
    monkeypatch.setattr(plan_cache, "_forget", lambda own: (read.append(own), forget(own)))
    Session(made["qdq"], 1, kernels=False)
    assert len(read) == 1  # nothing was counted before
    Session(made["qoperator"], 1, kernels=False)
    assert len(read) == 1 and len({file.parent for file in plans(tmp_path)}) == 2
    tally.write_bytes(bytes(plan_cache._MOST // plan_cache._UNIT))
    Session(made["float"], 1, kernels=False)
    assert len(read) == 2 and len({file.parent for file in plans(tmp_path)}) == 3
    held, told = sum(file.stat().st_size for file in plans(tmp_path)), tally.stat().st_size * plan_cache._UNIT
    assert 0 < held <= told < held + plan_cache._UNIT


def test_a_hidden_address_is_seen() -> None:
    """An argument that is an address as a number keeps a plan off the disk."""
    kept = np.zeros(64, np.uint8)
    sizes = {"rows": 1, "x_stride": 64, "y_stride": 64, "count": 64}
    plans = []
    for x in (kept, int(kept.ctypes.data)):
        steps = [
            Step(COPY_ROWS, {"x": x, "y": Buffer("y"), **sizes}, 1),
            Step(COPY_ROWS, {"x": kept, "y": kept, **sizes}, 1),
        ]
        planned = tuple(ProgramStep(step, {"y": 0}, "") for step in steps)
        plans.append(Executable(Library([COPY_ROWS]), planned, (0,), 64, {}, (), (), 0))
    assert hidden_addresses(plans[0]) == [] and hidden_addresses(plans[1]) == ["copy_rows: x"]


def test_regions_are_digested_once(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new model's regions are digested once for the choice of a partition and for its reasons."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    region_times(1).add({partition_key(Session(made["qdq"], 1, kernels=True).greedy, "all"): (1.0, 2.0)})
    digested: list[object] = []
    digest = measured.region_digest
    for module in (measured, lowered_model):
        monkeypatch.setattr(module, "region_digest", lambda segment: digested.append(segment) or digest(segment))
    session = Session(made["qdq"], 1)
    assert len(session.regions) == len(digested) == 1
    assert session.greedy[0] == digest(session.regions[0].segment)
