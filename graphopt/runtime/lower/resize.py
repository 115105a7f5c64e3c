"""Resize, mode nearest, by whole factors: every source element is repeated, whatever rounding the model names."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, Value
from ...kernels.tensors.quantization import Quantization
from ...ops import attr
from .operands import constant_array
from .operations import Resize

# With a whole factor s these put the source of output i at i // s: floor(i / s), or (i + ½) / s − ½ to the nearest,
# which lies at least ½ / s away from the halves.
_REPEATING = {
    ("asymmetric", "floor"),
    *((mode, rounding) for mode in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
      for rounding in ("round_prefer_floor", "round_prefer_ceil")),
}  # fmt: skip


def resize(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization
) -> Resize:
    """A Resize between DequantizeLinear and QuantizeLinear; Declined where it does more than repeat."""
    if str(attr(node, "mode", "nearest")) != "nearest":
        raise Declined("Resize that interpolates")
    how = str(attr(node, "coordinate_transformation_mode", "half_pixel"))
    if (how, str(attr(node, "nearest_mode", "round_prefer_floor"))) not in _REPEATING or node.attrs.get("axes"):
        raise Declined(f"Resize with {how} coordinates")
    scales, sizes = _constant(node, 2), _constant(node, 3)
    whole = scales is not None and np.all(scales == np.rint(scales)) and np.all(scales >= 1)
    if sizes is None and not whole:
        raise Declined("Resize by factors that are not constant and whole")
    return Resize(
        inputs=(source,), output=output, nodes=nodes,
        factors=() if scales is None else tuple(int(v) for v in scales.tolist()),
        sizes=() if sizes is None else tuple(int(v) for v in sizes.tolist()),
        table=None if x == y else y.quantize(x.dequantize(x.codes())), signed=y.signed,
    )  # fmt: skip


def _constant(node: Node, slot: int) -> Array | None:
    array = constant_array(node.input(slot))
    return None if array is None or array.size == 0 else array.reshape(-1)
