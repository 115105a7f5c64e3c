"""The subset of TOML that recipes use: tables of strings, numbers, booleans and lists of these."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BARE = re.compile(r"[A-Za-z0-9_-]+")

TOMLDecodeError = tomllib.TOMLDecodeError


def parsed(text: str) -> dict[str, Any]:
    """The tables of a text. TOMLDecodeError."""
    return tomllib.loads(text)


def written(table: Mapping[str, Any], path: str = "") -> str:
    """The text of a table and of the tables in it, in the order given; empty tables and None are left out."""
    own = {key: value for key, value in table.items() if not isinstance(value, Mapping) and value is not None}
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"[{path}]\n"] if path and own else []
    lines += [f"{_key(key)} = {_value(value)}\n" for key, value in own.items()]
    inside = [written(value, f"{path}.{_key(key)}" if path else _key(key)) for key, value in inner.items()]
    return "\n".join(part for part in ("".join(lines), *inside) if part)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)  # of a number as in TOML, inf and nan, too


def _string(text: str) -> str:
    """A basic string; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
