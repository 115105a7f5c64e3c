"""graphopt in a process that lives long: threads at once, many sessions, call after call; nothing stays behind."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.ir import Graph, Node
from graphopt.pipeline import current
from tests.equivalence.nets import cnn, f32, model, node
from tests.generators import chain
from tests.quantize.nets import convnet, images

OPTIONS = {"speed": False, "min_sqnr": -np.inf, "min_top1": 0}


@pytest.fixture(autouse=True)
def own_scratch(tmp_path, monkeypatch):
    """Temporary files go to a folder of this test: other processes have theirs beside it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def written(source, **options) -> bytes:
    return graphopt.optimize(source, **options).model.SerializeToString(deterministic=True)


def quantized() -> onnx.ModelProto:
    return graphopt.optimize(convnet(), quantize={"mode": "static", **OPTIONS}, calibration=images(4)).model


def left_behind() -> dict[str, object]:
    """What a call could leave in the process: settings, threads, files, objects."""
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    scratch = sorted(os.listdir(tempfile.gettempdir()))
    kinds = Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in (Graph, Node))
    return {
        "collector": gc.isenabled(), "threads": threading.active_count(), "descriptors": descriptors,
        "scratch": scratch, "schedule": [item.name for item in current().schedule()],
        "graphs": kinds["Graph"], "nodes": kinds["Node"],
    }  # fmt: skip


JOBS = {
    "cnn": lambda: written(cnn()),
    "chain": lambda: written(chain(60)),
    "static": lambda: written(convnet(), quantize={"mode": "static", **OPTIONS}, calibration=images(4)),
    "dynamic": lambda: written(convnet(seed=1), quantize={"mode": "dynamic", **OPTIONS}),
}


def test_two_threads_optimise_at_once_as_one_after_the_other():
    alone = {name: job() for name, job in JOBS.items()}
    before, start = left_behind(), threading.Barrier(2)

    def work(names):
        start.wait(timeout=600)
        return {name: JOBS[name]() for name in names}

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, [("cnn", "static"), ("dynamic", "chain")])
    assert {**first, **second} == alone
    after = left_behind()
    assert {k: after[k] for k in ("collector", "schedule", "graphs", "nodes")} == {
        k: before[k] for k in ("collector", "schedule", "graphs", "nodes")
    }


def test_a_thread_whose_run_fails_leaves_the_other_alone():
    """Both pause the collector of the process: whoever comes last starts it again."""
    start = threading.Barrier(2)

    def fail():
        start.wait(timeout=600)
        with pytest.raises(graphopt.ModelError):
            graphopt.optimize(b"no model")
        return b""

    def succeed():
        start.wait(timeout=600)
        return JOBS["cnn"]()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(fail), pool.submit(succeed)]
        assert [future.result(timeout=600) for future in futures][1] == JOBS["cnn"]()
    assert gc.isenabled()


def hundred_sessions(count: int) -> None:
    source, feed = quantized(), images(1)[0]
    expected = graphopt.Session(source, threads=1, kernels=True).run(None, feed)[0]
    before = left_behind()
    sessions = [graphopt.Session(source, threads=1, kernels=True) for _ in range(count)]
    assert all(session.regions for session in sessions)
    results = [session.run(None, feed)[0] for session in sessions]
    assert all(np.array_equal(result, expected) for result in results) and len(results) == count
    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(lambda session: session.run(None, feed)[0], sessions))
    assert all(np.array_equal(result, expected) for result in shared)
    del sessions, results, shared
    after = left_behind()
    for what in ("collector", "threads", "descriptors", "scratch", "schedule"):
        assert after[what] == before[what], what


def test_sessions_side_by_side_leave_nothing():
    hundred_sessions(12)


@pytest.mark.slow
def test_a_hundred_sessions_leave_nothing():
    hundred_sessions(100)


def resident() -> int:
    """Bytes that the process holds, without those that its heap keeps for later where glibc can be asked for them."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def served(turns: int, warm: int, limit: int) -> None:
    """Requests one after the other, as a server would get them: good ones, bad ones, several kinds."""
    wide = model(
        [node("MatMul", "x w", "h"), node("Identity", "h", "i"), node("Relu", "i", "y")],
        [("x", 1, ["N", 1024])], [("y", 1, ["N", 1024])], {"w": f32(1024, 1024)},
    ).SerializeToString()  # fmt: skip
    first = None
    for turn in range(turns):
        result = graphopt.optimize(wide)
        made = result.model.SerializeToString(deterministic=True)
        assert first is None or made == first
        first = made
        with pytest.raises(graphopt.ModelError):
            graphopt.optimize(wide[: len(wide) // 2])
        graphopt.optimize(convnet(), quantize={"mode": "dynamic", **OPTIONS})
        del result
        if turn == warm:
            before, memory = left_behind(), resident() if Path("/proc/self/statm").exists() else 0
    after = left_behind()
    assert after == before
    if memory:
        assert resident() - memory < limit, f"{(resident() - memory) >> 20} MB in {turns - warm} turns"


def test_call_after_call_leaves_nothing():
    """4 MB of weights a call: ten calls that kept them would show."""
    served(turns=14, warm=3, limit=24 << 20)


@pytest.mark.slow
def test_a_server_loop_leaves_nothing():
    served(turns=100, warm=20, limit=24 << 20)
