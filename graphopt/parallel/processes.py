"""Worker processes: spawned, with one compute thread each, and all replaced when one dies.

This module does not import numpy: numpy reads the number of threads from the environment when it is first imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
"""Environment variables of libraries' thread counts; onnxruntime's are in each session's options."""
ATTEMPTS = 3
"""How often a task may kill its process before the task itself counts as faulty. A choice."""


class _OneThread(SpawnProcess):
    """A process in which libraries use one thread."""

    def start(self) -> None:
        with _one_thread():
            super().start()


class _Context(SpawnContext):
    Process = _OneThread


_starting = threading.Lock()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Set the environment of processes started within the block."""
    with _starting:
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class ProcessWorkers(Executor):
    """An executor of processes. If one dies, all are restarted, and only unfinished tasks run again."""

    def __init__(self, workers: int) -> None:
        self._max_workers = workers
        self._lock, self._closed = threading.RLock(), False
        self._pool = self._open()

    def _open(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._max_workers, mp_context=_Context())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a module's function in a process. BrokenProcessPool if it kills every process that runs it."""
        outer: Future[Any] = Future()
        self._start(outer, partial(fn, *args, **kwargs), ATTEMPTS)
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the processes down."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _start(self, outer: Future[Any], work: Callable[[], Any], left: int) -> None:
        with self._lock:
            pool = self._pool
            try:
                inner = pool.submit(work)
            except BrokenProcessPool:
                self._renew(pool)
                pool = self._pool
                inner = pool.submit(work)
        inner.add_done_callback(partial(self._ended, outer, work, pool, left))

    def _renew(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken and not self._closed:
                self._pool = self._open()
                broken.shutdown(wait=False)

    def _ended(
        self, outer: Future[Any], work: Callable[[], Any], pool: ProcessPoolExecutor, left: int, inner: Future[Any]
    ) -> None:
        error = None if inner.cancelled() else inner.exception()
        if isinstance(error, BrokenProcessPool) and left > 1 and not self._closed and not outer.cancelled():
            self._renew(pool)
            try:
                self._start(outer, work, left - 1)
            except RuntimeError as failure:  # closed meanwhile
                error = failure
            else:
                return
        if inner.cancelled():
            outer.cancel()
        if not outer.set_running_or_notify_cancel():
            return
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())
