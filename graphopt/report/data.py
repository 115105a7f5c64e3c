"""The data of a report, without its presentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..compress.report import StageReport
from ..measure import Figures
from ..pipeline import Effect, RolledBack
from .latency import Latency

if TYPE_CHECKING:
    from ..equivalence import Comparison
    from ..measure import Fidelity
    from ..provenance import Trail


def summaries(stages: Sequence[StageReport]) -> str:
    """The stages' summaries, as they end the reason of a report."""
    return "; ".join(f"{stage.name}: {stage.summary}" for stage in stages)


@dataclass(frozen=True, slots=True)
class ReportData:
    """Figures before and after, the effect of each pass, the validation of the result, the refused rewrites.

    status: "equal", "unverified" (the model cannot be run or its results are noise), "not checked", "original" when the
    model was returned unchanged, or "lossy" when a stage such as pruning or quantization changed results; then `reason`
    gives the result of the exact passes and the cost of each stage. stages: a report of each, in order. metric: the
    caller's, of the original and of the result, where a lossy stage was judged by one; metric_name: of its function;
    metric_samples: rows run per evaluation, 0 where unknown. fidelity: of a lossy result
    to the original without a metric, over `fidelity_samples` of the caller's data; None on made-up inputs.
    validation: the status of the exact passes, where `status` is "lossy". latency: before and after, where measured.
    synthetic: lossy stages read made-up inputs, on which no accuracy is measured. banner: the warning at the top, where
    numbers in the result come from such inputs; "" for none.
    """

    before: Figures
    after: Figures
    effects: tuple[Effect, ...]
    rolled_back: tuple[RolledBack, ...]
    status: str
    reason: str
    comparison: Comparison | None
    notes: tuple[str, ...]
    seconds: float
    seconds_checking: float
    target: str
    seed: int
    stages: tuple[StageReport, ...] = ()
    metric: tuple[float, float] | None = None
    metric_name: str = "metric"
    metric_samples: int = 0
    fidelity: Fidelity | None = None
    fidelity_samples: int = 0
    validation: str = ""
    latency: Latency | None = None
    synthetic: bool = False
    banner: str = ""
    trail: Trail | None = field(default=None, repr=False, compare=False)

    @property
    def is_lossy(self) -> bool:
        """Whether a stage changed results beyond rounding."""
        return any(stage.changed for stage in self.stages)

    @property
    def is_unverified(self) -> bool:
        """Whether the exact passes' result, the input of lossy stages, could not be compared with the original."""
        return self.status == "unverified" or (self.comparison is not None and self.comparison.status == "unverified")

    @property
    def reason_alone(self) -> str:
        """The reason without the stages' summaries, for texts in which each stage has its own line."""
        return self.reason.removesuffix(f"; {summaries(self.stages)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "banner": self.banner, "synthetic": self.synthetic,
            "before": self.before.to_dict(), "after": self.after.to_dict(),
            "effects": [asdict(effect) for effect in self.effects],
            "rolled_back": [item.to_dict() for item in self.rolled_back],
            "status": self.status, "reason": self.reason, "unverified": self.is_unverified,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "notes": list(self.notes), "seconds": self.seconds, "seconds_checking": self.seconds_checking,
            "target": self.target, "seed": self.seed, "metric": None if self.metric is None else list(self.metric),
            "metric_name": self.metric_name, "metric_samples": self.metric_samples,
            "fidelity": None if self.fidelity is None else self.fidelity.to_dict(),
            "fidelity_samples": self.fidelity_samples, "validation": self.validation or self.status,
            "latency": None if self.latency is None else self.latency.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
        }  # fmt: skip

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
