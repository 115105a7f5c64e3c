"""Patterns as text: `Mul(Sigmoid(x), x)`."""

from __future__ import annotations

from .pattern import Leaf, OpPattern


def describe(pattern: OpPattern | Leaf) -> str:
    """A pattern as text: `C` is any constant, a number that constant; `?` marks an optional operand."""
    if isinstance(pattern, Leaf):
        return _leaf(pattern)
    operator = "|".join(name.rpartition("::")[2] for name in pattern.ops)
    operands = ", ".join(describe(operand) for operand in pattern.inputs)
    attrs = ", ".join(f"{key}={value!r}" for key, value in pattern.attrs if not callable(value))
    return f"{operator}({operands}{'; ' + attrs if attrs else ''})"


def _leaf(leaf: Leaf) -> str:
    if leaf.equals is not None:
        text = f"{leaf.equals:.6g}"
    elif leaf.kind == "value":
        text = leaf.name or "_"
    else:
        text = leaf.name.upper() or "C"
    return text + ("?" if leaf.optional else "")
