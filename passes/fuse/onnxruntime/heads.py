"""Norms of each head, as Qwen 3 and Gemma 3 have them, where the heads lie side by side."""

from __future__ import annotations

from ....errors import Declined
from ....ir import DType, Node, Value
from ....ops import attr
from ....rewrite import Builder, any_value, op, rule
from ...fold.channels import floating
from .epilogues import ONNXRUNTIME


@rule(
    op.Reshape(
        op("RMSNormalization", "SimplifiedLayerNormalization")(
            op.Reshape(any_value("x"), any_value(), name="split"), any_value("gamma"), name="norm"
        ),
        any_value(),
        name="joined",
    ),
    targets=ONNXRUNTIME,
)
def norm_heads_in_place(build: Builder, x: Value, gamma: Value, split: Node, norm: Node, joined: Node) -> Value:
    """reshape(rms_norm(reshape(x, […, H, D])), […, H D]) = branchwise_rms_norm(x), each of the H heads by itself"""
    rows, heads = floating(x), floating(split.output)
    if rows.dtype is not DType.FLOAT or rows.shape is None or heads.shape is None or joined.output.type != x.type:
        raise Declined("not the rows of before, in single precision")
    *lead, width = rows.shape
    count, size = heads.shape[-2:] if len(heads.shape) == len(rows.shape) + 1 else (None, None)
    if not isinstance(count, int) or not isinstance(size, int) or [*lead, count * size] != [*heads.shape[:-2], width]:
        raise Declined("the last axis is not split into heads")
    if None in lead or floating(gamma).shape != (size,) or len(norm.outputs) > 1:
        raise Declined("not one gain for each element of a head")
    if int(attr(norm, "axis", -1)) not in (-1, len(lead) + 1) or int(attr(norm, "stash_type", 1)) != 1:
        raise Declined("not a norm of each head")
    epsilon = float(attr(norm, "epsilon", 1e-5))
    return build.node("com.microsoft::BranchwiseRMSNorm", x, gamma, num_branches=count, epsilon=epsilon)
