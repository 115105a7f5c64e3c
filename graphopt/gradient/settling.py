"""Fold computed sizes into constants, so that rules know ranks and axes, and replace sequences of known length by their
parts; nothing else is folded."""

from __future__ import annotations

import numpy as np

from ..analysis.evaluation import evaluate
from ..ir import Constant, Graph, Node, TensorType, Value, clone_node, refine
from ..ops import infer, type_body_inputs
from .rules import CONSTANT

ROUNDS = 8
"""The most rounds of folding: each round of constants may reveal further shapes."""
LARGEST = 1024
"""The most elements of a folded constant: sizes and axes have fewer."""
_RANDOM = frozenset(("RandomNormal", "RandomUniform", *(op for op in CONSTANT if "Random" in op), "Multinomial"))


def settle(graph: Graph) -> None:
    """Fold values that depend on known shapes and small constants alone, and inline branches with known conditions."""
    for _ in range(ROUNDS):
        changed = _fold(graph)
        changed += _take_sequences_apart(graph)
        for node in graph.snapshot():
            changed += _take_branch(graph, node)
            if node.op == "Scan" and node.graph is graph:
                type_body_inputs(node)
                for inner in node.attrs["body"].snapshot():
                    _retype(inner)
            changed += _retype(node)
        if not changed:
            return


def _fold(graph: Graph) -> int:
    """Replace all values that can be computed now; returns their number."""
    known: dict[Value, Constant] = {}
    nodes: list[Node] = []
    for node in graph.snapshot():
        sizes = node.inputs[0].type if node.op in ("Shape", "Size") and node.inputs[0] is not None else None
        if isinstance(sizes, TensorType) and sizes.sizes is not None:
            known[node.output] = _of_shape(node, sizes.sizes)
        elif _is_ready(node, known, nodes):
            nodes.append(node)
    results = [v for node in nodes for v in node.outputs if not v.is_unused]
    found = evaluate(graph, [(nodes, results)], known) if results else {}
    count = 0
    for value, array in {**{v: c.array() for v, c in known.items()}, **found}.items():
        if value.is_unused or any(use.node is graph.return_node for use in value.uses):
            continue
        graph.replace_uses(value, Value(constant=Constant.of(array)))
        count += 1
    for node in reversed(graph.snapshot()):
        if node in nodes and all(v.is_unused for v in node.outputs):
            graph.erase(node)
    return count


def _of_shape(node: Node, sizes: tuple[int, ...]) -> Constant:
    if node.op == "Size":
        return Constant.of(np.array(int(np.prod(sizes, dtype=np.int64)), np.int64))
    part = sizes[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    return Constant.of(np.array(part, np.int64))


def _is_ready(node: Node, known: dict[Value, Constant], nodes: list[Node]) -> bool:
    """Whether a node computes a small tensor from small constants, none of them a named float: weights stay
    unfolded."""
    if node.subgraphs or node.op in _RANDOM or node.domain or not node.inputs:
        return False
    for value in node.inputs:
        if value is None or value in known:
            continue
        constant = value.constant
        if constant is not None and constant.size <= LARGEST and not (value.name and constant.type.dtype.is_float):
            continue
        if value.producer is None or value.producer not in nodes:
            return False
    for value in node.outputs:
        kind = value.type
        if not isinstance(kind, TensorType) or (kind.size or 0) > LARGEST:
            return False
        if kind.dtype.is_float and kind.size is None:
            return False
    return True


def _take_sequences_apart(graph: Graph) -> int:
    """Let readers of sequences with known parts read the parts; returns the number of readers."""
    known: dict[Value, list[Value]] = {}
    count = 0
    for node in graph.snapshot():
        parts = _parts_of(graph, node, known)
        if parts is not None:
            known[node.output] = parts
        elif node.inputs and node.inputs[0] in known and _is_read_at(node):
            graph.replace_uses(node.output, known[node.inputs[0]][_index(node, 1) or 0])
            count += 1
        elif node.op == "ConcatFromSequence" and node.inputs[0] in known:
            graph.replace_uses(node.output, _joined(graph, node, known[node.inputs[0]]))
            count += 1
    for node in reversed(graph.snapshot()) if count else ():
        if node.op in (*_SEQUENCES, "SequenceAt", "ConcatFromSequence") and all(v.is_unused for v in node.outputs):
            graph.erase(node)
    return count


_SEQUENCES = ("SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SplitToSequence")


def _parts_of(graph: Graph, node: Node, known: dict[Value, list[Value]]) -> list[Value] | None:
    """The parts of a node's sequence, None where unknown."""
    if node.op == "SequenceEmpty":
        return []
    if node.op == "SequenceConstruct":
        return [v for v in node.inputs if v is not None]
    if node.op == "SplitToSequence":
        return _split(graph, node)
    if node.op not in _SEQUENCES or node.inputs[0] not in known:
        return None
    slot = 2 if node.op == "SequenceInsert" else 1
    parts, at = list(known[node.inputs[0]]), _index(node, slot)
    if node.input(slot) is None:
        at = len(parts) if node.op == "SequenceInsert" else len(parts) - 1
    if at is None:
        return None
    if node.op == "SequenceErase":
        del parts[at]
    elif (part := node.inputs[1]) is not None:
        parts.insert(at, part)
    return parts


def _is_read_at(node: Node) -> bool:
    """Whether a node reads a part of a sequence at a constant index."""
    return node.op == "SequenceAt" and _index(node, 1) is not None


def _index(node: Node, slot: int) -> int | None:
    constant = node.constant(slot)
    return None if constant is None else int(constant.array().reshape(-1)[0])


def _split(graph: Graph, node: Node) -> list[Value] | None:
    """A SplitToSequence's parts as outputs of a new Split; None where sizes are unknown or other readers need it."""
    axis, kind, sizes = int(node.attrs.get("axis", 0)), node.inputs[0] and node.inputs[0].type, node.constant(1)
    size = kind.shape[axis] if isinstance(kind, TensorType) and kind.shape else None
    if not all(use.node.op == "ConcatFromSequence" or _is_read_at(use.node) for use in node.output.uses):
        return None  # the sequence would still be needed
    if not isinstance(size, int) or (sizes is None and node.input(1) is not None):
        return None
    if sizes is None:
        lengths = [1] * size
    elif sizes.array().ndim:
        lengths = [int(n) for n in sizes.array()]
    else:
        each = int(sizes.array())
        lengths = [min(each, size - start) for start in range(0, size, each)]
    made = _put_before(graph, node, Node("Split", [node.inputs[0], _vector(lengths)], {"axis": axis}, len(lengths)))
    if sizes is not None or node.attrs.get("keepdims", 1):
        return list(made.outputs)
    squeezed = (Node("Squeeze", [v, _vector([axis])], {}, 1) for v in made.outputs)
    return [_put_before(graph, node, one).output for one in squeezed]


def _joined(graph: Graph, node: Node, parts: list[Value]) -> Value:
    """The parts of a sequence concatenated along an axis, or stacked along a new one."""
    axis = int(node.attrs["axis"])
    if node.attrs.get("new_axis", 0):
        wide = (Node("Unsqueeze", [v, _vector([axis])], {}, 1) for v in parts)
        parts = [_put_before(graph, node, one).output for one in wide]
    return _put_before(graph, node, Node("Concat", list(parts), {"axis": axis}, 1)).output


def _vector(numbers: list[int]) -> Value:
    return Value(constant=Constant.of(np.array(numbers, np.int64)))


def _put_before(graph: Graph, place: Node, node: Node) -> Node:
    graph.insert_before(place, node)
    for value, kind in zip(node.outputs, infer(node, graph.opsets)):
        value.type = kind
    return node


def _take_branch(graph: Graph, node: Node) -> int:
    """Replace an If of known condition by the nodes of its branch; returns 1 if so, else 0."""
    condition = node.constant(0) if node.op == "If" else None
    if condition is None:
        return 0
    body: Graph = node.attrs["then_branch" if bool(condition.array().reshape(-1)[0]) else "else_branch"]
    mapping: dict[Value, Value] = {}
    for inner in body.snapshot():
        graph.insert_before(node, clone_node(inner, mapping))
    for old, new in zip(node.outputs, body.outputs):
        graph.replace_uses(old, mapping.get(new, new))
    graph.erase(node)
    return 1


def _retype(node: Node) -> int:
    """Re-infer a node's outputs; returns 1 if some shape became known, else 0."""
    unknown = [v for v in node.outputs if not isinstance(v.type, TensorType) or v.type.sizes is None]
    if not unknown or node.graph is None:
        return 0
    before = [v.type for v in unknown]
    for value, kind in zip(node.outputs, infer(node, node.graph.opsets)):
        value.type = refine(kind, value.type)
    return int(before != [v.type for v in unknown])
