"""Progress of a command: a bar in a terminal, plain lines elsewhere, nothing for a quiet command."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .console import err, manner

AFTER = 2.0
"""Seconds before the first plain line: a shorter command prints none."""
AGAIN = 30.0
"""Seconds after which a line is repeated without news: the command still runs. Both are choices."""
INDENT = "  "
"""Indentation of each plain line; errors and notes have none."""

Tell = Callable[[str, "float | None"], None]
"""Called with the current step and the fraction done, None where unknown."""


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """Show the progress of a command on stderr; yields the callback that reports it."""
    if manner.quiet:
        yield lambda step, share: None
    elif err.is_terminal:
        with _bar(what) as tell:
            yield tell
    else:
        lines = _Lines(what)
        try:
            yield lines
        finally:
            lines.close()


@contextmanager
def _bar(what: str) -> Iterator[Tell]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(what, total=None)

        def tell(step: str, share: float | None) -> None:
            bar.update(task, completed=share or 0.0, total=None if share is None else 1.0, description=step)

        yield tell


class _Lines:
    """Prints a line once a command has run for `AFTER` seconds, and again at news."""

    def __init__(self, what: str) -> None:
        self.what, self.start = what, time.monotonic()
        self.step = ""
        self.share: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="graphopt-progress", daemon=True)
        self._thread.start()

    def __call__(self, step: str, share: float | None) -> None:
        self.step, self.share = step, share

    def close(self) -> None:
        """Print no more."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        shown, last = "", self.start
        while not self._closed.wait(AFTER):
            words = ", ".join(part for part in (self.step, "" if self.share is None else f"{self.share:.0%}") if part)
            text, now = f"{self.what}: {words}" if words else self.what, time.monotonic()
            if text != shown or now - last >= AGAIN:
                err.print(f"{INDENT}{text} ({now - self.start:.0f} s)", markup=False, highlight=False, soft_wrap=True)
                shown, last = text, now
