"""Arguments and options by their annotations: checked, and made from words of a command line."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from .errors import OptionError, did_you_mean, one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Kind = tuple[Callable[[Any], bool], str]
"""Whether a value is of a kind, and how an error names the kind."""

LEAST = {"samples": 1, "threads": 0, "draws": 1, "blocks": 1, "seed": 0, "rtol": 0, "seconds": 0, "max_drop": 0}
"""The least number that an argument of this name takes, wherever it occurs."""


def is_whole(value: object) -> bool:
    """A whole number, numpy's too; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A real number but NaN, numpy's too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def is_flag(value: object) -> bool:
    """True or False, numpy's too, or 0 or 1."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") or (is_whole(value) and value in (0, 1))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike)) and "\0" not in str(value)


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


_KINDS: dict[str, _Kind] = {
    "None": (lambda value: value is None, "None"), "bool": (is_flag, "True or False"), "str": (_is_text, "text"),
    "int": (is_whole, "a whole number"), "float": (is_number, "a number"),
    "Path": (_is_path, "a path"), "os.PathLike[str]": (_is_path, "a path"),
    "Executor": (lambda value: callable(getattr(value, "submit", None)), "an executor of concurrent.futures"),
    **dict.fromkeys(("Metric", "Progress", "OnBlame", "Callable"), (callable, "a function")),
}  # fmt: skip
"""The kind behind each name in an annotation."""
_CLASSES = (
    "Distil", "Float16", "MadeWith", "OpPattern", "Options", "Pass", "Prune", "Quantize", "Recipe", "Registry",
    "Rule", "Schedule", "Suppression", "Target", "random.Random",
)  # fmt: skip
"""Classes of ours of which a value must be."""
_SPOKEN = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def check_arguments(function: Callable[..., object], given: Mapping[str, object]) -> None:
    """OptionError, with the name and what its annotation admits, for the first argument of another kind.

    given: arguments by name, such as `locals()` at the function's start; others in it are ignored. Annotations that
    hold a name not listed here, such as the forms of models and data, admit everything: who reads these checks them.
    """
    _check({name: kind for name, kind in function.__annotations__.items() if name in given and name != "return"}, given)


def check_fields(what: str, options: DataclassInstance) -> None:
    """`check_arguments` for the fields of an object; `what` begins the error."""
    try:
        held = {one.name: getattr(options, one.name) for one in fields(options)}
        _check({one.name: str(one.type) for one in fields(options)}, held)
    except OptionError as error:
        raise OptionError(f"{what}: {error}") from None


def _check(annotations: Mapping[str, str], given: Mapping[str, object]) -> None:
    for name, annotation in annotations.items():
        known = _admitted(annotation)
        if known is None:
            continue
        value, (fits, expected), least = given[name], known, LEAST.get(name)
        if least is not None:
            expected = expected.replace("number", f"number from {least} on")
        if not fits(value) or (least is not None and isinstance(value, Real) and value < least):
            raise OptionError(f"{name} is {expected}, got {one_line(repr(value))[:100]}")


@cache
def _admitted(annotation: str) -> _Kind | None:
    """The kind behind an annotation as it is written; None where a part of it is not known here."""
    parts = _split(annotation, " | ")
    if "str" in parts and {"os.PathLike[str]", "Path"} & {*parts}:
        parts.remove("str")
    kinds = [kind for part in parts if (kind := _kind(part)) is not None]
    if len(kinds) < len(parts):
        return None
    return lambda value: any(fits(value) for fits, _ in kinds), " or ".join(dict.fromkeys(text for _, text in kinds))


def _kind(name: str) -> _Kind | None:
    """The kind of one part of a union. Elements are checked as far as that does not use up the value."""
    head, _, inside = name.partition("[")
    if head in ("Sequence", "tuple", "Iterable"):
        each = _admitted(_split(inside[:-1], ", ")[0])
        text = "a list" if each is None else "a list of names" if each[1] == "text" else f"a list, each {each[1]}"
        return lambda v: _is_list(v) and (each is None or isinstance(v, Iterator) or all(map(each[0], v))), text
    if head == "Mapping":
        each = _admitted(_split(inside[:-1], ", ")[1])
        text = "a dict by name" if each is None else f"a dict by name, each value {each[1]}"
        return lambda v: isinstance(v, Mapping) and (each is None or all(map(each[0], v.values()))), text
    if name in _CLASSES:
        own = name.rpartition(".")[2]
        return lambda value: own in (one.__name__ for one in type(value).__mro__), f"a {name}"
    return _KINDS.get(head if head == "Callable" else name)


def _split(text: str, separator: str) -> list[str]:
    """The parts of an annotation between separators outside of brackets."""
    parts, depth = [""], 0
    for piece in text.split(separator):
        parts[-1] += piece if not depth else separator + piece
        depth = parts[-1].count("[") - parts[-1].count("]")
        if not depth:
            parts.append("")
    return parts[:-1]


def values_of(options: type, what: str, words: Sequence[str], without: Collection[str] = ()) -> dict[str, Any]:
    """Values by the fields of a dataclass, from KEY=VALUE, or KEY alone for true; commas part lists.

    what: begins each error message. without: fields that have no word. OptionError for any other key, or a value that
    does not fit the field's type.
    """
    known = {field.name: str(field.type) for field in fields(options) if field.name not in without}
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise OptionError(
                f"{what}: no option is named {name}{did_you_mean(name, known)}; there are {', '.join(known)}"
            )
        given[name] = _value(what, name, known[name], text.strip() if equals else "true")
    return given


def _value(what: str, name: str, kind: str, text: str) -> Any:
    kinds = kind.split(" | ")
    if "None" in kinds and text.lower() == "none":
        return None
    if "bool" in kinds and text.lower() in _SPOKEN:
        return _SPOKEN[text.lower()]
    if kind.startswith(("tuple", "Sequence")):
        return tuple(part for part in text.split(",") if part)
    try:
        if "int" in kinds or "float" in kinds:
            return int(text) if "int" in kinds else float(text)
    except ValueError:
        pass
    if "str" not in kinds:
        raise OptionError(f"{what}: {name} takes a {kind.removesuffix(' | None')}, got {text!r}")
    return text
