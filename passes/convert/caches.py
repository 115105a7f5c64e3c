"""Raise models with a cache of keys, or with RMSNorm, to the operator set in which these are operators.

onnxruntime's Attention of opset 23 takes earlier keys and values, fewer heads of keys than of queries, and any mask, in
batches, too; its own GroupQueryAttention takes one prompt at a time where there are earlier keys, is causal, and is
slower. `python -m tests.bench.decoders` shows the gain.
"""

from __future__ import annotations

import logging

from ...analysis.operands import shape_of
from ...errors import Declined, OptionError
from ...ir import DType, Graph, Node, TensorType, Value, clone_model, model_of
from ...ops import attr, is_implemented
from ...pipeline.passes import graph_pass
from ...rewrite import Context
from .opset import OLDEST, check_kernels, convert_opset

_log = logging.getLogger(__name__)

_ATTENTION = 23
"""The first opset with Attention, RotaryEmbedding and RMSNormalization."""


@graph_pass("raise-opset")
def raise_opset(graph: Graph, context: Context) -> int:
    """f at opset n = f at opset 23, for onnxruntime, where f appends to a cache, or divides by root mean squares."""
    model = model_of(graph)
    if context.target != "onnxruntime" or model is None or not OLDEST <= model.opset < _ATTENTION:
        return 0
    if (
        model.functions
        or not any(_appends(node) or _is_mean_square(node) for node in model.graph)
        or not _is_implemented()
    ):
        return 0
    convert = convert_opset(_ATTENTION)
    trial = clone_model(model)
    try:
        convert.run(trial.graph, Context(target=context.target))
        check_kernels(model, trial)
    except (Declined, OptionError) as error:  # some operator has no form, or no kernel, in that opset
        _log.info("raise-opset: opset %d is kept: %s", model.opset, error)
        return 0
    return int(convert.run(graph, context) or 0)


def _appends(node: Node) -> bool:
    """Concat of an input of the model, heads f[B,H,P,D], with new heads, read by a product or repeated before one."""
    if node.op != "Concat" or len(node.inputs) != 2 or attr(node, "axis", 0) not in (2, -2):
        return False
    past, new = node.inputs
    shapes = [shape_of(value) for value in (past, new)]
    is_input = past is not None and past.producer is None and past.constant is None
    return is_input and new is not None and new.producer is not None and all(len(shape or ()) == 4 for shape in shapes)


def _is_mean_square(node: Node) -> bool:
    """The mean of x², as RMSNorm takes it; of LayerNorm it is that of a difference."""
    square = None if node.op != "ReduceMean" or node.inputs[0] is None else node.inputs[0].producer
    if square is None or square.op not in ("Pow", "Mul") or square.inputs[0] is None:
        return False
    x, second = square.inputs[0], square.constant(1)
    is_square = square.inputs[1] is x if square.op == "Mul" else second is not None and second.size == 1
    return is_square and (x.producer is None or x.producer.op != "Sub")


def _is_implemented() -> bool:
    """Whether the installed onnxruntime has Attention with a cache and a boolean mask."""
    heads, allowed = TensorType(DType.FLOAT, (1, 1, 1, 2)), TensorType(DType.BOOL, (1, 1, 1, 2))
    x = [Value(type=allowed if slot == 3 else heads) for slot in range(6)]
    return is_implemented(Node("Attention", x, None, 3), {"": _ATTENTION})
