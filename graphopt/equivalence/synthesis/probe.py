"""Shapes of all values for given input sizes: a run's peak memory, and the sizes that weights demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import onnx

from ...onnx_io.parts.order import reads
from ..onnx_graph import SMALL, GraphIndex, without_weights
from .sizes import Symbols

Shape = tuple[int, ...]
ReadNode = tuple[onnx.NodeProto, tuple[str, ...], tuple[str, ...]]
"""A node, and the names that it reads and writes."""

_FURTHEST = 1 << 14
"""The largest size tried: more than the side of any image, or a second of sound."""

_DEMANDS = 8
"""The most demands solved one after another: eight times 13 attempts of 30 inferences, a millisecond each, are 3 s."""
_ALONE = 6
"""The most free dimensions varied one at a time: two images and a length have five."""

# Operand and axis whose size must equal that of an axis of another, constant operand.
_SHARED: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "MatMul": ((0, -1, 1, -2), (1, -2, 0, -1)), "Conv": ((0, 1, 1, 1),), "ConvTranspose": ((0, 1, 1, 0),),
    "LSTM": ((0, 2, 1, 2),), "GRU": ((0, 2, 1, 2),), "RNN": ((0, 2, 1, 2),), "BatchNormalization": ((0, 1, 1, 0),),
    "InstanceNormalization": ((0, 1, 1, 0),), "LayerNormalization": ((0, -1, 1, -1),),
}  # fmt: skip
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
_BROADCAST = frozenset(("Add", "Sub", "Mul", "Div"))


@dataclass(frozen=True, slots=True)
class Demand:
    """A value must have `size` elements along `axis`, or in total if `axis` is None.

    stretches: one element is accepted, too, by broadcasting. repeats: any multiple is accepted, too.
    """

    value: str
    axis: int | None
    size: int
    stretches: bool = False
    repeats: bool = False

    def is_met(self, found: int) -> bool:
        """Whether `found` elements satisfy the demand."""
        return (
            found == self.size
            or (self.stretches and found == 1)
            or (self.repeats and found > 0 and self.size > 0 and found % self.size == 0)
        )

    def found(self, shapes: Mapping[str, Shape]) -> int | None:
        """The value's elements along the axis or in total; None where its shape is unknown."""
        shape = shapes.get(self.value)
        if shape is None or self.axis is None:
            return None if shape is None else math.prod(shape)
        return shape[self.axis] if -len(shape) <= self.axis < len(shape) else None


class Probe:
    """A copy of a model without weights, whose shapes ONNX infers for any sizes of its inputs.

    `nodes`: those of `bare`. `index`: the whole model's, made when it is asked for if it is not given.
    """

    def __init__(self, proto: onnx.ModelProto, index: GraphIndex | None = None) -> None:
        self._proto, self._index, self.bare = proto, index, without_weights(proto)
        del self.bare.graph.value_info[:]
        for output in self.bare.graph.output:
            output.type.tensor_type.ClearField("shape")
        self.constants = {t.name: tuple(t.dims) for t in self.bare.graph.initializer}
        self.nodes: list[ReadNode] = [(node, tuple(node.input), tuple(node.output)) for node in self.bare.graph.node]
        self.fixed = set(self.constants)
        for _, read, written in self.nodes:
            if self.fixed.issuperset(filter(None, read)):
                self.fixed.update(written)
        self._types: dict[str, onnx.ValueInfoProto] = {}
        self._is_narrow = False
        self._integers = set[str]()  # small results whose values ONNX may propagate to shapes
        self._sources = {written[0]: node for node, _, written in self.nodes if node.op_type == "Constant"}

    @cached_property
    def index(self) -> GraphIndex:
        """The index of the whole model."""
        return self._index or GraphIndex(self._proto)

    def narrow(self, shapes: Mapping[str, Shape], constants: Mapping[str, onnx.TensorProto]) -> None:
        """Leave only nodes with a result of unknown shape, or of integers that ONNX may propagate to a shape.

        Results of the others become inputs, or initializers where they are in `constants`.
        """
        closed = {"", *shapes} - (self._integers - constants.keys())
        self.nodes = [one for one in self.nodes if not closed.issuperset(one[2])]
        if not self._is_narrow:  # captures are found by a walk
            self.nodes = [(node, tuple(reads(node)), written) for node, _, written in self.nodes]
            self._is_narrow = True
        read = dict.fromkeys(name for _, names, _ in self.nodes for name in names)
        written = {name for _, _, names in self.nodes for name in names}
        whole = self.bare.graph
        kept = [self._sources[name] for name in read if name in self._sources and name not in written]
        held = {one.name: one for one in whole.initializer if one.name in read}
        held.update((name, constants[name]) for name in read if name in constants and name not in held)
        written.update(held, (node.output[0] for node in kept))
        types = self._types | {one.name: one for one in whole.input}
        self.bare = onnx.ModelProto(ir_version=self.bare.ir_version, opset_import=self.bare.opset_import)
        graph = self.bare.graph
        graph.name = whole.name
        graph.node.extend([*kept, *(node for node, _, _ in self.nodes)])
        graph.initializer.extend(held.values())
        graph.sparse_initializer.extend(whole.sparse_initializer)
        graph.input.extend(types[name] for name in read if name in types and name not in written)

    def shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes inferred from the inputs', by the value's name; unknown shapes are left out."""
        for info in self.bare.graph.input:
            if info.name in inputs:
                shape = info.type.tensor_type.shape
                shape.ClearField("dim")
                shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=n) for n in inputs[info.name])
        try:
            inferred = onnx.shape_inference.infer_shapes(self.bare, data_prop=True).graph
        except Exception:  # a model whose shapes ONNX cannot infer is still tried: its runs have a budget
            return {**self.constants, **inputs}
        found = {**self.constants, **inputs}
        for info in (*inferred.value_info, *inferred.output):
            name, tensor = info.name, info.type.tensor_type
            self._types[name] = info
            dims = tensor.shape.dim
            sizes = tuple([d.dim_value for d in dims])  # 0 where it is open
            if tensor.HasField("shape") and (all(sizes) or all(d.HasField("dim_value") for d in dims)):
                found[name] = sizes
                if tensor.elem_type in _INTEGERS and math.prod(sizes) <= SMALL:
                    self._integers.add(name)
        return found

    def peak(self, shapes: Mapping[str, Shape]) -> int:
        """The most elements alive at once in a run of the nodes in order, weights not counted."""
        last = {name: at for at, node in enumerate(self.index.order) for name in node.input}
        live = peak = sum(math.prod(shapes[i.name]) for i in self.bare.graph.input if i.name in shapes)
        for at, node in enumerate(self.index.order):
            live += sum(math.prod(shapes.get(name, (0,))) for name in node.output if name not in self.fixed)
            peak = max(peak, live)
            gone = {n for n in (*node.input, *node.output) if n not in self.fixed and last.get(n, at) == at}
            live -= sum(math.prod(shapes.get(name, (0,))) for name in gone)
        return peak

    def unmet(self, shapes: Mapping[str, Shape]) -> Demand | None:
        """The first demand of a weight, or of a Reshape to fixed sizes, that these shapes do not satisfy."""
        for node in self.index.order:
            for demand in self._demands(node, shapes):
                found = demand.found(shapes)
                if found is not None and not demand.is_met(found):
                    return demand
        return None

    def _demands(self, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Iterator[Demand]:
        attrs = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        shared: Iterable[tuple[int, int, int, int]] = _SHARED.get(node.op_type, ())
        if node.op_type == "Gemm":
            shared = ((0, -2 if attrs.get("transA") else -1, 1, -1 if attrs.get("transB") else -2),)
        for slot, axis, weight, of in shared:
            dims = shapes.get(node.input[weight], ()) if node.input[weight] in self.fixed else ()
            if dims and node.input[slot] not in self.fixed:
                size = dims[of if -len(dims) <= of < len(dims) else 0]
                yield Demand(node.input[slot], axis, size * (attrs.get("group", 1) if node.op_type == "Conv" else 1))
        if node.op_type in _BROADCAST:
            for slot in (0, 1):
                name, other = node.input[slot], node.input[1 - slot]
                if name not in self.fixed and other in self.fixed:
                    sizes = enumerate(reversed(shapes.get(other, ())))
                    yield from (Demand(name, -1 - at, size, stretches=True) for at, size in sizes if size > 1)
        if node.op_type == "Reshape" and node.input[0] in shapes and node.input[0] not in self.fixed:
            target, dims = self.index.array(node.input[1]), shapes[node.input[0]]
            if target is not None and not attrs.get("allowzero"):
                kept = (dims[i] if n == 0 and i < len(dims) else abs(n) for i, n in enumerate(target.ravel().tolist()))
                yield Demand(node.input[0], None, math.prod(kept), repeats=-1 in target)

    def solve(self, symbols: Symbols, sizes: Mapping[str, int], spent: Callable[[], bool]) -> dict[str, int] | None:
        """Sizes near `sizes`, with batches of one, that satisfy all demands; None if none are found.

        Demands are solved one after another, each by the least common size of all free dimensions, or of one dimension
        with the others unchanged or 1: element counts do not fall as a size grows, so that bisection finds it.
        """
        free = [s for s, kind in symbols.kinds.items() if kind != "batch"]
        chosen = {s: n if s in free else 1 for s, n in sizes.items()}
        groups = [free, *([s] for s in free[:_ALONE])] if len(free) > 1 else [free]

        def count(demand: Demand, rest: Mapping[str, int], group: list[str], size: int) -> int:
            trial = {**rest, **dict.fromkeys(group, size)}
            return demand.found(self.shapes({n: symbols.shape(n, trial) for n in symbols.dims})) or 0

        for _ in range(_DEMANDS):
            demand = self.unmet(self.shapes({n: symbols.shape(n, chosen) for n in symbols.dims}))
            if demand is None:
                return chosen
            for group, rest in ((g, r) for g in groups for r in (chosen, {**chosen, **dict.fromkeys(free, 1)})):
                if spent():
                    return None
                size = _bisect(partial(count, demand, rest, group), demand.size)
                if size is not None:
                    chosen = {**rest, **dict.fromkeys(group, size)}
                    break
            else:
                return None
        return None


def _bisect(count: Callable[[int], int], wanted: int) -> int | None:
    """The least size with `count(size) == wanted`; counts do not fall as the size grows."""
    high = 1
    while count(high) < wanted:
        high *= 2
        if high > _FURTHEST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return high if count(high) == wanted else None
