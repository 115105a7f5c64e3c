"""Workers of any kind give the same bytes; one that dies loses its task alone; what is timed is timed alone."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import graphopt
from graphopt import cli
from graphopt.errors import InputError, OptionError
from graphopt.parallel import digest_of, executor_of, ordered
from graphopt.parallel.content import Store
from graphopt.parallel.processes import ProcessWorkers
from tests.parallel import work
from tests.recipe.nets import network, samples

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


class Counting(Executor):
    """An executor of processes that knows how many tasks run and how much content it sent."""

    def __init__(self, inner: Executor) -> None:
        self.inner, self._max_workers, self.running, self.sent, self.tasks = inner, 2, 0, [], 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.running, self.tasks = self.running + 1, self.tasks + 1
        self.sent += [digest for arg in args if isinstance(arg, dict) for digest in arg]
        future = self.inner.submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        self.running -= 1


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessWorkers]:
    with ProcessWorkers(2) as workers:
        yield workers


def test_content_goes_to_workers_that_lack_it(pool):
    data = os.urandom(1 << 20)
    counting = Counting(pool)
    calls = [((number, digest_of(data)), {digest_of(data): data}) for number in range(40)]
    assert list(ordered(counting, work.weighed, calls)) == [(number, 1 << 20) for number in range(40)]
    assert list(ordered(counting, work.weighed, calls)) == [(number, 1 << 20) for number in range(40)]
    assert len(counting.sent) >= 2 and counting.tasks == 80 + len(counting.sent) - 2  # two went along unasked


class InTurn(Executor):
    """Two workers, each with its own store, that take tasks as they come: one after the other, in a given order."""

    def __init__(self, turns: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._max_workers, self.turns = 2, iter(turns)
        self.stores, self.monkeypatch = {"a": Store(), "b": Store()}, monkeypatch

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        store, future = self.stores[next(self.turns, "a")], Future[Any]()
        with self.monkeypatch.context() as patch:
            patch.setattr(sys.modules["graphopt.parallel.ordered"], "STORE", store)
            patch.setattr(sys.modules["graphopt.parallel.content"], "STORE", store)
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize(
    ("turns", "sent"),
    [
        ("ababab", 2),  # one each
        ("aabbb", 3),  # the first worker took both: the second asks once
        ("aababb", 4),  # what the second asked for went to the first: it asks again
        ("aaaaaa", 2),  # nobody else asks
    ],
)
def test_content_is_sent_once_to_each_worker_that_asks(turns, sent, monkeypatch):
    counting = Counting(InTurn(turns, monkeypatch))
    calls = [((number, digest_of(b"abc")), {digest_of(b"abc"): b"abc"}) for number in range(20)]
    assert list(ordered(counting, work.weighed, calls)) == [(number, 3) for number in range(20)]
    assert len(counting.sent) == sent and counting.tasks == 20 + sent - 2


def test_threads_and_no_executor_share_our_content():
    calls = [((number, digest_of(b"abc")), {digest_of(b"abc"): b"abc"}) for number in range(3)]
    with ThreadPoolExecutor(2) as threads:
        assert list(ordered(threads, work.weighed, calls)) == list(ordered(None, work.weighed, calls))


def test_a_store_is_bounded():
    store = Store(held=10)
    store.add({"a": b"123456"})
    store.add({"b": b"1234"})
    assert store.get("a") == b"123456"
    store.add({"c": b"1"})
    assert (store.get("a"), store.get("b"), store.get("c")) == (b"123456", None, b"1")
    store.add({"d": bytes(99)})
    assert store.get("d") == bytes(99) and store.get("a") is None


def test_libraries_take_one_thread(pool):
    before = dict(os.environ)
    assert list(ordered(pool, work.environment, [((), {})])) == ["1"]
    assert dict(os.environ) == before


@posix
def test_a_killed_worker_loses_its_task_alone(pool, tmp_path):
    marker = str(tmp_path / "killed")
    calls = [((number, marker), {}) for number in range(12)]
    assert list(ordered(pool, work.killed_once, calls)) == list(range(12))
    assert Path(marker).exists()


@posix
def test_a_task_that_kills_every_worker_is_one_line(pool):
    with pytest.raises(InputError, match=r"\Aworkers: the executor broke down: .*\Z"):
        list(ordered(pool, work.killed, [((), {})]))
    assert list(ordered(pool, work.environment, [((), {})])) == ["1"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as theirs, pytest.raises(InputError, match="workers:"):
        list(ordered(theirs, work.killed, [((), {})]))


def test_nothing_runs_once_results_are_left(pool, tmp_path):
    results = ordered(pool, work.slow, (((str(tmp_path), number), {}) for number in range(40)))
    assert next(results) == 0
    results.close()
    assert not list(tmp_path.iterdir())


def test_what_a_task_raises_is_raised(pool):
    with pytest.raises(KeyError):
        list(ordered(pool, work.weighed, [((0, "no such content"), {})]))


QUANTIZE = {
    "mode": "static",
    "sensitivity": True,
    "calibrate_method": "auto",
    "speed": False,
    "min_sqnr": 45.5,
    "per_channel_activations": False,
}


def made(executor: Executor | None, **more: Any) -> tuple[bytes, str, list[Any]]:
    """The bytes, the recipe and the errors of layers of a result that needed trials."""
    result = graphopt.optimize(network(), quantize=QUANTIZE, calibration=samples(), executor=executor, **more)
    layers = result.report.stages[0].layers
    errors = [(layer.name, layer.error_alone, layer.objective_found) for layer in layers]
    return result.model.SerializeToString(deterministic=True), result.recipe.to_toml(), errors


@pytest.fixture(scope="module")
def alone() -> tuple[bytes, str, list[Any]]:
    found = made(None)
    assert all(error for _, error, _ in found[2]) and "float32" in found[1] and "static int8" in found[1]
    return found


def test_any_workers_give_the_same_bytes(alone, pool):
    counting = Counting(pool)
    with ThreadPoolExecutor(2) as threads:
        assert made(threads) == made(counting) == alone
    assert counting.tasks >= 15


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(count, alone):
    with executor_of(workers=count) as workers:
        assert made(workers) == alone


@posix
@pytest.mark.slow
def test_a_worker_killed_on_the_way_changes_nothing(alone):
    with ProcessWorkers(2) as workers:
        told: list[int] = []

        def kill(what: str, share: float | None) -> None:
            processes = list(workers._pool._processes or ())
            if what.startswith("round weights") and processes and not told:
                told.append(processes[0])
                os.kill(processes[0], signal.SIGKILL)

        assert made(workers, progress=kill) == alone and told


def test_nothing_runs_while_something_is_timed(pool, monkeypatch):
    from graphopt.passes.quantize import decide

    counting, seen = Counting(pool), []
    timed = decide.fastest

    def watched(*args: Any) -> Any:
        seen.append(counting.running)
        return timed(*args)

    monkeypatch.setattr(decide, "fastest", watched)
    quantize = {"mode": "static", "sensitivity": True}
    graphopt.optimize(network(), quantize=quantize, calibration=samples(), executor=counting)
    assert seen and not any(seen) and counting.tasks > 4


def test_the_command_takes_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    np.savez("c.npz", **samples())
    words = ["optimize", "m.onnx", "--quantize", "static", "--quantize-option", "speed=false", "--calibration", "c.npz"]
    for out, more in (("a.onnx", []), ("b.onnx", ["--workers", "2"])):
        outcome = CliRunner().invoke(cli.app, [*words, "-o", out, *more])
        assert outcome.exit_code == 0, outcome.output
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    for more, reason in (
        (["--workers", "0"], "workers: 0 is not a number from 1 on"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "workers and scheduler are two places to run"),
    ):
        with pytest.raises(OptionError, match=reason):
            cli.app([*words, *more, "-o", "c.onnx"], standalone_mode=False)
    assert not Path("c.onnx").exists()


def test_dask_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    told = pytest.raises(OptionError, match=r"\Ascheduler: .*pip install graphopt\[distributed\]\Z")
    with told, executor_of(scheduler="tcp://127.0.0.1:1"):
        pass


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch):
    pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    monkeypatch.setattr("graphopt.parallel.executors.SECONDS", "1s")
    for address in ("tcp://127.0.0.1:1", "nonsense://"):
        told = pytest.raises(OptionError, match=r"\Ascheduler '.*': no scheduler answers there: .*\Z")
        with told, executor_of(scheduler=address):
            pass


@contextmanager
def cluster() -> Iterator[Any]:
    """A scheduler of its own, with two worker processes."""
    distributed = pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1",
    ) as local:  # fmt: skip
        yield local


@posix
@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bytes_also_where_a_worker_dies(alone):
    with cluster() as local, executor_of(scheduler=local.scheduler_address) as executor:
        assert made(executor) == alone
        told: list[int] = []

        def kill(what: str, share: float | None) -> None:
            if what.startswith("round weights") and not told:
                told.append(next(iter(local.workers.values())).pid)
                os.kill(told[0], signal.SIGKILL)

        assert made(executor, progress=kill) == alone and told


def test_layers_travel_without_their_graph():
    from graphopt.compress.layers.linear import linear_of
    from graphopt.onnx_io import load

    node = next(iter(load(network()).graph))
    assert len(pickle.dumps(linear_of(node).alone)) < 2 * linear_of(node).weight.nbytes + 4096
