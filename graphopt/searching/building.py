"""Building of candidates: a recipe in plain data becomes a `graphopt.Recipe`, then a model, here or in a worker."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import onnx_io
from ..api import optimize_as
from ..compress.choices import FLOAT16, FLOAT32, QUANTIZED
from ..compress.report import StageReport
from ..distillation import Distil
from ..equivalence.feeds import Feeds
from ..errors import Declined, GraphoptError, one_line
from ..ir import Model
from ..options import Compression, Options, Runtime, Target, Validation
from ..parallel import content
from ..passes.float16 import Float16
from ..passes.prune import Prune
from ..passes.quantize import Quantize
from ..recipe import Recipe
from ..work import Exact, exact
from .point import Recipe as Plain
from .words import METHODS, PRECISIONS, RANKING, RECOVERY, ROUNDING

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource

BY_CHANNEL = "scales a channel"
"""The calibration with one range for each channel of an activation, where possible."""
CALIBRATIONS = ("minmax", "percentile", "mse", BY_CHANNEL)
"""The methods for activation ranges; the first is the default."""
RANKINGS = ("reconstruction", "hessian")
"""The rankings of a group's channels for removal: by the immediate error, and by the error left after the next layers
have adapted. The second is better by 1 to 6 dB on the Fashion models, and worse by 17 on rapidocr-cls, where the
removed channels hardly matter."""
_OPEN: dict[str, Any] = {"speed": False, "min_sqnr": -math.inf, "min_top1": 0.0, "max_kl": math.inf}
"""Options that disable the guards of quantization: every layer stays as placed."""
_QUICK: dict[str, Any] = {"rounding": False, "equalize": False, "correct_bias": False}
"""Options that build a candidate in a fifth of the time, for slow models."""
NEAREST = "rounded to the nearest"


@dataclass(frozen=True, slots=True)
class Built:
    """A built candidate. data: its file; ir: the same as IR, where built in this process. layers: the word of each
    layer. errors: of single layers, where requested. why: the reason of a failure, "" for a model."""

    data: bytes = b""
    ir: Model | None = field(default=None, repr=False)
    layers: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""


def recipe_of(
    plain: Plain, target: Runtime, seed: int, *, uniform: str = "", sensitivity: bool = False, guarded: bool = False
) -> Recipe:
    """The full recipe. uniform: one word for all layers instead of a word each. guarded: quantization's guards may
    change the placement of layers. sensitivity: measure the errors of single layers, without predictions, which no
    search reads."""
    layers, channels = dict(plain.get("layers", {})), dict(plain.get("channels", {}))
    words = {*layers.values(), uniform} - {FLOAT32, FLOAT16, ""}
    options = {} if guarded else dict(_OPEN)
    if plain.get(METHODS) == BY_CHANNEL:
        options["per_channel_activations"] = "always"
    elif METHODS in plain:
        options["calibrate_method"] = plain[METHODS]
    if ROUNDING in plain:
        options.update(_QUICK)
    mode = next((QUANTIZED[word][0] for word in PRECISIONS if word in words), None)
    weight_type = "int4" if mode == "weights" and "weights4" in words else "int8"
    half = uniform == FLOAT16 or FLOAT16 in layers.values()
    return Recipe(
        seed=seed, target=Target(runtime=target),
        quantize=None if mode is None else Quantize(
            mode, weight_type=weight_type, sensitivity="measured" if sensitivity else False, **options
        ),
        prune=Prune(ratio=0.0, importance=plain.get(RANKING, RANKINGS[1])) if channels else None,
        precision=Float16(min_sqnr=-math.inf) if half else None,
        recover=Distil() if RECOVERY in plain else None,
        layers={} if uniform else layers, channels=channels,
    )  # fmt: skip


@dataclass(slots=True)
class Builder:
    """Builds the models of recipes from one original and its samples; the exact passes run once."""

    model: ModelSource
    samples: Sequence[Feeds]
    _exact: Exact | None = field(init=False, default=None, repr=False)

    def build(self, recipe: Recipe, *, keep: bool = False) -> Built:
        """Build the model of a recipe. keep: keep its IR, too. A failure is a `Built` with `why`."""
        asked = self._asked()
        try:
            made, stages = self._made(recipe.options(asked))
        except (GraphoptError, Declined) as error:
            return Built(why=one_line(error))
        wants = (recipe.quantize, recipe.prune, recipe.precision)
        if any(want is not None for want in wants) and not any(stage.changed for stage in stages):
            return Built(why=one_line("; ".join(stage.summary for stage in stages)) or "nothing was changed")
        layers: dict[str, str] = {}
        errors: dict[str, float] = {}
        for stage in stages:
            layers.update(getattr(stage.settled, "layers", {}))
            for row in stage.layers:
                alone, name = getattr(row, "error_alone", None), getattr(row, "name", "")
                if alone is not None and math.isfinite(alone):
                    errors[name] = alone
        return Built(onnx_io.to_proto(made).SerializeToString(), made if keep else None, layers, errors)

    def on(self, samples: Sequence[Feeds], recipe: Recipe) -> Builder:
        """A builder on other samples that shares the exact passes. recipe: any with a lossy stage."""
        found = Builder(self.model, samples)
        options = recipe.options(found._asked())
        if self._exact is not None and options.compression.is_wanted:
            found._exact = self._exact.on(options)
        return found

    def base(self, recipe: Recipe) -> Model:
        """The result of the exact passes, whose layers recipes name. recipe: any with a lossy stage."""
        if self._exact is None:
            self._exact = exact(self.model, recipe.options(self._asked()))
        return self._exact.model

    def _asked(self) -> Options:
        return Options(compression=Compression(calibration=self.samples), validation=Validation(validate=False))

    def _made(self, options: Options) -> tuple[Model, tuple[StageReport, ...]]:
        if not options.compression.is_wanted:
            result = optimize_as(self.model, options)
            return result.ir, result.report.stages
        if self._exact is None:
            self._exact = exact(self.model, options)
        return self._exact.compressed(options)


@lru_cache(maxsize=1)
def _builder(digest: str) -> Builder:
    model, samples = pickle.loads(content(digest))
    return Builder(model, samples)


def build_sent(recipe: Recipe, digest: str) -> Built:
    """In a worker: build a recipe from the model and samples of a content digest."""
    return _builder(digest).build(recipe)
