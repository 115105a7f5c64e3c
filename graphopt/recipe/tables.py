"""Recipes as TOML tables: the layout of the file, and the types of its entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ..compress.choices import CHOICES
from ..errors import GraphoptError, OptionError, did_you_mean
from ..options import Schedule, Target

_ELSEWHERE = {"quantize": ("layers", "executor", "cache"), "prune": ("keep",), "precision": ("layers",)}
"""Fields of stages that are stored in [layers] and [channels] instead, or do not affect the result."""
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "tuple": (list,), "Sequence": (list,),
    "Mapping": (dict,),
}  # fmt: skip
"""Types in a file by the first word of a field's type."""
Options = TypeVar("Options")
OPEN = -1
"""An open size, in a file."""


def tables_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a recipe's fields, in the order of the file. OptionError for a value that no file can hold."""
    target, made = recipe["target"], recipe["made_with"]
    shapes = {name: [OPEN if d is None else d for d in shape] for name, shape in target.input_shapes.items()}
    return {
        "seed": recipe["seed"],
        "preprocess": recipe["preprocess"],
        "target": {"runtime": target.runtime, "opset": target.opset, "input_shapes": shapes, "dims": dict(target.dims)},
        "schedule": _schedule(recipe["schedule"]),
        **{name: _stage(name, recipe[name]) for name in ("prune", "quantize", "precision", "recover")},
        "channels": dict(recipe["channels"]),
        "layers": dict(recipe["layers"]),
        "data": {"model": recipe["model"] or None, "calibration": recipe["data"] or None},
        "versions": {} if made is None else dict(made.versions),
        "machine": {} if made is None else dict(made.machine),
    }


def _schedule(schedule: Schedule) -> dict[str, Any]:
    names = {"passes": schedule.passes, "skip": schedule.skip or None, "add": schedule.add or None}
    return {key: None if value is None else [_pass_name(item) for item in value] for key, value in names.items()}


def _pass_name(item: object) -> str:
    name = item if isinstance(item, str) else getattr(item, "name", None)
    if not isinstance(name, str):
        raise OptionError(f"recipe: a {type(item).__name__} among the passes has no name that a file could hold")
    return name


def _stage(name: str, options: Any) -> dict[str, Any]:
    """The fields of a stage's options; {} without a stage."""
    if options is None:
        return {}
    table: dict[str, Any] = {}
    for one in fields(options):
        value = getattr(options, one.name)
        if one.name in _ELSEWHERE.get(name, ()) or (not isinstance(value, (int, float)) and not value):
            continue
        if hasattr(value, "__dataclass_fields__"):
            value = _stage(one.name, value)
        if callable(value) or not isinstance(value, (bool, int, float, str, list, tuple, Mapping)):
            raise OptionError(f"recipe: {name}: {one.name} is a {type(value).__name__}, which no file can hold")
        table[one.name] = value
    return table


def read_tables(tables: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The fields of the recipe in the tables of a file, with `versions` and `machine`. OptionError with the wrong table
    and key.
    """
    from ..distillation import Distil
    from ..passes.float16 import Float16
    from ..passes.prune import Prune
    from ..passes.quantize import Quantize

    reader = _Reader(file)
    reader.check_keys("", tables, (
        "seed", "preprocess", "target", "schedule", "prune", "quantize", "precision", "recover", "channels", "layers",
        "data", "versions", "machine",
    ))  # fmt: skip
    stages = {"prune": Prune, "quantize": Quantize, "precision": Float16, "recover": Distil}
    data = reader.texts("data", tables.get("data", {}), ("model", "calibration"))
    return {
        **{name: reader.options(name, kind, tables[name]) for name, kind in stages.items() if name in tables},
        "target": reader.options("target", Target, tables.get("target", {})),
        "schedule": reader.options("schedule", Schedule, tables.get("schedule", {})),
        "seed": reader.typed("", "seed", "int", tables.get("seed", 0)),
        "preprocess": reader.typed("", "preprocess", "str | None", tables.get("preprocess")),
        "layers": reader.choices(tables.get("layers", {})),
        "channels": reader.channels(tables.get("channels", {})),
        "model": data.get("model", ""),
        "data": data.get("calibration", ""),
        "versions": reader.texts("versions", tables.get("versions", {})),
        "machine": reader.table("machine", tables.get("machine", {})),
    }


class _Reader:
    """Reads tables of one file; every error names the file, the table and the key."""

    def __init__(self, file: str) -> None:
        self.file = file

    def error(self, table: str, text: str) -> OptionError:
        """An OptionError about a table."""
        return OptionError(f"recipe {self.file!r}: {f'[{table}] ' if table else ''}{text}")

    def table(self, name: str, value: Any) -> dict[str, Any]:
        """A table by its name."""
        if not isinstance(value, dict):
            raise self.error("", f"{name} is a table, [{name}], not {value!r}")
        return value

    def check_keys(self, name: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        """OptionError for an unknown key."""
        for key in table:
            if key not in known:
                raise self.error(
                    name,
                    f"has no key {key}{did_you_mean(key, known)}"
                    if name
                    else f"there is no {key}{did_you_mean(key, known)}",
                )

    def texts(self, name: str, value: Any, known: tuple[str, ...] | None = None) -> dict[str, str]:
        """A table of strings."""
        table = self.table(name, value)
        if known is not None:
            self.check_keys(name, table, known)
        return {key: self.typed(name, key, "str", text) for key, text in table.items()}

    def choices(self, value: Any) -> dict[str, str]:
        """Choices by the names of layers."""
        table = self.texts("layers", value)
        for key, choice in table.items():
            if choice not in CHOICES:
                close = did_you_mean(choice, CHOICES)
                raise self.error("layers", f"{key}: {choice!r} is not one of {', '.join(CHOICES)}{close}")
        return table

    def channels(self, value: Any) -> dict[str, int | list[int]]:
        """Numbers of channels, or a list of them a step."""
        table = self.table("channels", value)
        for key, count in table.items():
            counts = count if isinstance(count, list) and count else [count]
            if not all(isinstance(c, int) and not isinstance(c, bool) and c >= 1 for c in counts):
                raise self.error("channels", f"{key} is a number of channels from 1 on, not {count!r}")
        return table

    def typed(self, table: str, key: str, kind: str, value: Any) -> Any:
        """A value of one of the types in a field's annotation; of any type where a class is among them."""
        words = [part.split("[")[0].strip() for part in kind.split(" | ")]
        allowed = [_KINDS.get(word) for word in words if word != "None"]
        if value is None and "None" in words:
            return None
        is_known = all(types is not None for types in allowed)
        is_flag_for_number = isinstance(value, bool) and not any(types == (bool,) for types in allowed)
        held = tuple(one for types in allowed if types is not None for one in types)
        if is_known and (is_flag_for_number or not isinstance(value, held)):
            raise self.error(table, f"{key} is {' or '.join(w for w in words if w != 'None')}, not {value!r}")
        return value

    def options(self, name: str, kind: type[Options], value: Any) -> Options:
        """The options of a dataclass from its table; the dataclass's own errors name the file and the table."""
        table, known = self.table(name, value), {one.name: str(one.type) for one in fields(kind)}  # type: ignore[arg-type]
        self.check_keys(name, table, tuple(key for key in known if key not in _ELSEWHERE.get(name, ())))
        given = {key: self.typed(name, key, known[key], item) for key, item in table.items()}
        try:
            return kind(**{key: tuple(item) if isinstance(item, list) else item for key, item in given.items()})
        except (GraphoptError, TypeError, ValueError) as error:
            raise self.error(name, str(error)) from error
