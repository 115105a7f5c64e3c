"""A team of persistent worker threads, which run programs together with the calling thread; started on demand."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from weakref import finalize

from ...kernels import Program


class Team:
    """`size` workers: the calling thread and size − 1 threads of the team. A forked child starts new ones.

    One program runs at a time. No worker waits for a thread that the scheduler delays: a late thread finds the program
    finished.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._busy = threading.Lock()
        self._queues: list[SimpleQueue[Program | None]] = []

    def _hire(self) -> None:
        for worker in range(1, self.size):
            queue: SimpleQueue[Program | None] = SimpleQueue()
            name = f"graphopt-{worker}"
            threading.Thread(target=_work, args=(worker, queue), name=name, daemon=True).start()
            self._queues.append(queue)
        finalize(self, _dismiss, self._queues)

    def acquire(self) -> bool:
        """Acquire the team without waiting; False if it is busy. `release` frees it."""
        if os.getpid() != self._pid:
            self._start()
        return self._busy.acquire(blocking=False)

    def release(self) -> None:
        """Free the team."""
        self._busy.release()

    def run(self, program: Program) -> None:
        """Run a program of `size` workers; only the holder of the team may call it."""
        if not self._queues and self.size > 1:
            self._hire()
        for queue in self._queues:
            if queue.empty():  # else its thread has not fetched the last program yet
                queue.put(program)
        program.run_worker(0)


def _work(worker: int, queue: SimpleQueue[Program | None]) -> None:
    while (program := queue.get()) is not None:
        program.run_worker(worker)
        del program


def _dismiss(queues: list[SimpleQueue[Program | None]]) -> None:
    for queue in queues:
        queue.put(None)
