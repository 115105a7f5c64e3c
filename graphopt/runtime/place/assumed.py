"""Shapes of a model's values under assumed open sizes: a batch of one, small images, few tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import Declined
from ...ir import Array, Graph, Model, TensorType, Value
from ..compile.legality import output_shape
from ..lower.operands import constant_array
from ..lower.traits import Operation, Shape

if TYPE_CHECKING:
    from ...equivalence.synthesis.probe import Probe, ReadNode
    from ...onnx_io.emit import Skeleton

ASSUMED = {"batch": 1, "image": 64, "time": 16, "past": 16, "node": 16, "volume": 16, "channel": 3}
"""Sizes by the kind of an open dimension: one request of a small image or few tokens, in which the cost of calls
counts most. Assumed, not tuned."""

_LONGER = (1, 16, 256, 1024)
"""Factors of all sizes but batch and channels; the least with the most non-empty values is taken: a second of sound has
16,000 samples."""

_SMALL, _ROUNDS = 4096, 6
"""The most elements of a value computed from shapes, and the most rounds of computing such values and inferring shapes
from them: bounds on the time to open a session, not tuned."""

_LINES = ("Range", "Slice")
"""Operators computed although their output shape is unknown; others, such as Expand, may fill memory."""


def assumed_shapes(model: Model, skeleton: Skeleton | None = None) -> dict[Value, Shape]:
    """The shapes of a model's values under ASSUMED sizes; shapes that cannot be inferred are left out.

    ONNX infers them, on a copy without weights in which what is computed of shapes is a constant: of a Range over as
    many positions as there are tokens it would not tell the length, nor any shape behind it. Where all types have been
    inferred with fixed sizes, these are the shapes. skeleton: the model's, where the caller has it.
    """
    fixed = _fixed_shapes(model.graph)
    if fixed is not None:
        return fixed
    from ...equivalence.synthesis.sizes import read_symbols
    from ...equivalence.value_info import ValueInfo
    from ...onnx_io.emit import skeleton_of

    skeleton = skeleton or skeleton_of(model)
    proto, probe = _probed(skeleton)
    symbols = read_symbols([ValueInfo.of(given) for given in proto.graph.input], {})
    found = dict[str, Shape]()
    for factor in _LONGER if {*symbols.kinds.values()} - {"batch", "channel"} else _LONGER[:1]:
        sizes = {s: ASSUMED.get(k, 1) * (1 if k in ("batch", "channel") else factor) for s, k in symbols.kinds.items()}
        tried = probe()
        wanted = {name for _, _, names in tried.nodes for name in names if name in skeleton.values} - tried.fixed
        shapes = _shapes(tried, {name: symbols.shape(name, sizes) for name in symbols.dims})
        if _filled(shapes) > _filled(found):
            found = shapes
        if all(prod(found.get(name, (0,))) > 0 for name in wanted):
            break
    return {skeleton.values[name]: shape for name, shape in found.items() if name in skeleton.values}


def shapes_for(model: Model, sizes: Mapping[str, Shape]) -> dict[Value, Shape]:
    """The shapes of a model's values at these shapes of its inputs; shapes that cannot be inferred are left out."""
    fixed = _fixed_shapes(model.graph)
    if fixed is not None:
        return fixed
    from ...onnx_io.emit import skeleton_of

    skeleton = skeleton_of(model)
    _, probe = _probed(skeleton)
    return {skeleton.values[name]: shape for name, shape in _shapes(probe(), sizes).items() if name in skeleton.values}


def _probed(skeleton: Skeleton) -> tuple[onnx.ModelProto, Callable[[], Probe]]:
    """A copy of the model without weights, and a maker of new probes of it."""
    from ...equivalence.synthesis.probe import Probe
    from ...onnx_io.parts.stand_ins import put_alike_shapes

    proto = onnx.ModelProto()
    proto.CopyFrom(skeleton.proto)
    put_alike_shapes(proto.graph)
    return proto, partial(Probe, proto)


def _fixed_shapes(graph: Graph) -> dict[Value, Shape] | None:
    """The shapes of all values of a graph; None where some size is open, or a graph is nested."""
    found: dict[Value, Shape] = {}
    for values in (graph.inputs, *((*node.inputs, *node.outputs) for node in graph)):
        for value in values:
            if value is None:
                continue
            sizes = value.type.sizes if isinstance(value.type, TensorType) else None
            if sizes is None:
                return None
            found[value] = sizes
    return found if all(not node.subgraphs for node in graph) else None


def _shapes(probe: Probe, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """What `Probe.shapes` finds once nodes are constants that compute values of shapes only."""
    shapes = probe.shapes(inputs)
    graph = probe.bare.graph
    given = {one.name: one for one in graph.initializer if prod(one.dims) <= _SMALL}
    nodes = [row for row in probe.nodes if row[2] and all(row[2])]
    for _ in range(_ROUNDS):
        try:
            found = _of_shapes(probe.bare, nodes, given, shapes)
        except Exception:  # onnxruntime refuses a node alone, or at these sizes: keep the shapes inferred so far
            break
        if not found:
            break
        nodes = [row for row in nodes if not found.keys() >= set(row[2])]
        given.update((name, numpy_helper.from_array(array, name)) for name, array in found.items())
        shapes.update((name, array.shape) for name, array in found.items())
        probe.narrow(shapes, given)
        shapes.update(probe.shapes(inputs))
    return shapes


def _of_shapes(
    proto: onnx.ModelProto, nodes: Sequence[ReadNode], given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
) -> dict[str, Array]:  # fmt: skip
    """The small values that nodes compute from shapes and given constants, evaluated in onnxruntime."""
    from ...machine.sessions import open_session, session_options

    found: dict[str, Array] = {}
    run: list[ReadNode] = []
    known, at_hand = set[str](), {"", *given}  # results of nodes in `run`; these, constants and `found`
    constants: dict[str, onnx.NodeProto] = {}
    for row in nodes:
        node, reads, writes = row
        if node.op_type == "Constant" and not node.domain:
            constants[writes[0]] = node
            at_hand.add(writes[0])
        elif node.op_type == "Shape" and reads[0] in shapes:
            ends = {one.name: one.i for one in node.attribute}
            found[writes[0]] = np.array(shapes[reads[0]][ends.get("start", 0) : ends.get("end")], np.int64)
            at_hand.add(writes[0])
        elif (
            at_hand.issuperset(reads)
            and any(one in found or one in known for one in reads)
            and all(prod(shapes[one]) <= _SMALL if one in shapes else node.op_type in _LINES for one in writes)
            and not any(one.HasField("g") for one in node.attribute)
        ):
            run.append(row)
            known.update(writes)
            at_hand.update(writes)
    if known:
        read = {name for _, reads, _ in run for name in reads}
        model = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
        model.graph.name = "sizes"
        model.graph.node.extend(node for name, node in constants.items() if name in read)
        model.graph.node.extend(node for node, _, _ in run)
        held = (numpy_helper.from_array(found[name], name) for name in found if name in read)
        model.graph.initializer.extend(held)
        model.graph.initializer.extend(one for name, one in given.items() if name in read)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(known))
        session = open_session(model.SerializeToString(), session_options(optimize=False))
        found.update(zip(sorted(known), session.run(sorted(known), {})))
    return {name: array for name, array in found.items() if array.size <= _SMALL}


def _filled(shapes: Mapping[str, Shape]) -> int:
    """The number of values with a known, non-empty shape."""
    return sum(prod(shape) > 0 for shape in shapes.values())


class Shapes:
    """Shapes of values; an unknown shape of an operation's output is computed from its inputs' shapes."""

    def __init__(self, known: Mapping[Value, Shape]) -> None:
        self.known = dict(known)

    def of(self, value: Value) -> Shape:
        """The shape of a value; if unknown, the shape of its type with 1 for open sizes, or ()."""
        if value not in self.known:
            array = constant_array(value)
            if array is not None:
                self.known[value] = array.shape
            else:
                declared = value.type.shape if isinstance(value.type, TensorType) else None
                self.known[value] = tuple(d if isinstance(d, int) else 1 for d in declared or ())
        return self.known[value]

    def add(self, operation: Operation) -> None:
        """Record the shapes of an operation's operands and result."""
        inputs = tuple([self.of(value) for value in operation.inputs])
        if operation.output not in self.known:
            try:
                self.known[operation.output] = output_shape(operation, inputs)
            except (Declined, IndexError, ZeroDivisionError):  # an unknown rank
                self.of(operation.output)
