"""Profiles of a session's regions: the seconds of each step, by the time-stamp counter around it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .compile.executable import Executable
from .execute.context import ExecutionContext
from .session import Session


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: the operation it serves, seconds (median over runs), multiply-accumulates."""

    region: int
    kernel: str
    operation: str
    seconds: float
    macs: int

    @property
    def rate(self) -> float:
        """GMAC/s; 0 for steps that multiply nothing."""
        return self.macs / self.seconds / 1e9 if self.seconds > 0 else 0.0


def profile(session: Session, feeds: Mapping[str, Any], runs: int = 20) -> list[StepTime]:
    """Times of the steps of all regions of the session, on one thread, for these feeds."""
    times: list[StepTime] = []
    for index, (region, arrays) in enumerate(session.region_inputs(feeds).items()):
        executable = region.executable(tuple(array.shape for array in arrays))
        if executable is not None and not executable.is_empty:
            times += _step_times(index, executable, arrays, runs)
    return times


def _step_times(index: int, executable: Executable, arrays: list[Any], runs: int) -> list[StepTime]:
    context = ExecutionContext(executable, 1, profile=True)
    context.load(arrays)
    context.program.run_worker(0)
    cycles, rates = [], []
    for _ in range(runs):
        start = time.perf_counter()
        context.program.run_worker(0)
        elapsed = time.perf_counter() - start
        stamps = np.diff(context.program.cycles)
        cycles.append(stamps)
        rates.append(elapsed / max(1, int(stamps.sum())))
    seconds = np.median(np.array(cycles), axis=0) * float(np.median(rates))
    return [
        StepTime(index, row.step.kernel.name, row.title, float(taken), row.step.macs)
        for row, taken in zip(executable.steps, seconds)
    ]
