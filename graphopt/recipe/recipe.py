"""A recipe: the options of a run, the choice for each layer, and the environment of the run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import check_arguments, check_fields
from ..calibration.source import SYNTHETIC
from ..compress.choices import FLOAT16, QUANTIZED, STORED16, check_choices
from ..errors import InputError, ModelError, OptionError
from ..machine.files import check_target, replace_file, reported
from ..options import Compression, Options, Schedule, Target
from .digests import PREFIX
from .machine import profile, versions
from .tables import read_tables, tables_of
from .toml import TOMLDecodeError, parsed, written

if TYPE_CHECKING:
    from ..distillation import Distil
    from ..passes.float16 import Float16
    from ..passes.prune import Prune
    from ..passes.quantize import Quantize

_HEADER = (
    "# `graphopt optimize MODEL --recipe FILE` makes this result again; change [layers] and [channels] at will.\n\n"
)


@dataclass(frozen=True, slots=True)
class MadeWith:
    """The environment of a run: library versions, and the machine (`cpu`, `instructions`, `cores`)."""

    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=profile)

    def differences(self) -> list[str]:
        """How the present environment differs, in words."""
        here = MadeWith()
        return [
            f"{name} {theirs} there, {ours} here"
            for known, present in ((self.versions, here.versions), (self.machine, here.machine))
            for name, theirs in known.items()
            if (ours := present.get(name)) != theirs
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All decisions behind a result.

    layers: a choice for each layer by its name (`graphopt.compress.choices`): "static int8", "dynamic", "weights8",
    "weights4", "float16", "float32" … channels: the number of channels kept per layer, by its name; a list has one
    number for each step of pruning. Both are binding; where they cover every layer and group, no decision needs a
    measurement. The other options are those of `optimize`. model, data: digests of the model and of the calibration
    data, "" to accept any; data is "synthetic" for made-up inputs. made_with: None for a recipe that was written by
    hand.
    """

    seed: int = 0
    target: Target = field(default_factory=Target)
    schedule: Schedule = field(default_factory=Schedule)
    quantize: Quantize | None = None
    prune: Prune | None = None
    precision: Float16 | None = None
    recover: Distil | None = None
    preprocess: str | None = None
    layers: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    made_with: MadeWith | None = None

    def __post_init__(self) -> None:
        check_fields("recipe", self)
        check_choices("recipe", self.layers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """The recipe in a file. InputError where it cannot be read, OptionError for an unknown key or invalid value."""
        check_arguments(Recipe.load, locals())
        name = os.fspath(path)
        try:
            tables = parsed(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InputError(f"recipe {name!r} cannot be read: {error.strerror or error}") from error
        except (UnicodeDecodeError, TOMLDecodeError) as error:
            raise InputError(f"recipe {name!r} is not TOML: {error}") from error
        given = read_tables(tables, name)
        made = MadeWith(given.pop("versions"), given.pop("machine"))
        return cls(**given, made_with=made if made.versions or made.machine else None)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as TOML. OutputError; OptionError for an option that no file can hold, such as a pass object
        without a name."""
        check_arguments(Recipe.save, locals())
        check_target(path)
        text = self.to_toml().encode()
        with reported(os.fspath(path)):
            replace_file(os.fspath(path), lambda file: file.write(text))

    def to_toml(self) -> str:
        """The recipe as TOML text. OptionError for an option that no file can hold."""
        return _HEADER + written(tables_of({one.name: getattr(self, one.name) for one in fields(self)}))

    def options(self, given: Options | None = None) -> Options:
        """The options of `optimize` that reproduce the result; `given` adds options outside a recipe: data, metric,
        validation and output. OptionError for options that the recipe sets already, and for missing data.
        """
        check_arguments(Recipe.options, locals())
        given = given or Options()
        self._check_unsaid(given)
        asked = given.compression
        calibration = asked.calibration
        if calibration is None and self.data == SYNTHETIC:
            calibration = SYNTHETIC
        if calibration is None and self.data:
            raise OptionError("recipe: the result was made from calibration data: give calibration= (--calibration)")
        compression = Compression(
            quantize=self._quantize(),
            prune=self._prune(), precision=self._precision(),
            recover=self.recover, calibration=calibration,
            preprocess=self.preprocess if asked.preprocess is None else asked.preprocess,
            metric=asked.metric, max_drop=asked.max_drop,
        )  # fmt: skip
        return replace(given, target=self.target, schedule=self.schedule, compression=compression, seed=self.seed)

    def _quantize(self) -> Quantize | None:
        """Quantization by the layers' choices; without a table [quantize], of these layers alone, by default
        options."""
        from ..passes.quantize import Quantize
        from ..passes.quantize.candidates.units import BETWEEN

        if self.quantize is not None:
            return replace(self.quantize, layers=self.layers)
        modes = [QUANTIZED[choice][0] for choice in self.layers.values() if choice in QUANTIZED]
        if not modes:
            return None
        return Quantize(modes[0], op_types_to_quantize=tuple(sorted(BETWEEN)), layers=self.layers)

    def _prune(self) -> Prune | None:
        """Pruning to the recipe's channels; without a table [prune], of these channels alone."""
        from ..passes.prune import Prune

        if self.prune is None and not self.channels:
            return None
        return replace(self.prune or Prune(ratio=0.0), keep=self.channels)

    def _precision(self) -> Float16 | None:
        """Half precision by the layers' choices, also without a table [precision]."""
        from ..passes.float16 import Float16

        is_asked = any(choice in (FLOAT16, STORED16) for choice in self.layers.values())
        if self.precision is None and not is_asked:
            return None
        return replace(self.precision or Float16(), layers=self.layers)

    def _check_unsaid(self, given: Options) -> None:
        usual = Options()
        said = {
            "target": given.target == usual.target, "passes": given.schedule == usual.schedule,
            "seed": given.seed == usual.seed,
            **{n: getattr(given.compression, n) is None for n in ("quantize", "prune", "precision", "recover")},
        }  # fmt: skip
        for name, is_unsaid in said.items():
            if not is_unsaid:
                raise OptionError(f"{name} is what the recipe says already: change it there, or leave out the recipe")

    def check_model(self, digest: str) -> None:
        """ModelError where the model's digest is not the recipe's."""
        check_arguments(Recipe.check_model, locals())
        if self.model and self.model != digest:
            theirs, ours = _short(self.model), _short(digest)
            raise ModelError(f"recipe: [data] model is {theirs}, and this is another model, {ours}")

    def notes(self, data: str) -> tuple[str, ...]:
        """Differences from the recipe's environment and data, a line each; `data`: digest of the calibration data."""
        check_arguments(Recipe.notes, locals())
        there = [] if self.made_with is None else self.made_with.differences()
        notes = [f"recipe: made elsewhere, so that the file may differ: {', '.join(there)}"] if there else []
        if self.data not in ("", data):
            notes.append("recipe: made with other calibration data, so that the file differs")
        return tuple(notes)


def _short(digest: str) -> str:
    return digest[: len(PREFIX) + 12]
