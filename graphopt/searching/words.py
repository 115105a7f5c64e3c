"""The words of a search's arguments: budget, objectives, space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..compress.choices import FLOAT16
from ..errors import OptionError, did_you_mean

OBJECTIVES = ("latency", "quality", "size")
STATIC = "static int8"
PRECISIONS = (FLOAT16, STATIC, "dynamic", "weights8", "weights4")
"""Words for a layer's precision beside "float32", as in a recipe."""
CHANNELS, METHODS, RECOVERY = "channels", "calibration", "recovery"
SPACE = (*PRECISIONS, CHANNELS, METHODS)
"""The default space. Recovery by training must be requested by name: it takes minutes per candidate."""
WORDS = (*SPACE, RECOVERY)
RANKING = "ranking"
"""The recipe key for the ranking of channels, where some are removed."""
ROUNDING = "rounding"
"""The recipe key for weights rounded to the nearest, as in quick candidates until the end of a search."""
_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}  # in seconds
_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|trials?)?\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends: after `seconds`, or after a number of `trials`, however long they take."""

    seconds: float | None = None
    trials: int | None = None


def budget_named(given: str | float | Budget) -> Budget:
    """The budget of "10min", "90s", "1h", "20 trials" or a number of seconds. OptionError."""
    if isinstance(given, Budget):
        return given
    found = _BUDGET.fullmatch(str(given))
    if found is None or isinstance(given, bool) or float(found[1]) <= 0:
        raise OptionError(f"budget {given!r} is not a time such as 10min, 90s or 1h, nor a number such as 20 trials")
    unit = found[2] or "s"
    if unit.startswith("trial"):
        if not float(found[1]).is_integer():
            raise OptionError(f"budget {given!r}: trials are whole")
        return Budget(trials=int(float(found[1])))
    return Budget(seconds=float(found[1]) * _UNITS[unit])


def objectives_named(given: Sequence[str]) -> tuple[str, ...]:
    """The objectives, in our order. OptionError for unknown ones and for none."""
    asked = _words("objectives", given, OBJECTIVES)
    if "quality" not in asked or len(asked) < 2:
        raise OptionError("objectives: quality and at least one of latency and size make a front")
    return tuple(word for word in OBJECTIVES if word in asked)


def space_named(given: Sequence[str] | None) -> tuple[str, ...]:
    """The words of a space, in our order; the usual one for None. OptionError for unknown ones and for none."""
    if given is None:
        return SPACE
    asked = _words("space", given, WORDS)
    if not asked & {*PRECISIONS, CHANNELS}:
        raise OptionError(f"space: nothing to decide: give some of {', '.join((*PRECISIONS, CHANNELS))}")
    return tuple(word for word in WORDS if word in asked)


def _words(what: str, given: Sequence[str], known: Sequence[str]) -> set[str]:
    words = [given] if isinstance(given, str) else list(given)
    for word in words:
        if word not in known:
            raise OptionError(f"{what}: {word!r} is not one of {', '.join(known)}{did_you_mean(str(word), known)}")
    return set(words)
