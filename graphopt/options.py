"""The options of `optimize`, in groups that the command line, bisection and others share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Literal, cast, get_args

from .arguments import is_whole
from .errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from .calibration import CalibrationData, Preprocess, Tokenizer
    from .distillation import Distil
    from .measure import Metric
    from .passes.float16 import Float16
    from .passes.prune import Prune
    from .passes.quantize import Quantize
    from .pipeline import CheckPolicy, OnBlame, PassLike

Runtime = Literal["portable", "onnxruntime", "graphopt"]
TARGETS: tuple[str, ...] = get_args(Runtime)
CHECKS = ("end", "each", "off")


def runtime_named(name: str) -> Runtime:
    """The target of that name, in any case. OptionError for any other."""
    if not isinstance(name, str) or name.lower() not in TARGETS:
        raise OptionError(f"target {name!r} is not one of {', '.join(TARGETS)}{did_you_mean(str(name), TARGETS)}")
    return cast(Runtime, name.lower())


def check_named(name: str) -> CheckPolicy:
    """The check policy of that name, in any case. OptionError for any other."""
    if not isinstance(name, str) or name.lower() not in CHECKS:
        raise OptionError(f"check {name!r} is not one of {', '.join(CHECKS)}{did_you_mean(str(name), CHECKS)}")
    return cast("CheckPolicy", name.lower())


_MEANT: dict[str, tuple[str, str | None]] = {
    "static": ("static", None), "dynamic": ("dynamic", None), "weights": ("weights", None), "int8": ("static", None),
    "int4": ("weights", "int4"), "weight-only": ("weights", None),
}  # fmt: skip
"""(mode, weight_type) of each word for quantization."""
_NO_FLOAT16 = ("fp16", "float16", "half", "bf16", "bfloat16")


def mode_named(word: str) -> tuple[str, str | None]:
    """(mode, weight_type or None for the usual) of a word for quantization, in any case: "int8" is static, "int4" is
    weights alone. OptionError for any other.
    """
    meant = _MEANT.get(word.lower())
    if meant is not None:
        return meant
    if word.lower() in _NO_FLOAT16:
        raise OptionError(f"quantize: {word} is a precision, not a quantization: take precision= (--precision float16)")
    close = did_you_mean(word, _MEANT)
    raise OptionError(f"quantize: mode {word!r} is not one of static (int8), dynamic, weights, int4{close}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The runtime, sizes and opset of the result.

    runtime: "portable" (standard operators), "onnxruntime" (its CPU provider's too) or "graphopt" (for the Session:
    its kernels are then compiled and measured beside onnxruntime). input_shapes: sizes to fix, by input name; None or
    -1 leaves a size open. dims: the same by the size's name. opset: a later version of ONNX's operator set.
    """

    runtime: Runtime = "portable"
    input_shapes: Mapping[str, Sequence[int | str | None]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    opset: int | None = None

    def __post_init__(self) -> None:
        runtime_named(self.runtime)
        if not isinstance(self.dims, Mapping) or not all(map(is_whole, self.dims.values())):
            raise OptionError(f"dims are numbers by the names of sizes, as {{'batch': 1}}, got {self.dims!r}")
        if not isinstance(self.input_shapes, Mapping) or not all(map(_is_shape, self.input_shapes.values())):
            given = f"got {self.input_shapes!r}"
            raise OptionError(f"input_shapes are lists of sizes by the names of inputs, as {{'x': (1, None)}}, {given}")
        if self.opset is not None and not is_whole(self.opset):
            raise OptionError(f"opset is the number of a version of ONNX's operator set, got {self.opset!r}")


def _is_shape(value: object) -> bool:
    """A list of sizes, of names (a number in quotes is none) and of None."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return False
    return all(d is None or is_whole(d) or (isinstance(d, str) and not d.strip("-+. ").isdecimal()) for d in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which passes run. passes: an explicit schedule in place of the built-in one; add: passes beside that; skip:
    names to leave out.
    """

    passes: Sequence[PassLike] | None = None
    skip: Sequence[str] = ()
    add: Sequence[PassLike] = ()

    def __post_init__(self) -> None:
        for name, given in (("passes", self.passes or ()), ("skip", self.skip), ("add_passes", self.add)):
            if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
                raise OptionError(f"{name} is a list of passes or of their names, got {given!r}")
        if self.add and self.passes is not None:
            raise OptionError("add_passes goes with the built-in schedule: passes= names every pass itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """The lossy stages, and the data and metric that judge their result.

    quantize, prune, precision: the stages, None for none (float32). recover: training after pruning and quantization,
    None for none. calibration: data of the kind that the model will see; "synthetic" asks for made-up inputs.
    preprocess: how images of a folder become inputs, in words of `calibration.preprocess_named` or as its result, or
    the function that makes tokens of texts. metric: a function of a session, higher is better. max_drop: how far it may
    fall, as an absolute difference.
    """

    quantize: Quantize | None = None
    prune: Prune | None = None
    precision: Float16 | None = None
    recover: Distil | None = None
    calibration: CalibrationData = None
    preprocess: str | Preprocess | Tokenizer | None = None
    metric: Metric | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.metric is not None and not callable(self.metric):
            raise OptionError(f"metric is a function of a session, got {type(self.metric).__name__}")
        if self.precision is not None and self.quantize is not None and not self.precision.layers:
            raise OptionError("precision float16 is for models in float32: take quantize= or precision=, not both")
        if self.max_drop is None:
            return
        if self.metric is None:
            raise OptionError("max_drop= needs metric=")
        if not isinstance(self.max_drop, Real) or not float(self.max_drop) >= 0:
            raise OptionError(f"max_drop is a number from 0 on, got {self.max_drop!r}")

    @property
    def texts(self) -> int:
        """Number of texts that a language model generates itself: fewer where they only judge weights of 8 bits."""
        from .calibration.prompts import FEW_TEXTS, TEXTS

        asked = self.quantize
        is_wide = asked is not None and asked.mode == "weights" and asked.weight_bits == 8
        return FEW_TEXTS if is_wide and self.prune is None else TEXTS

    @property
    def is_wanted(self) -> bool:
        """Whether any lossy stage runs."""
        return any(stage is not None for stage in (self.quantize, self.prune, self.precision))

    @property
    def validates(self) -> bool:
        """The data are given for validation alone: no stage is to run."""
        from .calibration import is_synthetic

        return not self.is_wanted and not is_synthetic(self.calibration)

    def require_data(self) -> None:
        """OptionError for static quantization without data, whose activation ranges would come from noise, and for a
        recovery without data or without a stage to recover from.
        """
        if self.recover is not None and not self.is_wanted:
            raise OptionError("recover trains what pruning or quantization left: give prune= or quantize=, too")
        if self.recover is not None and self.calibration is None:
            raise OptionError("recover learns from data: give calibration= (--calibration samples.npz)")
        if self.calibration is None and self.quantize is not None and self.quantize.mode == "static":
            raise OptionError(
                "quantize static (int8) takes the ranges of activations from data: give calibration= (--calibration "
                'samples.npz), or "synthetic" in its place for made-up inputs and unknown accuracy; '
                "dynamic and weights need no data"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How the result of the exact passes is compared with the original.

    validate: False for no comparison. check: "end", "each" (after each pass) or "off". repros: a folder for small
    models that show why a rewrite was rolled back; on_blame: called for each rolled-back rewrite instead.
    """

    validate: bool = True
    check: CheckPolicy = "end"
    repros: str | os.PathLike[str] | None = None
    on_blame: OnBlame | None = None

    def __post_init__(self) -> None:
        check_named(self.check)
        if self.validate not in (True, False):
            raise OptionError(f"validate is True or False, got {self.validate!r}; which check runs is check=")

    @property
    def policy(self) -> CheckPolicy:
        """The check policy in force: "off" where `validate` is False."""
        return self.check if self.validate else "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where the result goes. path: a file, None for none. provenance: the file records each node's original nodes."""

    path: str | os.PathLike[str] | None = None
    provenance: bool = False

    def __post_init__(self) -> None:
        if self.path is not None and not isinstance(self.path, (str, os.PathLike)):
            raise OptionError(f"output is the path of a file, got {type(self.path).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All option groups. seed: of made-up inputs and of every random choice."""

    target: Target = field(default_factory=Target)
    schedule: Schedule = field(default_factory=Schedule)
    compression: Compression = field(default_factory=Compression)
    validation: Validation = field(default_factory=Validation)
    output: Output = field(default_factory=Output)
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_whole(self.seed) or self.seed < 0:
            raise OptionError(f"seed is a whole number from 0 on, got {self.seed!r}")


def as_quantize(value: str | Mapping[str, object] | Quantize | None) -> Quantize | None:
    """The options behind `quantize=`. OptionError."""
    if value is None:
        return None
    from .passes.quantize import Quantize, check_quantize

    if isinstance(value, str):
        mode, weight_type = mode_named(value)
        return Quantize(mode=mode) if weight_type is None else Quantize(mode=mode, weight_type=weight_type)
    return check_quantize(value)


def as_prune(value: float | Mapping[str, object] | Prune | None) -> Prune | None:
    """The options behind `prune=`. OptionError."""
    if value is None:
        return None
    from .passes.prune import check_prune

    return check_prune(value)


def as_precision(value: str | Mapping[str, object] | Float16 | None) -> Float16 | None:
    """The options behind `precision=`. OptionError."""
    if value is None:
        return None
    from .passes.float16 import check_precision

    return check_precision(value)


def as_recover(value: str | Mapping[str, object] | Distil | None) -> Distil | None:
    """The options behind `recover=`. OptionError."""
    if value is None:
        return None
    from .distillation import check_distil

    return check_distil(value)
