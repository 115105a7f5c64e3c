"""Types for a whole model, from ONNX's own shape inference over a skeleton without weights."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ..ir import Graph, Model, TensorType, Value
from ..ops import has_contrib_types, is_typed_here, nested_graphs, type_body_inputs, type_of, update_types
from .emit import Skeleton, skeleton_of
from .parts.stand_ins import put_stand_ins

_MADE_UP = "unk__"
"""The prefix of names that ONNX's inference makes up for unknown sizes."""


def infer_types(model: Model, skeleton: Skeleton | None = None) -> bool:
    """Set the types that ONNX infers; a value without inferred type keeps the one it has.

    Cost: some 20 µs a node, and nothing for weights. False if ONNX's inference rejected the model as a whole; each
    node was then inferred by itself. skeleton: the model's, where the caller has it.
    """
    skeleton = skeleton or skeleton_of(model)
    proto = skeleton.proto
    if any(has_contrib_types(node) for node in model.graph.walk()):
        proto = onnx.ModelProto()
        proto.CopyFrom(skeleton.proto)
        put_stand_ins(proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto.SerializeToString(), data_prop=True)
    except Exception:  # InferenceError, RuntimeError or DecodeError, for a model that contradicts itself
        for node in model.graph:
            update_types(node)
        _infer_bodies(model.graph, every=True)
        return False
    _store(inferred.graph, skeleton.values, nested=any(node.subgraphs for node in model.graph))
    _infer_bodies(model.graph)
    _infer_behind_untyped(model)
    return True


def _infer_bodies(graph: Graph, every: bool = False) -> None:
    """Infer the types of the inputs of nested bodies, which ONNX's inference leaves open, then of the bodies' nodes
    without them; `every`: of all of the bodies' nodes."""
    for node in graph:
        type_body_inputs(node)
        for body in node.subgraphs:
            for inner in body:
                if every or any(_lacks_size(value) for value in inner.outputs):
                    update_types(inner)
            _infer_bodies(body, every)


def _infer_behind_untyped(model: Model) -> None:
    """Types from the first operator on (onnxruntime's own, some of ai.onnx.ml) that ONNX's inference leaves untyped;
    behind them it makes up a name where a size, such as the number of sizes that Shape gives, follows from theirs."""
    for graph in model.graph.graphs():
        is_behind = False
        for node in graph:
            is_behind = is_behind or is_typed_here(node)
            if is_behind and any(_lacks_size(value) for value in node.outputs):
                update_types(node)


def _store(graph: onnx.GraphProto, values: Mapping[str, Value], *, nested: bool = True) -> None:
    """Set the inferred types of a graph and, with `nested`, of the graphs in it."""
    for infos in (graph.value_info, graph.output):
        for info in infos:
            value = values.get(info.name)
            if value is not None and value.constant is None and value.producer is not None:
                value.type = type_of(info.type) or value.type
    for node in graph.node if nested else ():
        for inner in nested_graphs(node):
            _store(inner, values)


def _lacks_size(value: Value) -> bool:
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    return value.type is None or shape is None or any(str(size).startswith(_MADE_UP) for size in shape)
