"""The options of quantization, and their forms in Python and on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from typing import Any

from ...arguments import check_fields, is_number, is_whole, values_of
from ...compress.choices import QUANTIZED, check_choices
from ...errors import OptionError, did_you_mean
from ...ir import DType

MODES = ("static", "dynamic", "weights")
METHODS = ("minmax", "percentile", "entropy", "mse", "auto")
ACTIVATIONS = ("uint8", "int8", "uint4", "int4")
WEIGHTS = ("int8", "uint8", "int4", "int3", "int2")
FORMATS = ("qdq", "qoperator")
JUDGES = ("auto", "top1", "sqnr")
ROUNDINGS = ("refit", "learned")
INSIDE = " branch: "
"""Marks a layer in a branch: its name is the branch's name, this, then its own name."""


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return is_whole(value) and value >= 1


_FLAGS = (
    "per_channel", "reduce_range", "equalize", "correct_bias", "correct_means", "speed",
)  # fmt: skip
ALWAYS, MEASURED = "always", "measured"
_OPTIONAL = frozenset(("reduce_range", "block_size", "bits_per_weight", "max_kl", "samples", "cache", "executor"))
_EXPECTED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    *((name, _is_flag, "True or False") for name in _FLAGS),
    ("sensitivity", lambda v: _is_flag(v) or v == MEASURED, "True, False or 'measured'"),
    ("per_channel_activations", lambda v: _is_flag(v) or v == ALWAYS, "True, False or 'always'"),
    ("percentile", lambda v: is_number(v) and 50 < v <= 100, "above 50 and at most 100"),
    ("block_size", lambda v: _is_count(v) and 16 <= v <= 256 and not v & (v - 1), "a power of two from 16 to 256"),
    ("bits_per_weight", lambda v: is_number(v) and v > 0, "a number of bits above 0"),
    ("evaluations", _is_count, "a number from 1 on"),
    ("samples", _is_count, "a number from 1 on"),
    ("min_sqnr", is_number, "a number of dB"),
    ("max_kl", lambda v: is_number(v) and v > 0, "a number of nats above 0"),
    ("min_cosine", lambda v: is_number(v) and v <= 1, "a cosine of at most 1"),
    ("min_top1", lambda v: is_number(v) and v <= 1, "a share of at most 1"),
    ("cache", lambda v: isinstance(v, (str, os.PathLike)), "a path"),
    ("executor", lambda v: callable(getattr(v, "submit", None)), "an executor of concurrent.futures"),
)
"""(name, check, expected values) of each option, except those with a fixed set of words."""


@dataclass(frozen=True, slots=True)
class Quantize:
    """Options of `quantize=`.

    mode: "static" (activations and weights), "dynamic" (activations at run time) or "weights" (weights alone).
    per_channel: one scale for each output channel of a weight. activation_type, weight_type: the integers used. Of
    fewer than 8 bits are, in mode static, weights (int4, int3, int2) and what layers read (uint4, int4), first and last
    layers included; other operators read 8 bits. Weights are stored as INT4 from opset 21 on, and as INT2 from 25.
    calibrate_method: of a tensor's range; "auto" tries all methods and takes the one whose results are closest to the
    original's. percentile: the share of values kept by that method.
    reduce_range: True keeps weights to 7 bits, False never does, None decides for each weight group whether u8×s8
    pairs could overflow 16 bits on this target. nodes_to_exclude, op_types_to_quantize: names and operators.
    format: "qdq" or "qoperator". block_size: inputs that share a scale in products, a power of two from 16 to 256
    (the last may be partial), for mode "weights"; so is int4, which is stored packed, by default 32 a block, in
    products of language models that widen 64 for target "onnxruntime". So are int2, and int3 in codes of 4 bits (no
    smaller than int4; a table tied to a head uses all 4), for that target alone, whose own products read them.
    bits_per_weight: a budget in mode "weights": each layer is stored in 8 or 4 bits, or 2 for target "onnxruntime", in
    blocks of 32, 64 or 128 unless `block_size` says one, so that all together take at most so many bits a weight,
    scales and zero points included (4 bits in blocks of 32 take 5.1, of 128 take 4.3), where rounding harms the results
    least. It is obeyed, whatever accuracy says; tables without a head and layers of `layers` are apart.
    equalize, correct_bias: the optimisations of the integers: channels alike between layers, and means kept.
    rounding: False to the nearest; True by the covariance of each layer's inputs; "refit" (mode static; True means it
    below 8 bits) layer after layer, refitted to the inputs that the quantized layers before it yield; "learned" then
    block after block by gradients.
    correct_means: sequential bias correction, each layer on the integers before it, a session a layer.
    speed: leave layers float that do not gain; stored weights are for size, and are timed only for the report, and so
    are integers of fewer than 8 bits not timed at all.
    evaluations: the budget of metric evaluations. samples: the most samples read for calibration; None reads all.
    sensitivity: measure for the report the error that each layer causes alone, even if no layer need return to float: a
    session a layer; predict it by gradients, too, unless it is "measured" alone.
    per_channel_activations: where one scale a tensor is not good enough, activations that only convolutions read and
    write as codes get one a channel, if that is better (static, format "qdq", for onnxruntime), or "always"; it is
    folded into the weights beside.
    min_sqnr, min_top1: the floor on fidelity (dB, share) where no metric with a limit judges; −inf and 0 switch it off.
    15 dB is noise of 3 % of the signal's power; `python -m tests.bench.zoo_int8` prints both for trained models.
    max_kl: the floor for language models in modes "weights" and "dynamic", with judge "auto", in place of both: the
    mean KL divergence of the next token's distribution from the original's, in nats; by default 1 for weights, of which
    4 bits reach 0.1 to 0.2, and 0.05 in mode "dynamic", where layers that would miss it read stored weights. At 1 nat a
    text is as unlikely as if every token had e times as many rivals.
    min_cosine: beside min_sqnr, with judge "auto", for vectors of tokens: the mean cosine between the original's
    average over a text and the result's. 0.995 is an angle of 6 degrees. In mode "dynamic" layers that would miss it
    compute in float on weights of 8 bits, two of MiniLM's 36, for a tenth of the speed. A choice.
    judge: to which results min_top1 applies: "auto" to those that hold scores of classes, "top1" to every result [N, C]
    or [N, S, C], "sqnr" to none.
    layers: choices for single layers by their names, such as {"conv1": "static int8", "fc": "weights4", "up": "weights4
    block64", "conv2": "float32"} (`graphopt.compress.choices`): they are obeyed, whatever accuracy and speed say. Where
    every layer is named nothing is measured, and the operators between follow; else the others are decided as without.
    cache: a file with the observers of calibration, to resume after an interruption. executor: a `concurrent.futures`
    executor (threads share one session) that calibrates several samples at a time.
    """

    mode: str = "static"
    per_channel: bool = True
    activation_type: str = "uint8"
    weight_type: str = "int8"
    calibrate_method: str = "minmax"
    percentile: float = 99.99
    reduce_range: bool | None = None
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_quantize: tuple[str, ...] | None = None
    format: str = "qdq"
    block_size: int | None = None
    bits_per_weight: float | None = None
    equalize: bool = True
    correct_bias: bool = True
    correct_means: bool = False
    rounding: bool | str = True
    speed: bool = True
    evaluations: int = 64
    samples: int | None = None
    sensitivity: bool | str = False
    per_channel_activations: bool | str = True
    min_sqnr: float = 15.0
    min_top1: float = 0.9
    max_kl: float | None = None
    min_cosine: float = 0.995
    judge: str = "auto"
    layers: Mapping[str, str] = field(default_factory=dict)
    cache: str | os.PathLike[str] | None = None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("mode", MODES), ("calibrate_method", METHODS), ("activation_type", ACTIVATIONS), ("weight_type", WEIGHTS),
            ("format", FORMATS), ("judge", JUDGES),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                close = did_you_mean(str(given), choices)
                raise OptionError(f"quantize: {name} {given!r} is not one of {', '.join(choices)}{close}")
        if (self.mode, self.activation_type, self.weight_type) == ("static", "int8", "uint8"):
            raise OptionError(
                "quantize: no runtime multiplies activation_type int8 with weight_type uint8: take int8 for both"
            )
        self._check_widths()
        check_choices("quantize", self.layers)
        for name, fits, expected in _EXPECTED:
            value = getattr(self, name)
            if not (value is None and name in _OPTIONAL) and not fits(value):
                raise OptionError(f"quantize: {name} {value!r} is not {expected}")
        check_fields("quantize", self)
        for name in ("nodes_to_exclude", "op_types_to_quantize"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def _check_widths(self) -> None:
        """OptionError for fewer than 8 bits where unavailable; in mode static they turn timing off."""
        if not _is_flag(self.rounding) and self.rounding not in ROUNDINGS:
            raise OptionError(f"quantize: rounding {self.rounding!r} is not True, False, 'refit' or 'learned'")
        if self.rounding in ROUNDINGS and self.mode != "static":
            raise OptionError(f"quantize: rounding {self.rounding!r} is for mode static, whose inputs are quantized")
        if self.activation_bits < 8 and self.mode != "static":
            raise OptionError(f"quantize: activation_type {self.activation_type} is for mode static")
        if self.weight_bits < 8 and self.mode == "dynamic":
            raise OptionError(
                f"quantize: weight_type {self.weight_type} is for modes weights and static: in mode dynamic products "
                f"take 8 bits, and {self.weight_bits} would take as much room"
            )
        if self.bits_per_weight is not None and (self.mode, self.weight_type) != ("weights", "int8"):
            raise OptionError("quantize: bits_per_weight is for mode weights, and chooses what weight_type would say")
        if self.format == "qoperator" and self.activation_bits < 8:
            raise OptionError(f"quantize: activation_type {self.activation_type} is for format qdq")
        if self.mode == "static" and self.is_narrow:
            object.__setattr__(self, "speed", False)

    @property
    def kl_limit(self) -> float:
        """The largest allowed divergence of language models, in nats."""
        return self.max_kl if self.max_kl is not None else 0.05 if self.mode == "dynamic" else 1.0

    @property
    def activation_bits(self) -> int:
        """Bits of the activations that layers read."""
        return 4 if self.activation_type in ("uint4", "int4") else 8

    @property
    def weight_bits(self) -> int:
        """Bits of a weight's code."""
        return {"int4": 4, "int3": 3, "int2": 2}.get(self.weight_type, 8)

    @property
    def is_narrow(self) -> bool:
        """Whether weights or activations have fewer than 8 bits."""
        return min(self.activation_bits, self.weight_bits) < 8

    @property
    def signed(self) -> bool:
        """Whether codes of activations are signed, without a zero point."""
        return self.activation_type in ("int8", "int4")

    @property
    def has_narrow(self) -> bool:
        """Whether weights or activations have fewer than 8 bits, at least in single layers outside of branches."""
        chosen = (QUANTIZED.get(choice, ("", 8)) for name, choice in self.layers.items() if INSIDE not in name)
        return self.is_narrow or any(mode == self.mode and bits < 8 for mode, bits in chosen)

    @property
    def refits(self) -> bool:
        """Whether layers are refitted to their quantized inputs, one by one."""
        return self.mode == "static" and (self.rounding in ROUNDINGS or (self.rounding is True and self.has_narrow))

    @property
    def weight_dtype(self) -> DType | None:
        """The stored type of 8-bit codes; None for int8."""
        return DType.UINT8 if self.weight_type == "uint8" else None


def check_quantize(value: Any) -> Quantize:
    """Options from the value of `quantize=`: a mode, a dict of options, or the options. OptionError."""
    if isinstance(value, Quantize):
        return value
    if isinstance(value, str):
        return Quantize(mode=value)
    if isinstance(value, dict):
        unknown = set(value) - {field.name for field in fields(Quantize)}
        if unknown:
            raise OptionError(f"quantize: no option is named {', '.join(sorted(unknown))}")
        return Quantize(**value)
    raise OptionError(f"quantize: expected {', '.join(MODES)} or graphopt.Quantize(...), got {type(value).__name__}")


def from_words(mode: str, words: Sequence[str]) -> Quantize:
    """Options from words of a command line: KEY=VALUE, or KEY alone for true; commas part lists. OptionError."""
    return Quantize(mode=mode, **values_of(Quantize, "quantize", words, ("mode", "executor", "layers")))
