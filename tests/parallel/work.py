"""Functions that workers run: they must be importable there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from graphopt.parallel import content


def weighed(number: int, digest: str) -> tuple[int, int]:
    """The number, and the bytes of content."""
    return number, len(content(digest))


def environment() -> str | None:
    """How many threads BLAS takes."""
    return os.environ.get("OMP_NUM_THREADS")


def killed_once(number: int, marker: str) -> int:
    """Kill this process, unless the marker says that one was."""
    if number == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def slow(folder: str, number: int) -> int:
    """Leave a file in the folder while this runs."""
    file = Path(folder, str(number))
    file.touch()
    time.sleep(0.05)
    file.unlink()
    return number
