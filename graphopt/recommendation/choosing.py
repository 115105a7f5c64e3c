"""The choice among measured modes: the least lossy mode that no other clearly beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..result import Result
from .data import CLEAR, Mode

FASTER, SMALLER, SLOWER = 1.1, 1.25, 0.95
"""Thresholds for a lossier mode to replace a less lossy one: FASTER times as fast, or SMALLER times smaller at no less
than SLOWER of its speed. `graphopt bench` can distinguish a tenth from noise; savings below a quarter of the bytes
change no download and no page of flash. Judgments, not measurements: `Mode.why` states the reason for each mode."""
PRUNED = 0.3
"""Share of channels that "prune + static" prunes: `python -m tests.bench.prune_fashion` keeps accuracy up to about
it."""


@dataclass(frozen=True, slots=True)
class Way:
    """A selectable mode: options of `optimize`, and whether they need data."""

    name: str
    quantize: str | None = None
    prune: float | None = None
    needs_data: bool = False
    precision: str | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether the mode may change results beyond rounding."""
        return self.quantize is not None or self.precision is not None

    @property
    def options(self) -> str:
        """The options of the command line."""
        prune = "" if self.prune is None else f" --prune {self.prune:g}"
        precision = "" if self.precision is None else f" --precision {self.precision}"
        return prune + precision + ("" if self.quantize is None else f" --quantize {self.quantize}")


WAYS = (
    Way("exact"), Way("float16", precision="float16"), Way("weights", "weights"), Way("dynamic", "dynamic"),
    Way("static", "static", needs_data=True), Way("prune + static", "static", PRUNED, needs_data=True),
)  # fmt: skip
"""All modes, from the least lossy to the most: each must clearly beat the modes before it."""


@dataclass(slots=True)
class Made:
    """A mode with its resulting model; is_fit: quality suffices."""

    way: Way
    mode: Mode
    result: Result
    is_fit: bool = True


def is_open(challenger: Made, holder: Made) -> bool:
    """Whether the interval of the two modes' speed ratio contains a threshold that would decide between them."""
    if WAYS.index(challenger.way) <= WAYS.index(holder.way):
        return False
    ratio, low, high = _ratio(challenger.mode, holder.mode)
    is_smaller = _shrinks(challenger.mode, holder.mode)
    return low < FASTER < high or (is_smaller and low < SLOWER < high and ratio < FASTER)


def choose(made: Sequence[Made], rows: dict[str, Mode]) -> Made:
    """The chosen mode: from the least lossy on, a mode replaces the held one that it clearly beats. Sets `why` in
    `rows`."""
    held = made[0]
    reason = "the same results, validated; no lossier mode brings enough to be worth its loss"
    for one in made[1:]:
        if not one.is_fit:
            continue
        ratio, low, high = _ratio(one.mode, held.mode)
        shrinks = _shrinks(one.mode, held.mode)
        times = (held.mode.file_bytes or 1) / (one.mode.file_bytes or 1)
        gain = f"{ratio:.2f} × as fast and {times:.2f} × smaller than {held.way.name}"
        is_faster = low >= FASTER or (low < FASTER < high and ratio >= FASTER and shrinks)
        if is_faster or (shrinks and low >= SLOWER):
            rows[held.way.name] = replace(rows[held.way.name], why=f"{one.way.name} is {gain}")
            held, reason = one, f"{gain}, within the allowed loss"
            continue
        unclear = "" if high < FASTER or shrinks else f", speed not clear within ± {high / ratio - 1:.0%}"
        rows[one.way.name] = replace(rows[one.way.name], why=f"only {gain}{unclear}")
    if held.mode.speed is None and not held.way.is_lossy:
        reason = "the same results, validated; speed is not known"
    chosen = replace(rows[held.way.name], is_chosen=True, why=reason)
    rows[held.way.name] = chosen
    return held


def _ratio(challenger: Mode, holder: Mode) -> tuple[float, float, float]:
    """The challenger's speed over the holder's, with its 95 % interval; 1, 0 and infinity where one was not timed."""
    if challenger.speed is None or holder.speed is None:
        return 1.0, 0.0, float("inf")
    ratio, error = challenger.speed / holder.speed, (challenger.error**2 + holder.error**2) ** 0.5
    return ratio, ratio * (1 - CLEAR * error), ratio * (1 + CLEAR * error)


def _shrinks(challenger: Mode, holder: Mode) -> bool:
    return (challenger.file_bytes or 1) * SMALLER <= (holder.file_bytes or 0)
