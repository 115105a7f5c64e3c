"""Options of the conversion to half precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ...arguments import check_fields, values_of
from ...compress.choices import check_choices
from ...errors import OptionError, did_you_mean

WORDS = ("float16", "fp16", "half")
"""Accepted names of the format."""
_ELSEWHERE = ("bfloat16", "bf16", "float8", "fp8", "float64", "double")
"""Other formats that may be requested, for a better error message."""


@dataclass(frozen=True, slots=True)
class Float16:
    """Options of `precision=`.

    keep_io: inputs and results of the model stay float32, so that callers need not change. storage: only weights are
    stored in float16, all computing stays in float32: half the file at the speed of float32 wherever a runtime folds
    constants. min_sqnr: the floor on fidelity (dB) where no metric with a limit judges; rounding to 11 bits alone costs
    about 70 dB a tensor. keep: names of nodes that stay float32. layers: "float16" or any other choice
    (`graphopt.compress.choices`) by the names of layers. Where some are float16, those alone become it, unasked, and of
    the operators between, which hold no weights, those that save Casts; where none is, those named stay as they are and
    the others are decided as without. evaluations: the budget of metric evaluations.
    """

    keep_io: bool = True
    storage: bool = False
    min_sqnr: float = 45.0
    keep: tuple[str, ...] = ()
    layers: Mapping[str, str] = field(default_factory=dict)
    evaluations: int = 16

    def __post_init__(self) -> None:
        check_fields("precision", self)
        if isinstance(self.evaluations, bool) or not isinstance(self.evaluations, int) or self.evaluations < 1:
            raise OptionError(f"precision: evaluations is a number from 1 on, got {self.evaluations!r}")
        object.__setattr__(self, "keep", tuple(self.keep))
        check_choices("precision", self.layers)


def from_words(words: Sequence[str]) -> Float16:
    """Options from words of a command line: KEY=VALUE, or KEY alone for true; commas part lists. OptionError."""
    return Float16(**values_of(Float16, "precision", words, ("layers",)))


def check_precision(value: Any) -> Float16 | None:
    """Options from the value of `precision=`: "float16", a dict of options, or the options; None for float32 or None.

    OptionError for any other.
    """
    if value is None or isinstance(value, Float16):
        return value
    if isinstance(value, str):
        word = value.lower()
        if word in ("float32", "fp32"):
            return None
        if word in WORDS:
            return Float16()
        if word in _ELSEWHERE:
            raise OptionError(f"precision: graphopt does not convert to {value}, there are float32 and float16")
        raise OptionError(f"precision: {value!r} is not float32 or float16{did_you_mean(word, WORDS)}")
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - {field.name for field in fields(Float16)})
        if unknown:
            raise OptionError(f"precision: no option is named {', '.join(map(str, unknown))}")
        return Float16(**value)
    raise OptionError(f"precision: expected float16 or graphopt.Float16(...), got {type(value).__name__}")
