"""Channels of activations balanced for few bits: scales of channels move into the weights on both sides.

    W2 f(W1 x + b1) = (W2 S) f(S⁻¹ (W1 x + b1))     S = diag(s), s > 0, and f(S z) = S f(z)

for f of Relu, pools and sums, and for Clip at zero with its other limit divided by the largest s. One grid serves all
channels of an activation, and all inputs of a row of weights, so both favor channels of equal range:

    s = |x|^α / |w|^(1 − α)

makes a compromise (Xiao et al. 2023, "SmoothQuant"; Nagel et al. 2019 from weights alone, see `numerics.equalize`). On
the calibration data Clip cuts exactly the same elements as before; on other data it may cut a channel sooner.

Of stored weights in blocks, inputs of products behind a norm are scaled, and its gains take the factors back:

    W n(x; g) = (W S) n(x; S⁻¹ g)     s = (E|n(x)|)^α

The inputs of a block share a step, so larger inputs get finer ones (Lin et al. 2023, "AWQ").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from ....calibration import stream
from ....compress.context import StageContext
from ....compress.layers.linear import PRODUCTS, Linear, linear_of
from ....errors import Declined
from ....ir import Array, Constant, DType, Graph, Model, Node, TensorType, Value, captures
from ....onnx_io import is_large
from ...fold.weights import scale_conv_inputs
from ..options import Quantize
from .shared import share_weights
from .units import find_tables, find_units, layer_units

SHARES = {4: 0.7, 8: 0.5}
"""α by the bits of activations, where readers sum over channels; 1 where none does (depthwise), since each row of
weights then reads one channel. `python -m tests.bench.below8` shows the effect."""
LEAST = 0.03
"""The smallest size of a channel, relative to the largest: unseen samples may exceed the observed size. As for scales a
channel (`numerics.per_channel`)."""
NORMED, SEEN = 0.2, 3
"""α of inputs behind a norm, and the samples that show their sizes. Of 9 groups of layers of SmolLM2-135M at 4 bits,
rounded with covariances, the error on other texts is with 0.1, 0.2, 0.35 and 0.5 as 0.94, 0.91, 0.93 and 1.05 for what
attention reads, as 0.98, 0.97, 0.98 and 1.04 for what gated layers read, where it is 1 with 0: one α serves all. KL on
Wikipedia falls from 0.138 to 0.129: `python -m tests.bench.language`."""
GAINS = {
    "LayerNormalization": (1, 2), "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,),
    "com.microsoft::SkipLayerNormalization": (2, 3), "com.microsoft::SkipSimplifiedLayerNormalization": (2,),
}  # fmt: skip
"""The slots of an operator's gains and shifts along the last axis; Mul has its constant's."""
HOMOGENEOUS = frozenset(("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"))
"""Operators with f(s z) = s f(z) for each channel; Add, Clip and Flatten satisfy it conditionally."""


@dataclass(slots=True)
class _Group:
    """Values that share scales, the layers that write and read them, and the Clips between."""

    values: list[Value] = field(default_factory=list)
    writers: list[Linear] = field(default_factory=list)
    readers: list[Linear] = field(default_factory=list)
    clips: list[Node] = field(default_factory=list)

    @property
    def read(self) -> dict[Value, None]:
        """The values that layers read, in order."""
        return dict.fromkeys(v for linear in self.readers if (v := linear.node.inputs[0]) is not None)


def balance(model: Model, options: Quantize, context: StageContext) -> int:
    """Balance the channels between layers in place, where layers are refitted to fewer than 8 bits, or stored in as
    many behind norms. Returns how many groups of values were scaled."""
    if not options.equalize or not options.has_narrow:
        return 0
    if options.mode == "weights" and context.calibration.shows_activations and not is_large(model):
        return _scale_normed(model, options, context)
    if not options.refits or context.calibration.is_synthetic:
        return 0
    groups = list(_groups(model.graph))
    feeds = islice(iter(context.calibration), options.samples)
    values = [v for group in groups for v in (*group.read, *(clip.output for clip in group.clips))]
    sizes = channel_sizes(model, list(dict.fromkeys(values)), feeds)
    return sum(_balance(model.graph, group, sizes, SHARES[options.activation_bits]) for group in groups)


def _scale_normed(model: Model, options: Quantize, context: StageContext) -> int:
    """Scale the inputs of products behind norms in place; the number of norms. Weights with several readers, as a head
    that is tied to a table, stay one."""
    units = layer_units(find_units(model, options, context.target).members, options.mode)
    _, shared = share_weights([*units, *find_tables(model.graph, options)])
    tied = {*shared.codes_of, *shared.codes_of.values()}
    layers = {u.node: u.layer for u in units if u.node.op in PRODUCTS and u.node not in tied}
    groups = {node: found for node in model.graph if (found := _normed_products(node, layers))}
    sizes: dict[Value, Array] = {}
    for arrays in stream(model, [node.output for node in groups], context.calibration.first(SEEN)):
        for value, array in arrays.items():
            means = np.abs(array).reshape(-1, array.shape[-1]).mean(axis=0, dtype=np.float64)
            sizes[value] = sizes.get(value, 0.0) + means
    count = 0
    for node, products in groups.items():
        size = sizes.get(node.output)
        if size is None or not np.isfinite(size).all() or not size.any():
            continue
        s = np.maximum(size, LEAST * size.max()) ** NORMED
        s = s / np.exp(np.log(s).mean())
        for slot in _gain_slots(node):
            _set(model.graph, node, slot, _constant(node, slot) / s)
        for linear in products:
            _set(model.graph, linear.node, 1, linear.weight * (s if linear.axis == 0 else s[:, None]))
        count += 1
    return count


def _gain_slots(node: Node) -> tuple[int, ...]:
    """The slots of a norm's gains and shifts, of a Mul's constant; none for other operators."""
    slots = [k for k in (0, 1) if node.constant(k) is not None] if node.op == "Mul" else GAINS.get(node.op, ())
    return tuple(k for k in slots if node.input(k) is not None)


def _normed_products(node: Node, layers: Mapping[Node, Linear]) -> list[Linear]:
    """The layers that alone read a norm with constant gains, one a channel; none where it has other readers."""
    gains = [node.constant(k) for k in _gain_slots(node)]
    if not gains or any(gain is None or gain.dtype is not DType.FLOAT for gain in gains):
        return []
    if any(use.slot or use.node not in layers for use in node.output.uses):
        return []
    products = [layers[use.node] for use in node.output.uses]
    shapes = {gain.shape for gain in gains if gain is not None} | {(linear.depth,) for linear in products}
    return products if len(shapes) == 1 else []


@dataclass(frozen=True, slots=True)
class ChannelSizes:
    """Of each channel of a value along axis 1, f64 [C]. deviation: √(E x⁴ / E x²), which rare large elements raise;
    peak: the largest element."""

    deviation: Array
    peak: Array


def channel_sizes(
    model: Model, values: Sequence[Value], feeds: Iterable[dict[str, Any]]
) -> dict[Value, ChannelSizes]:  # fmt: skip
    """The sizes of the channels of some values over all samples."""
    sums: dict[Value, Array] = {}
    peaks: dict[Value, Array] = {}
    for arrays in stream(model, values, feeds):
        for value, array in arrays.items():
            squares, others = np.square(array, dtype=np.float64), (0, *range(2, array.ndim))
            sums[value] = sums.get(value, 0.0) + np.stack([squares.sum(others), np.square(squares).sum(others)])
            peaks[value] = np.maximum(peaks.get(value, 0.0), array.max(others, initial=0.0))
    return {
        v: ChannelSizes(np.sqrt(fourth / np.maximum(second, 1e-30)), peaks[v]) for v, (second, fourth) in sums.items()
    }


def _groups(graph: Graph) -> Iterator[_Group]:
    """The values of the root graph whose channels can be scaled together, between layers on both sides."""
    parent: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        while parent.setdefault(value, value) is not value:
            value = parent[value]
        return value

    layers: dict[Node, Linear] = {}
    fixed = {*graph.inputs, *graph.outputs}
    for node in graph:
        fixed.update(captures(node))
        read = [v for v in node.inputs if v is not None and v.constant is None]
        layer = _layer(node)
        if layer is not None:
            layers[node] = layer
            root(node.output)
        elif _is_homogeneous(node, read):
            for value in read:
                parent[root(value)] = root(node.output)
        else:
            fixed.update((*read, *node.outputs))
    groups: dict[Value, _Group] = {}
    for value in parent:
        groups.setdefault(root(value), _Group()).values.append(value)
    for node, layer in layers.items():
        groups[root(node.output)].writers.append(layer)
        source = node.inputs[0]
        if source in parent:
            groups[root(source)].readers.append(layer)
    for node in (n for n in graph if n.op == "Clip" and n.output in parent):
        groups[root(node.output)].clips.append(node)
    for group in groups.values():
        if group.writers and group.readers and not fixed.intersection(group.values):
            yield group


def _layer(node: Node) -> Linear | None:
    """A layer with its channels along axis 1, else None."""
    if node.op not in ("Conv", "Gemm"):
        return None
    try:
        return linear_of(node)
    except Declined:
        return None


def _is_homogeneous(node: Node, read: Sequence[Value]) -> bool:
    """Whether scaling all of a node's operands by channel scales its result alike."""
    shapes = [v.type.shape if isinstance(v.type, TensorType) else None for v in read]
    if node.op == "Add":
        sizes = [(len(shape), shape[1]) for shape in shapes if shape is not None and len(shape) > 1]
        return len(sizes) == 2 and sizes[0] == sizes[1] and isinstance(sizes[0][1], int)
    if node.op == "Clip":
        low, high = node.constant(1), node.constant(2)
        return low is not None and high is not None and low.size == high.size == 1 and not low.array().any()
    if node.op == "Flatten":
        return shapes[:1] != [None] and len(shapes[0] or ()) > 2 and all(d == 1 for d in (shapes[0] or ())[2:])
    return node.op in HOMOGENEOUS and len(read) == len(node.outputs) == 1


def _balance(graph: Graph, group: _Group, sizes: dict[Value, ChannelSizes], share: float) -> bool:
    """Scale a group; False where its channels are zero, or their numbers differ."""
    seen = [sizes[v].deviation for v in group.read if v in sizes and sizes[v].deviation.any()]
    dense = [_weight_sizes(linear) for linear in group.readers if not linear.is_depthwise]
    counts = {len(a) for a in (*seen, *dense)} | {linear.channels for linear in group.writers}
    if not seen or len(counts) != 1 or any(not weights.any() for weights in dense):
        return False
    s = _mean(seen) ** share / _mean(dense) ** (1 - share) if dense else _mean(seen)
    for clip in group.clips:  # a channel that reaches the limit on the data gets the largest scale
        s = np.maximum(s, s.max() * sizes[clip.output].peak / float(_constant(clip, 2).reshape(())))
    s = s / np.exp(np.log(s).mean())
    for linear in group.writers:
        node, along = linear.node, [-1 if k == linear.axis else 1 for k in range(linear.weight.ndim)]
        _set(graph, node, 1, _constant(node, 1) / s.reshape(along))
        if linear.bias is not None:
            _set(graph, node, 2, _constant(node, 2) / s)
    for linear in group.readers:
        node, weight = linear.node, _constant(linear.node, 1)  # as scaled so far: it may write to another group
        is_conv, along = node.op == "Conv", s if linear.axis == 0 else s[:, None]
        _set(graph, node, 1, scale_conv_inputs(node, weight, s) if is_conv else weight * along)
    for clip in group.clips:
        _set(graph, clip, 2, _constant(clip, 2) / s.max())
    return True


def _mean(sizes: Sequence[Array]) -> Array:
    """The geometric mean of sizes [C], none less than `LEAST` of the largest."""
    return np.asarray(np.exp(np.mean([np.log(np.maximum(a, LEAST * a.max())) for a in sizes], axis=0)))


def _weight_sizes(linear: Linear) -> Array:
    """The root of the mean square of the weights that read each input channel, f64 [C]."""
    squares = linear.weight.astype(np.float64) ** 2
    if linear.node.op != "Conv":
        return np.asarray(np.sqrt(squares.mean(axis=linear.axis)))
    split = squares.reshape(linear.groups, -1, *squares.shape[1:])
    return np.asarray(np.sqrt(split.mean(axis=(1, *range(3, split.ndim))).reshape(-1)))


def _constant(node: Node, slot: int) -> Array:
    constant = node.constant(slot)
    assert constant is not None
    return constant.array()


def _set(graph: Graph, node: Node, slot: int, array: Array) -> None:
    old = node.inputs[slot]
    value = Value(constant=Constant.of(np.array(array, np.float32, order="C")), name="" if old is None else old.name)
    graph.set_input(node, slot, value)
