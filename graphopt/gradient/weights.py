"""The trainable weights among a model's constants."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import OptionError
from ..ir import Constant, Graph, Model, Node, Value, captures
from .differentiate import is_float, look_up, named_values
from .rules import CONSTANT

LEARNT: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "Einsum": (0, 1, 2), "Gather": (0,),
    "LayerNormalization": (1, 2), "RMSNormalization": (1,), "InstanceNormalization": (1, 2), "PRelu": (1,),
    "GroupNormalization": (1, 2), "BatchNormalization": (1, 2), "LSTM": (1, 2, 3), "GRU": (1, 2, 3), "RNN": (1, 2, 3),
    "Add": (0, 1), "Sub": (0, 1), "Mul": (0, 1),
}  # fmt: skip
"""The slots of trainable operands, by operator; a bias may be an Add and a scale a Mul."""
_PASSED = frozenset(("Transpose", "Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand"))
"""Operators after which a weight is still a weight; as also after fake quantization, and between constant limits."""


def initial(value: Value) -> Constant | None:
    """The initial tensor of a weight: a constant, or an input's default."""
    return value.constant if value.constant is not None else value.default


def learnt_weights(model: Model) -> set[str]:
    """The names of the constants in slots of `LEARNT`, whether results depend on them or not."""
    named = named_values(model)
    return {n for n, v in named.items() if n and is_float(v) and any(_is_learnt(v, g) for g in model.graph.graphs())}


def chosen_weights(model: Model, results: Sequence[Value], wrt: Sequence[str] | None) -> dict[str, Value]:
    """The weights to train, by name: those of `wrt`, or by default all in slots of `LEARNT` that `results` depend on.

    OptionError for a name that the model lacks, that has no tensor, or that no result depends on.
    """
    reached = _reached(model.graph, results)
    named = named_values(model)
    if wrt is None:
        found = {n: v for n, v in named.items() if n and v in reached and is_float(v) and _is_learnt(v, model.graph)}
        if not found:
            raise OptionError("the model has no weights that its results depend on: name constants in wrt")
        return found
    if not wrt:
        raise OptionError("wrt names no weight to train")
    found = {}
    for name in wrt:
        value = look_up(named, name, "initializer")
        if initial(value) is None:
            raise OptionError(f"{name!r} is an input and has no value to start from: only initializers are trained")
        if value not in reached:
            raise OptionError(f"the loss does not depend on {name!r}")
        found[name] = value
    return found


def _reached(graph: Graph, results: Sequence[Value]) -> set[Value]:
    """The values that some of `results` depend on differentiably."""
    reached = set(results)
    for node in reversed(graph.snapshot()):
        if node.op not in CONSTANT and any(v in reached for v in node.outputs):
            reached.update(v for v in node.inputs if v is not None)
            reached.update(captures(node) if node.subgraphs else ())
    return reached


def _is_learnt(value: Value, graph: Graph) -> bool:
    tensor = initial(value)
    return tensor is not None and tensor.size > 1 and any(_learns(u.node, u.slot, graph) for u in value.uses)


def _learns(node: Node, slot: int, graph: Graph) -> bool:
    if node.graph is not graph:
        return False
    limits = node.op in ("Max", "Min") and all(v is not None and v.constant is not None for v in node.inputs[1:])
    if slot == 0 and (limits or node.op in _PASSED or node.op in ("QuantizeLinear", "DequantizeLinear")):
        return any(_learns(u.node, u.slot, graph) for u in node.outputs[0].uses)
    return slot in LEARNT.get(node.op, ())
