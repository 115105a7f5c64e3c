"""Lowering of vision operators: resizing and LRN of codes; pools, clips and concatenation of float32.

The float32 ones stand between convolutions that are quantized while running.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...kernels.normalization.lrn import MAX_SIZE
from ...kernels.tensors.quantization import Quantization
from ...ops import attr, version_for
from .builders import check_unused_indices, window_attributes
from .operands import are_floats, constant_array, declared_shape, ints, requantization_table
from .operations import Concat, DynamicConv, FloatClamp, FloatPool, Lrn, MaxPool, Resize
from .traits import Operation

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
    """Resize of codes, mode nearest by whole factors: every element is repeated. Declined for any other."""
    if str(attr(node, "mode", "nearest")) != "nearest":
        raise Declined("Resize that interpolates")
    how = str(attr(node, "coordinate_transformation_mode", "half_pixel"))
    if (how, str(attr(node, "nearest_mode", "round_prefer_floor"))) not in _REPEATING or node.attrs.get("axes"):
        raise Declined(f"Resize with {how} coordinates")
    scales, sizes = _flat_constant(node, 2), _flat_constant(node, 3)
    whole = scales is not None and np.all(scales == np.rint(scales)) and np.all(scales >= 1)
    if sizes is None and not whole:
        raise Declined("Resize by factors that are not constant and whole")
    return Resize(
        inputs=(source,), output=output, nodes=nodes,
        factors=() if scales is None else tuple(int(v) for v in scales.tolist()),
        sizes=() if sizes is None else tuple(int(v) for v in sizes.tolist()),
        table=requantization_table(x, y), signed=y.signed,
    )  # fmt: skip


def _flat_constant(node: Node, slot: int) -> Array | None:
    array = constant_array(node.input(slot))
    return None if array is None or array.size == 0 else array.reshape(-1)


def lrn(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization,
    pool: MaxPool | None = None,
) -> Lrn:  # fmt: skip
    """LRN of codes, and `pool` where a MaxPool stands between it and QuantizeLinear."""
    if len(declared_shape(source)) not in (3, 4) or not 0 < int(node.attrs["size"]) <= MAX_SIZE:
        raise Declined("LRN of other than an image, or over too many channels")
    return Lrn(
        inputs=(source,), output=output, nodes=nodes, x=x, y=y, size=int(node.attrs["size"]),
        alpha=float(attr(node, "alpha", 1e-4)), beta=float(attr(node, "beta", 0.75)),
        bias=float(attr(node, "bias", 1.0)), pool=pool,
    )  # fmt: skip


def clip_bounds(node: Node) -> tuple[float, float] | None:
    """The constant limits of Relu or Clip; None where they are not constant or cross."""
    if node.op == "Relu":
        return 0.0, float(np.inf)
    if version_for(node) < 11:
        return float(attr(node, "min", -np.inf)), float(attr(node, "max", np.inf))
    bounds = [-np.inf, np.inf]
    for slot in (1, 2):
        limit = node.input(slot)
        if limit is None:
            continue
        array = constant_array(limit)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        bounds[slot - 1] = float(array.reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None


def float_clamp(node: Node, known: Mapping[Value, Operation]) -> FloatClamp | DynamicConv | None:
    """Relu or Clip of float32; part of the convolution before, where nothing else reads that."""
    bounds = clip_bounds(node)
    if bounds is None or not are_floats(node, known):
        return None
    x = node.inputs[0]
    assert x is not None
    before = known.get(x)
    if isinstance(before, DynamicConv) and before.limits == (-np.inf, np.inf) and len(x.uses) == 1:
        return replace(before, output=node.output, nodes=(*before.nodes, node), limits=bounds)
    return FloatClamp(inputs=(x,), output=node.output, nodes=(node,), low=bounds[0], high=bounds[1])


def hard_sigmoid(node: Node, known: Mapping[Value, Operation]) -> FloatClamp | None:
    """HardSigmoid of float32: a line between 0 and 1."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    slope, shift = float(attr(node, "alpha", 0.2)), float(attr(node, "beta", 0.5))
    return FloatClamp(inputs=(x,), output=node.output, nodes=(node,), slope=slope, shift=shift, low=0.0, high=1.0)


def float_pool(node: Node, known: Mapping[Value, Operation]) -> FloatPool | None:
    """MaxPool, AveragePool and GlobalAveragePool of float32."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    declared = x.type
    assert isinstance(declared, TensorType)
    if declared.shape is None or len(declared.shape) not in (3, 4):
        raise Declined("a pool of other than an image")
    check_unused_indices(node)
    if node.op == "GlobalAveragePool":
        return FloatPool(inputs=(x,), output=node.output, nodes=(node,), mean=True)
    kernel = ints(node, "kernel_shape", ())
    return FloatPool(
        inputs=(x,), output=node.output, nodes=(node,), mean=node.op == "AveragePool", kernel=kernel,
        ceil_mode=bool(attr(node, "ceil_mode", 0)), count_include_pad=bool(attr(node, "count_include_pad", 0)),
        **window_attributes(node, len(kernel)),
    )  # fmt: skip


def float_concat(node: Node, known: Mapping[Value, Operation]) -> Concat | None:
    """Concat of float32 tensors that kernels compute, all of them."""
    inputs = tuple(value for value in node.inputs if value is not None)
    if not are_floats(node, known) or not all(value in known for value in inputs):
        return None
    return Concat(
        inputs=inputs, output=node.output, nodes=(node,), axis=int(node.attrs["axis"]), tables=(None,) * len(inputs),
        floats=True,
    )  # fmt: skip
