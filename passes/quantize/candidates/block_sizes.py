"""How many inputs of a product share a scale of its stored weights."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from ....analysis.operands import shape_of
from ....compress.context import StageContext
from ....compress.layers.linear import PRODUCTS, Linear
from ....ir import Model, Node
from ..numerics.blocks import block_count, stored_bits
from ..numerics.solve import BITS
from ..options import Quantize
from .units import PACKED, Unit


def can_pack(model: Model, op: str, target: str, bits: int) -> bool:
    """Whether weights of less than 8 bits can be stored packed: 4 in DequantizeLinear by the operator set, fewer, too,
    in onnxruntime's own product (MatMulNBits) whatever that is."""
    return (bits == 4 and model.opset >= PACKED) or (target == "onnxruntime" and op in PRODUCTS)


def usual_block(options: Quantize, context: StageContext) -> int | None:
    """Inputs that share a scale of stored weights unless the caller says otherwise; None for all.

    Of 8 bits those of language models for onnxruntime, which multiplies one scale an output in such blocks, too.
    """
    return USUAL_BLOCK if options.weight_bits < 8 or _is_for_onnxruntime(context) else None


def tied_block(context: StageContext) -> int | None:
    """The same of a table and its head in 8 bits, whose scales would take more bytes than narrow blocks are worth.

    onnxruntime gathers rows of such blocks from 1.23 on.
    """
    gathers = tuple(map(int, version("onnxruntime").split(".")[:2])) >= (1, 23)
    return TIED_BLOCK if gathers and _is_for_onnxruntime(context) else None


def _is_for_onnxruntime(context: StageContext) -> bool:
    """A language model that onnxruntime runs."""
    return context.target == "onnxruntime" and bool(context.quality.next_tokens)


def wider_blocks(units: Iterable[Unit], options: Quantize, context: StageContext) -> dict[Node, int]:
    """Products of a language model with `WIDENING` times as many outputs as inputs, such as gates of feed-forwards, in
    4 bits for onnxruntime unless the caller says a size; with the inputs that share a scale in them. Heads keep theirs.
    """
    if options.mode != "weights" or options.weight_bits != 4 or options.block_size or not _is_for_onnxruntime(context):
        return {}
    results = context.quality.reference.graph.outputs
    words = {(shape_of(results[slot]) or (None,))[-1] for slot in context.quality.next_tokens}
    layers = [unit.layer for unit in units if unit.node.op in PRODUCTS and unit.layer.channels not in words]
    return {layer.node: WIDE_BLOCK for layer in layers if layer.channels >= WIDENING * layer.depth}


def block_of(linear: Linear, options: Quantize, target: str, size: int | None) -> int | None:
    """How many inputs share a scale, up to `size`; None for all. Blocks are for stored weights of products.

    onnxruntime's own product stores whole blocks: there it is the size up to the one asked for that takes least bytes.
    """
    bits = BITS[options.weight_type]
    if options.mode != "weights" or linear.node.op == "Conv" or size is None:
        return None
    if bits == 8 and linear.depth <= size:
        return None
    if target == "onnxruntime":
        sizes = [16 << k for k in range((size // 16).bit_length())]
        return min(reversed(sizes), key=lambda s: block_count(linear.depth, s) * (s * stored_bits(bits) // 8 + 4))
    return size


USUAL_BLOCK = 32
"""onnxruntime's and llama.cpp's usual size, in which onnxruntime also rounds the inputs of products with one scale an
output: in wider blocks large inputs cost their neighbours more. SmolLM2-135M in 8 bits diverges by 0.008 nats, by 0.011
with one scale an output and by 0.023 in blocks of 128. `python -m tests.bench.language` prints it."""

WIDE_BLOCK, WIDENING = 64, 2
"""Blocks that cost least where they are wider: of SmolLM2-135M's 4-bit file of 86.4 MB, gates and their like save
3.7 MB and 7 % of a token's time for 0.010 nats, keys, values and what mixes heads 1.8 MB for 0.011.
`python -m tests.bench.language` prints the divergence, `tests.bench.shared_caches` the time."""

TIED_BLOCK = 128
"""With a scale a row onnxruntime computes all weights of a tied head for each token, 65 ms of SmolLM2-135M in place of
14: `python -m tests.bench.decoders --session`. `block_of` takes the size up to this one that needs least bytes."""
