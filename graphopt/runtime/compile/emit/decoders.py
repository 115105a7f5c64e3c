"""Emission for language models: products with weights in blocks, rotary embeddings, attention over caches.

Functions as in `elementwise`.
"""

from __future__ import annotations

from math import prod

from ....errors import Declined
from ....kernels.attention.cached import prepare_append, prepare_attention, prepare_rotary
from ....kernels.products.blocked_matmul import prepare_blocked_matmul
from ...lower.decoders.operations import AppendCache, BlockedMatMul, CachedAttention, Rotary
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter
from ..layouts import natural
from ..tensor import Tensor


def emit_blocked_matmul(emitter: RoutineEmitter, operation: BlockedMatMul, inputs: Inputs, shape: Shape) -> Tensor:
    """Activation rows in ONNX's order, quantized while running; the weights are packed once for all shapes."""
    x = emitter.ordered(inputs[0], natural(len(inputs[0].shape)))
    rows = prod(shape[:-1])
    routine = prepare_blocked_matmul(rows, operation.weights.packed, operation.bias, prod(x.shape[:-1]) - rows)
    return emitter.result(routine, shape, natural(len(shape)), 4, x=x)


def emit_rotary(emitter: RoutineEmitter, operation: Rotary, inputs: Inputs, shape: Shape) -> Tensor:
    """Token rows in ONNX's order, as cos and sin lie."""
    x, cos, sin = (emitter.ordered(one, natural(3)) for one in inputs)
    size = shape[2] // operation.heads
    turned = operation.turned or size
    if cos.shape != (*shape[:2], turned // 2) or sin.shape != cos.shape:
        raise Declined(f"angles {cos.shape} for {shape}")
    routine = prepare_rotary(prod(shape[:2]), operation.heads, size, turned, operation.interleaved)
    return emitter.result(routine, shape, natural(3), 4, x=x, cos=cos, sin=sin)


def emit_append(emitter: RoutineEmitter, operation: AppendCache, inputs: Inputs, shape: Shape) -> Tensor:
    """The cache and its new rows lie outside the arena: each run binds their addresses."""
    new = emitter.ordered(inputs[0], natural(3))
    batch, count = new.shape[:2]
    y, stride = emitter.growing.result(operation.inputs[1], operation.output, shape, count)
    routine = prepare_append(batch, count, operation.heads, new.shape[2] // operation.heads, operation.coded)
    emitter.add(
        routine, new=new, past=inputs[1], y=y, rows=emitter.growing.rows,
        past_stride=emitter.growing.past_stride(operation.inputs[1]), y_stride=stride,
    )  # fmt: skip
    return y


def emit_attention(emitter: RoutineEmitter, operation: CachedAttention, inputs: Inputs, shape: Shape) -> Tensor:
    """Reads the caches in place, outside the arena."""
    q, keys, values, *mask = inputs
    q = emitter.ordered(q, natural(3))
    rows = emitter.growing.masks[operation.inputs[3]] if mask else None
    batch, tokens = shape[:2]
    size, width = (length // (operation.heads * operation.groups) for length in (q.shape[2], shape[2]))
    routine = prepare_attention(
        batch, tokens, operation.heads, operation.groups, size, width, operation.scale, rows, coded=operation.coded
    )
    strides = [emitter.growing.strides[value] for value in operation.inputs[1:3]]
    y = emitter.new(shape, natural(3), 4)
    emitter.add(
        routine, q=q, keys=keys, values=values, y=y, rows=emitter.growing.rows, key_stride=strides[0],
        value_stride=strides[1], **({"mask": mask[0]} if mask else {}),
    )  # fmt: skip
    return y
