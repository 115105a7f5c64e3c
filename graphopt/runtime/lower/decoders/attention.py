"""Lowering of a decoder's attention: ONNX's Attention over a cache, and RotaryEmbedding."""

from __future__ import annotations

from collections.abc import Mapping

from ....errors import Declined
from ....ir import Node, Value
from ....kernels import select_level
from ....ops import attr
from ..operands import declared_shape, is_float32
from ..traits import Operation
from .operations import AppendCache, CachedAttention, Rotary

_DEFAULTS: Mapping[str, float] = {
    "is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0, "softmax_precision": 1,
}  # fmt: skip
"""The only values of these attributes that kernels support."""


def rotary(node: Node, known: Mapping[Value, Operation]) -> Rotary | None:
    """RotaryEmbedding of x [batch, tokens, …]; None where kernels do not compute x. Declined for other forms."""
    x, cos, sin = node.inputs[:3]
    if x is None or cos is None or sin is None or x not in known or not known[x].writes_float:
        return None
    if node.input(3) is not None or not all(is_float32(value) for value in (x, cos, sin)):
        raise Declined("a RotaryEmbedding by positions, or of other than float32")
    heads = int(attr(node, "num_heads", 0))
    if len(declared_shape(x)) != 3 or not heads:
        raise Declined("a RotaryEmbedding of heads side by side")
    return Rotary(
        inputs=(x, cos, sin), output=node.output, nodes=(node,), heads=heads,
        interleaved=bool(attr(node, "interleaved", 0)), turned=int(attr(node, "rotary_embedding_dim", 0)),
    )  # fmt: skip


def attention(node: Node, known: Mapping[Value, Operation]) -> tuple[Operation, ...] | None:
    """Attention over a cache that is an input and an output of the model; None where kernels do not compute q, k and v.
    Declined for other forms."""
    graph = node.graph
    q, k, v = node.inputs[:3]
    if (
        graph is None
        or q is None
        or k is None
        or v is None
        or any(x not in known or not known[x].writes_float for x in (q, k, v))
    ):
        return None
    mask, pasts = node.input(3), (node.input(4), node.input(5))
    if any(attr(node, name, usual) != usual for name, usual in _DEFAULTS.items()):
        raise Declined("attention with other attributes")
    heads, all_heads = int(attr(node, "kv_num_heads", 0)), int(attr(node, "q_num_heads", 0))
    if not heads or all_heads % heads or any(len(declared_shape(x)) != 3 for x in (q, k, v)):
        raise Declined("attention of other than tokens' rows")
    if len(node.outputs) < 3 or (len(node.outputs) > 3 and not node.outputs[3].is_unused) or node.input(6) is not None:
        raise Declined("attention without a cache, or whose scores are read")
    if mask is not None and (mask in known or not is_float32(mask)):
        raise Declined("a mask that is not float32, or made by kernels")
    made: list[Operation] = []
    for past, new, present in zip(pasts, (k, v), node.outputs[1:3]):
        if past is None or past.owner is not graph or not is_float32(past) or present not in graph.outputs:
            raise Declined("a cache that is no input and output of the model")
        if len(declared_shape(past)) != 4 or any(present in user.inputs and user.outputs for user in present.users):
            raise Declined("a cache that other nodes read")
        made.append(AppendCache(inputs=(new, past), output=present, nodes=(node,), heads=heads))
    size, width = (declared_shape(past)[3] if past is not None else None for past in pasts)
    if not isinstance(size, int) or not isinstance(width, int):
        raise Declined("heads whose size is not known")
    if size % (lanes := select_level().lanes) or width % lanes:
        raise Declined(f"heads of {size} and {width}, no whole vectors of {lanes}")
    inputs = (q, *(one.output for one in made), *(() if mask is None else (mask,)))
    made.append(
        CachedAttention(
            inputs=inputs, output=node.output, nodes=(node,), heads=heads, groups=all_heads // heads,
            scale=float(attr(node, "scale", size**-0.5)),
        )
    )  # fmt: skip
    return tuple(made)
