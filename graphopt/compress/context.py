"""The context of lossy stages: data, judge, target, executor."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from ..calibration import Calibration
from ..measure import Quality
from ..pipeline import Progress


@dataclass(frozen=True, slots=True)
class StageContext:
    """calibration: feeds to read as often as needed. quality: judges candidates against the original. max_drop: how far
    the metric may fall; None: the stage applies its own floor. target: the runtime of the result. executor: runs
    independent tasks, if given; `candidates_executor`: the same for candidates, which run on workers in onnxruntime
    alone. is_timed: whether reports include times; False where the caller measures results itself.
    """

    calibration: Calibration
    quality: Quality
    max_drop: float | None
    target: str
    seed: int
    progress: Progress | None = None
    executor: Executor | None = None
    is_timed: bool = True

    @property
    def candidates_executor(self) -> Executor | None:
        """The executor, unless candidates run in graphopt's Session."""
        return None if self.target == "graphopt" else self.executor

    def tell(self, what: str, share: float) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(what, share)
