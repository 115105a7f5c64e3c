"""The executor of a command line: processes of this machine, or the workers of a dask scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from ..errors import OptionError, one_line
from .processes import ProcessWorkers

SECONDS = "10s"
"""The timeout of a connection to a scheduler. A choice."""
RETRIES = 3
"""How often dask retries a task whose worker died. A choice, equal to the attempts of our own processes."""


@contextmanager
def executor_of(workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor | None]:
    """An executor for the duration of the block; None where both arguments are None.

    workers: processes of this machine. scheduler: the address of a scheduler of dask.distributed, whose workers need
    graphopt, but no files of this machine. OptionError for both, and for a scheduler that does not answer.
    """
    if workers is not None and scheduler is not None:
        raise OptionError("workers and scheduler are two places to run: give one")
    if scheduler is not None:
        yield from _of_scheduler(scheduler)
    elif workers is not None:
        if workers < 1:
            raise OptionError(f"workers: {workers} is not a number from 1 on")
        with ProcessWorkers(workers) as executor:
            yield executor
    else:
        yield None


def _of_scheduler(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError("scheduler: it takes the extra `distributed`: pip install graphopt[distributed]") from error
    try:
        client = Client(address, timeout=SECONDS, set_as_default=False)
    except Exception as error:  # dask raises various classes for an invalid address, or without an answer
        raise OptionError(f"scheduler {address!r}: no scheduler answers there: {one_line(error)}") from error
    with client:
        yield client.get_executor(pure=False, retries=RETRIES)
