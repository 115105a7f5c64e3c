"""The result of distillation: the trained student, and a report of its errors on held-out samples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import check_arguments
from ..ir import Model
from ..measure import Fidelity
from ..onnx_io import save, to_proto

if TYPE_CHECKING:
    import onnx

    from ..runtime import Session


@dataclass(frozen=True, slots=True)
class DistilReport:
    """The report of a run.

    error_before, error_after: the held-out loss of the given and of the returned student. fidelity_before,
    fidelity_after: to the teacher on the held-out samples; None without a teacher. samples, held_out: their numbers.
    steps: done; best_step: the step of the returned weights, 0 for the student's own. learning_rate: the peak. matched:
    the names of matched values, labels as `<name>.labelled`. stopped: why training ended early, "" where it did not.
    history: (step, training loss, held-out error).
    """

    error_before: float
    error_after: float
    fidelity_before: Fidelity | None
    fidelity_after: Fidelity | None
    samples: int
    held_out: int
    steps: int
    best_step: int
    learning_rate: float
    matched: tuple[str, ...]
    stopped: str
    history: tuple[tuple[int, float, float], ...]
    seconds: float

    @property
    def improved(self) -> bool:
        """Whether weights changed: only if the held-out error fell."""
        return self.best_step > 0

    @property
    def gained(self) -> str:
        """The gain in one line."""
        judged = f"on {self.held_out} samples held out"
        if not self.improved:
            why = f": {self.stopped}" if self.stopped else ""
            return f"the error {judged} did not fall in {self.steps} steps, weights stay as they were{why}"
        parts = [f"error {self.error_before:.4g} → {self.error_after:.4g} {judged}"]
        before, after = self.fidelity_before, self.fidelity_after
        if before is not None and after is not None:
            if math.isfinite(before.sqnr_db) and math.isfinite(after.sqnr_db):
                parts.append(f"{before.sqnr_db:.1f} → {after.sqnr_db:.1f} dB")
            if before.top1 is not None and after.top1 is not None:
                parts.append(f"top-1 agreement {before.top1:.1%} → {after.top1:.1%}")
        return ", ".join(
            [*parts, f"after {self.best_step} of {self.steps} steps", *([self.stopped] * bool(self.stopped))]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        for name in ("fidelity_before", "fidelity_after"):
            fidelity = getattr(self, name)
            plain[name] = None if fidelity is None else fidelity.to_dict()
        return {"improved": self.improved, **plain}

    def __str__(self) -> str:
        return self.gained


@dataclass(frozen=True, slots=True)
class Distilled:
    """A trained student, as IR and as ONNX, and the report. Only the trained weights differ from the given student.

    is_external: the student's weights lay beside its file.
    """

    ir: Model
    report: DistilReport
    is_external: bool = False

    @property
    def model(self) -> onnx.ModelProto:
        """The student as ONNX."""
        return to_proto(self.ir)

    def save(self, path: str | Path, *, external: bool | None = None) -> None:
        """Write the student, its weights beside it where the student's were, or `external` asks for it. OutputError."""
        check_arguments(Distilled.save, locals())
        save(self.ir, path, external=True if external is None and self.is_external else external)

    def session(self, threads: int | None = None) -> Session:
        """A `graphopt.Session` on the student."""
        from ..runtime import session_of

        return session_of(self.ir, threads)
