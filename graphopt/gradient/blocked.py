"""Convolutions on trainable weights, in onnxruntime's own blocked layout.

onnxruntime converts constant weights of a Conv to blocks of channels (NCHWc) once, when it opens a session; weights
that are inputs stay unblocked, at up to twelve times the time for a depthwise Conv. Here each step converts its weights
to blocks, by a Reshape and a Transpose. Gradients of depthwise convolutions move their rows in blocks, too: an element
is then `block` numbers, and inserting zeros between elements takes an eighth of the time. The operators are those that
onnxruntime writes into models optimized for one machine: for this machine alone, never for a file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..ir import Dim, DType, Graph, Model, Node, TensorType, Value
from ..machine.sessions import open_session, session_options
from ..ops import attr, infer
from .tensor import Tensor, Writer

DOMAIN = "com.microsoft.nchwc"
_CHANNELS, _OUTPUTS = 64, 4
"""Channels of the Conv that probes the block size: onnxruntime pads its few outputs to one block."""


@lru_cache(maxsize=1)
def block_size() -> int:
    """Channels per block on this machine, 16 with AVX-512 and 8 with AVX2; 0 where onnxruntime uses no blocks."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((_OUTPUTS, _CHANNELS, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, _CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, _OUTPUTS, 6, 6])], [weights],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    settings = session_options()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "optimized.onnx"
        settings.optimized_model_filepath = str(place)
        open_session(proto.SerializeToString(), settings)
        optimized = onnx.load(place)
    if not any(node.domain == DOMAIN and node.op_type == "Conv" for node in optimized.graph.node):
        return 0
    found = max((t.dims[0] for t in optimized.graph.initializer if len(t.dims) == 4), default=0)
    return int(found) if found > _OUTPUTS else 0


def use_blocks(model: Model, block: int) -> int:
    """Rewrite each Conv on trainable weights in a training step to blocks of channels; returns their number."""
    graph, count = model.graph, 0
    writer = Writer(graph, block)
    for node in graph.snapshot():
        if node.op != "Conv" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        x, w = (Tensor(writer, value) for value in node.inputs[:2] if value is not None)
        if attr(node, "auto_pad", "NOTSET") != "NOTSET" or not fits(w, int(attr(node, "group", 1))):
            continue
        writer.anchor = node
        bias = node.input(2)
        made = conv_in_blocks(x, w, None if bias is None else Tensor(writer, bias), **node.attrs)
        made.value.type = node.outputs[0].type
        graph.replace_uses(node.outputs[0], made.value)
        graph.erase(node)
        count += 1
    _share_blocks(graph)
    if any(node.domain == DOMAIN for node in graph):
        model.opsets[DOMAIN] = 1
    return count


def _share_blocks(graph: Graph) -> None:
    """Convert each value to blocks only once: the forward pass and gradients share values."""
    first: dict[Value | None, Value] = {}
    for node in graph.snapshot():
        if node.domain == DOMAIN and node.op_type == "ReorderInput":
            known = first.setdefault(node.inputs[0], node.outputs[0])
            if known is not node.outputs[0]:
                graph.replace_uses(node.outputs[0], known)
                graph.erase(node)


def fits(w: Tensor, group: int) -> bool:
    """Whether a Conv on weights w [M, C/G, h, w] can use blocks: f32, two spatial axes, whole blocks of channels, and
    not constant, since a session converts constants itself."""
    block = w.writer.block
    if not block or w.value.constant is not None or w.dtype is not DType.FLOAT or w.type.rank != 4:
        return False
    m, c, *kernel = (d if isinstance(d, int) else 0 for d in w.dims)
    if not m * c * math.prod(kernel) or kernel == [1, 1]:
        return False  # a Conv of 1 × 1 is one matrix product in either layout
    if m % block:
        return False
    if group == 1:
        return c < block or c % block == 0
    return c == 1 if m == group else c % block == 0 and (m // group) % block == 0


def conv_in_blocks(x: Tensor, w: Tensor, bias: Tensor | None = None, *, flipped: bool = False, **attrs: Any) -> Tensor:
    """ReorderOutput(Conv'(ReorderInput(x), w', b)) = Conv(x, w, b), w' being w in blocks, which `fits` allows.

    flipped: with each kernel reversed along both spatial axes. attrs: those of Conv.
    """
    whole = w.dims[1] == 1 < int(attrs.get("group", 1)) or int(str(w.dims[1])) % w.writer.block == 0
    return conv_of_blocks(in_blocks(x) if whole else x, weights_in_blocks(w, flipped), bias, **attrs)


def conv_of_blocks(x: Tensor, w: Tensor, bias: Tensor | None = None, **attrs: Any) -> Tensor:
    """ReorderOutput(Conv'(x, w, b)): the result in ONNX's layout of a Conv whose operands are in blocks."""
    writer = x.writer
    made = writer.node(f"{DOMAIN}::Conv", x, w, bias, **attrs)
    (made.value.type,) = infer(Node("Conv", [x.value, w.value], attrs), writer.graph.opsets)
    back = writer.node(f"{DOMAIN}::ReorderOutput", made, channels=int(str(w.dims[0])))
    back.value.type = made.value.type
    return back


def in_blocks(x: Tensor) -> Tensor:
    """x [N, C, H, W] stored as [N, C/b, H, W, b], typed with the shape of x; once per value."""
    known = x.writer.blocked
    if x.value not in known:
        known[x.value] = as_blocks(x.writer.node(f"{DOMAIN}::ReorderInput", x), x.dims).value
    return Tensor(x.writer, known[x.value])


def as_blocks(data: Tensor, dims: Sequence[Dim]) -> Tensor:
    """Data in blocks, typed with the shape of the tensor they store."""
    data.value.type = TensorType(DType.FLOAT, tuple(dims))
    return data


def weights_in_blocks(w: Tensor, flipped: bool = False) -> Tensor:
    """w as [M/b, C/b, h · w, b of C, b of M] where C are whole blocks, else [M/b, C, h · w, b of M]; in the shape of w.

    Two transpositions of few axes: one transposition of six axes takes five times as long. flipped: each kernel
    reversed along both spatial axes.
    """
    block, (m, c, *kernel) = w.writer.block, (int(str(d)) for d in w.dims)
    taps = math.prod(kernel)
    turned = w.reshape([m // block, block, -1]).transpose([0, 2, 1])  # [M/b, C · h · w, b of M]
    if c % block == 0:
        turned = turned.reshape([m * c // block**2, block, taps, block]).transpose([0, 2, 1, 3])
    if flipped:
        rows = turned.reshape([-1, taps, block * block if c % block == 0 else block])
        turned = rows.Gather(w.writer.constant(np.arange(taps)[::-1].copy()), axis=1)
    return as_blocks(turned.reshape([m, c, *kernel]), w.dims)
