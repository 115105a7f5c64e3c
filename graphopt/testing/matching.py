"""Random graphs that match a rule's pattern, with operands, constants and attributes that the pattern leaves open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import Declined
from ..ir import DType, Value
from ..rewrite import Leaf, OpPattern, Rule
from .blocks.elementwise import partner
from .blocks.operands import ON_CODES, PRODUCTS_OF_CODES, RANKS, SINGLE, codes, default_attrs, operand_for
from .sketch import WIDE, Sketch

_BY_NAME: dict[str, tuple[float, ...]] = {
    "eps": (1e-5, 1e-3), "epsilon": (1e-5, 1e-3), "low": (0.0, -1.0), "high": (6.0, 1.0), "slope": (0.1, 0.25),
}  # fmt: skip
"""Typical values of constants by their names in patterns."""
_ATTRIBUTES = (0, 1, -1, 2, 3, -2, (1,), (-1,), (0,), (2, 3), (1, 1), 0.5, 1.0, "constant", "linear", "NOTSET")


def block_for(rule: Rule) -> Callable[[Sketch], Value]:
    """A block that appends a match of `rule`'s pattern; the rule's function may still decline it."""

    def block(s: Sketch) -> Value:
        if not rule.min_opset <= s.opset <= rule.max_opset:
            raise Declined("not at this opset")
        return _Occurrence(s).node(rule.pattern, ())

    return block


class _Occurrence:
    """One occurrence of a pattern: its appended nodes and the operands bound so far."""

    def __init__(self, sketch: Sketch) -> None:
        self.s = sketch
        self.bound: dict[str, Value | None] = {}
        self.outputs: dict[int | str, tuple[Value, ...]] = {}
        self.dtype: DType | None = None
        self.axes: tuple[int, ...] = ()

    def node(self, pattern: OpPattern, ranks: Sequence[int]) -> Value:
        """The output of a pattern's node; the same pattern, by name or identity, always yields the same node."""
        key = pattern.name or id(pattern)
        if key not in self.outputs:
            self.outputs[key] = self._append(pattern, ranks)
        return self.outputs[key][pattern.index or 0]

    def _append(self, pattern: OpPattern, ranks: Sequence[int]) -> tuple[Value, ...]:
        s, op = self.s, self.s.choose(pattern.ops)
        ranks = RANKS.get(op, ranks)
        slots: list[Value | None] = [None] * len(pattern.inputs)
        for i, operand in enumerate(pattern.inputs):
            if isinstance(operand, OpPattern):
                slots[i] = self.node(operand, ranks)
        for i, operand in enumerate(pattern.inputs):
            if isinstance(operand, Leaf) and operand.name and operand.name in self.bound:
                slots[i] = self.bound[operand.name]
        data = next((v for v in slots if v is not None and v.constant is None), None)
        for i, operand in enumerate(pattern.inputs):
            if data is None and isinstance(operand, Leaf) and operand.kind == "value" and slots[i] is None:
                data = slots[i] = self.bound[operand.name] = self._data(op, ranks)
        if data is None:
            raise Declined("no operand is computed")
        attrs = self._attrs(pattern, op, data)
        for i, operand in enumerate(pattern.inputs):
            if slots[i] is not None or not isinstance(operand, Leaf):
                continue
            if operand.name not in self.bound or not operand.name:
                self.bound[operand.name] = self._leaf(op, i, operand, data, slots, attrs)
            slots[i] = self.bound[operand.name]
        if len(slots) == 2 and op in _COMMUTATIVE and s.chance(0.4):
            slots.reverse()
        if op == "Exp" and s.facts[data].bound > 20:
            raise Declined("the exponential would be too large")
        outputs = _OUTPUTS.get(op, 1 + (pattern.index or 0))
        bound = float(np.exp(s.facts[data].bound)) if op == "Exp" else None
        return s.nodes(op, *slots, outputs=outputs, bound=bound, **attrs)

    def _data(self, op: str, ranks: Sequence[int]) -> Value:
        s = self.s
        dtypes = (self.dtype,) if self.dtype else (DType.FLOAT,) if op in SINGLE else WIDE
        if op in ("Sqrt", "Log"):
            x = s.pick(*dtypes, ranks=ranks, bound=20.0)
            return s.node("Add", s.node("Abs", x), s.constant(0.5, s.dtype(x)))
        if op in ON_CODES:
            return codes(s)
        x = s.pick(*dtypes, ranks=ranks, bound=10.0, steady=op == "DynamicQuantizeLinear")
        self.dtype = s.dtype(x)
        return x

    def _attrs(self, pattern: OpPattern, op: str, data: Value) -> dict[str, Any]:
        attrs = default_attrs(self.s, op, data)
        for name, condition in pattern.attrs:
            if not callable(condition):
                attrs[name] = condition
                continue
            fits = [c for c in (attrs.get(name), *_ATTRIBUTES) if _accepts(condition, c)]
            attrs[name] = self.s.choose(fits)
        return attrs

    def _leaf(
        self, op: str, slot: int, leaf: Leaf, data: Value, slots: Sequence[Value | None], attrs: dict[str, Any]
    ) -> Value | None:
        s = self.s
        if slot == 1 and op.startswith("Reduce"):
            return self._axes(op, data, attrs)
        if (
            leaf.optional
            and not (op in PRODUCTS_OF_CODES and slot in PRODUCTS_OF_CODES[op])
            and (leaf.kind == "value" or s.chance(0.4))
        ):
            return None
        if leaf.equals is not None:
            return s.constant(np.full(s.choose(((), (1,))), leaf.equals), s.dtype(data))
        if leaf.name in _BY_NAME:
            shape = s.choose(((), (1,)) if op != "Clip" else ((),))
            number = 1e-12 if leaf.name == "eps" and op in ("Clip", "Max") else s.choose(_BY_NAME[leaf.name])
            return s.constant(np.full(shape, number), s.dtype(data))
        chosen = operand_for(s, op, slot, data, slots, attrs)
        if chosen is not None:
            return chosen
        if leaf.kind != "value":
            return partner(s, data, low=0.5 if op == "Div" else -1.0, constant=True)
        return partner(s, data, low=0.5 if op == "Div" else -1.0)

    def _axes(self, op: str, data: Value, attrs: dict[str, Any]) -> Value | None:
        """The axes of a reduction, equal throughout the pattern; an attribute in older opsets."""
        s, rank = self.s, self.s.rank(data)
        if not self.axes or max(self.axes) >= rank:
            self.axes = s.choose([axes for axes in ((-1,), (rank - 1,), tuple(range(2, rank))) if axes and rank])
        if s.opset < (13 if op == "ReduceSum" else 18):
            attrs["axes"] = self.axes
            return None
        return s.ints(*self.axes)


_OUTPUTS = {"Split": 2, "DynamicQuantizeLinear": 3}  # of operators with more than one
_COMMUTATIVE = frozenset(("Add", "Mul", "Max", "Min", "Sum", "And", "Or", "Xor", "Equal"))


def _accepts(predicate: Callable[[Any], bool], candidate: Any) -> bool:
    try:
        return candidate is not None and bool(predicate(candidate))
    except (TypeError, ValueError, IndexError):
        return False
