"""The reasons for which a rule declines, read from its source: of every `Declined` in the rule and its helpers."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

_DEPTH = 3


def reasons(function: Callable[..., Any]) -> list[str]:
    """The reasons, in the order of the source; parts that are filled in at run time are shown as …"""
    return list(dict.fromkeys(_reasons(function, _DEPTH, set())))


def _reasons(function: Callable[..., Any], depth: int, seen: set[Any]) -> Iterator[str]:
    function = inspect.unwrap(function)
    if function in seen or depth == 0 or not inspect.isfunction(function):
        return
    seen.add(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name in ("Declined", "Decline") and call.args:
            yield _text(call.args[0])
            continue
        callee = function.__globals__.get(name)
        if getattr(callee, "__module__", "").startswith("graphopt.passes"):
            yield from _reasons(callee, depth - 1, seen)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return "…"
