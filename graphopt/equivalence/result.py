"""The result of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from .metrics import sqnr_text


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output over all samples; the figures are those of the worst sample.

    `error` = max|a − b|, `allowed` the error that equality permits, `noise` the original's own spread, all three in the
    output's units; `sqnr` in dB, `cosine` and `top1` in 0..1 are the lowest of any sample (`top1` None without rows of
    classes).
    """

    name: str
    status: str
    reason: str
    error: float
    allowed: float
    noise: float
    sqnr: float
    cosine: float
    top1: float | None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values; infinities as None."""
        return {key: _plain(getattr(self, key)) for key in self.__slots__}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answer of `compare`.

    `status` is "equal", "different" or "unverified", with the `reason` in one line. `inner` are the intermediate values
    compared besides the outputs, differing ones listed in `inner_different`. `power` is the share of `perturbations`
    (1 % changes of single weights of the original) that this comparison would have noticed; None if it was not
    measured. `shapes` are the input shapes of each sample. `made_up`: the samples are synthetic. `hint`: an option that
    would make the answer more informative.
    """

    status: str
    reason: str
    outputs: tuple[OutputComparison, ...] = ()
    samples: int = 0
    shapes: tuple[dict[str, tuple[int, ...]], ...] = ()
    inner: int = 0
    inner_different: tuple[str, ...] = ()
    power: float | None = None
    perturbations: int = 0
    seconds: float = 0.0
    made_up: bool = False
    hint: str = ""
    is_power_least: bool = False

    def __bool__(self) -> bool:
        return self.status == "equal"

    @property
    def is_equal(self) -> bool:
        """Whether the two models were equal within tolerance on every sample."""
        return self.status == "equal"

    @property
    def worst_error(self) -> float:
        """The largest error of an output, as a share of the allowed error."""
        return max((o.error / o.allowed for o in self.outputs if o.allowed), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values, ready for JSON."""
        return {
            "status": self.status, "reason": self.reason, "samples": self.samples,
            "shapes": [{k: list(v) for k, v in s.items()} for s in self.shapes], "inner": self.inner,
            "inner_different": list(self.inner_different), "power": self.power,
            "is_power_least": self.is_power_least, "perturbations": self.perturbations,
            "seconds": self.seconds, "made_up": self.made_up, "hint": self.hint,
            "outputs": [o.to_dict() for o in self.outputs],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """The status and a row an output, for notebooks."""
        heads = "".join(f"<th>{text}</th>" for text in ("output", "", "error", "allowed", "SQNR", "cosine", "top-1"))
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in (
                out.name, out.status, f"{out.error:.3g}", f"{out.allowed:.3g}", sqnr_text(out.sqnr),
                f"{out.cosine:.6f}", "" if out.top1 is None else f"{out.top1:.1%}",
            )) + "</tr>"
            for out in self.outputs
        )  # fmt: skip
        status = f"<b>{escape(self.status)}</b> {escape(self.reason)}"
        return f"<div><p>{status} ({self.samples} samples)</p><table><tr>{heads}</tr>{rows}</table></div>"

    def __str__(self) -> str:
        lines = [self.status + (f": {self.reason}" if self.reason else "")]
        for out in self.outputs:
            figures = f"error {out.error:.3g} (allowed {out.allowed:.3g}, noise {out.noise:.3g})"
            figures += f", {sqnr_text(out.sqnr)}, cosine {out.cosine:.6f}"
            figures += f", top-1 {out.top1:.1%}" if out.top1 is not None else ""
            lines.append(f"  {out.name}: {out.status}, {figures}" + (f"; {out.reason}" if out.reason else ""))
        if self.samples:
            least = "at least " * self.is_power_least
            power = (
                "not measured"
                if self.power is None
                else f"{least}{self.power:.0%} of {self.perturbations} perturbations"
            )
            kind = "made-up samples" if self.made_up else "samples"
            lines.append(f"  {self.samples} {kind}, {self.inner} inner values compared, power: {power}")
        return "\n".join([*lines, f"  hint: {self.hint}"] if self.hint else lines)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
