"""Options from words of a command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from .errors import OptionError, did_you_mean

_SPOKEN = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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
