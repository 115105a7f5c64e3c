"""Expressions over values of a graph: each operation on a `Tensor` appends one ONNX node at the end of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from ..errors import Declined
from ..ir import Constant, Dim, DType, Graph, Node, TensorType, Value
from ..ops import infer, schema_of


class Writer:
    """Appends nodes to a graph, typed at once; equal constants and shapes are created once.

    The graph's opset must be 18 or later: axes of reductions are inputs from there on.

    block: channels per block where convolutions may use onnxruntime's blocked layout of this machine, else 0. anchor:
    the node before which new nodes are inserted, None for the end.
    """

    def __init__(self, graph: Graph, block: int = 0) -> None:
        self.graph, self.block = graph, block
        self.anchor: Node | None = None
        self.origins: tuple[str, ...] = ()
        self.blocked: dict[Value, Value] = {}  # values in blocks of channels, by the values that they store
        self._constants: dict[tuple[bytes, int, tuple[int, ...]], Value] = {}
        self._shapes: dict[Value, Value] = {}

    def nodes(self, op: str, *inputs: Tensor | Value | None, outputs: int = 1, **attrs: Any) -> tuple[Tensor, ...]:
        """Append one node; returns its outputs. Attributes of None are omitted.

        Declined where the opset lacks the operator.
        """
        if not op.count("::") and schema_of(op, self.graph.opsets.get("", 0)) is None:
            raise Declined(f"{op} is not in opset {self.graph.opsets.get('', 0)}")
        values = [v.value if isinstance(v, Tensor) else v for v in inputs]
        while values and values[-1] is None:
            values.pop()
        kept = {name: value for name, value in attrs.items() if value is not None}
        node = Node(op, values, kept, outputs)
        node.origins, node.made_by = self.origins, "gradient"
        for value, type in zip(node.outputs, infer(node, self.graph.opsets)):
            value.type = type
        if self.anchor is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.anchor, node)
        return tuple(Tensor(self, value) for value in node.outputs)

    def node(self, op: str, *inputs: Tensor | Value | None, **attrs: Any) -> Tensor:
        """Append one node with one output; returns the output."""
        return self.nodes(op, *inputs, **attrs)[0]

    def scatter(
        self, op: str, data: Tensor, places: Tensor, updates: Tensor, reduction: str = "none", **attrs: Any
    ) -> Tensor:
        """ScatterElements or ScatterND. Half-precision reductions, for which onnxruntime has no CPU kernel, run in
        float32."""
        if reduction == "none":
            return self.node(op, data, places, updates, **attrs)
        dtype = DType.FLOAT if data.dtype is DType.FLOAT16 else data.dtype
        made = self.node(op, data.cast(dtype), places, updates.cast(dtype), reduction=reduction, **attrs)
        return made.cast(data.dtype)

    def constant(self, array: Any, dtype: DType | None = None) -> Tensor:
        """A constant from a numpy array or a number, in `dtype` if given."""
        array = np.asarray(array)
        if dtype is not None:
            array = array.astype(dtype.numpy)
        kind = DType.of(array.dtype) if dtype is None else dtype
        key = (array.tobytes(), int(kind), array.shape)
        if key not in self._constants:
            self._constants[key] = Value(constant=Constant.of(array, kind))
        return Tensor(self, self._constants[key])

    def ints(self, numbers: Iterable[int | Tensor]) -> Tensor:
        """A vector i64[n] of sizes, each a number or an i64[1] tensor."""
        parts = list(numbers)
        if all(isinstance(part, int) for part in parts):
            return self.constant(np.array(parts, np.int64).reshape(-1))
        vectors = [self.constant(np.array([p], np.int64)) if isinstance(p, int) else p for p in parts]
        return vectors[0] if len(vectors) == 1 else self.node("Concat", *vectors, axis=0)

    def full(self, shape: Tensor, number: float, dtype: DType) -> Tensor:
        """A tensor of one number."""
        return self.node("ConstantOfShape", shape, value=Constant.of(np.array([number]).astype(dtype.numpy), dtype))

    def ones(self, size: int | Tensor) -> Tensor:
        """A row f32[1, size] of ones."""
        if isinstance(size, int):
            return self.constant(np.ones((1, size)), DType.FLOAT)
        return self.full(self.ints([1, size]), 1.0, DType.FLOAT)

    def shape_of(self, value: Value) -> Tensor:
        """The shape of a value as i64[rank], constant where known."""
        type = value.type
        if isinstance(type, TensorType) and type.sizes is not None:
            return self.constant(np.array(type.sizes, np.int64))
        if value not in self._shapes:
            self._shapes[value] = self.node("Shape", value).value
        return Tensor(self, self._shapes[value])


class Tensor:
    """A value of a graph with numpy's arithmetic: `g * (1 - y * y)` appends three nodes.

    Numbers take the element type of the tensor they meet. Broadcasting is numpy's.
    """

    __slots__ = ("value", "writer")

    def __init__(self, writer: Writer, value: Value) -> None:
        self.writer, self.value = writer, value

    # -- types and shapes

    @property
    def type(self) -> TensorType:
        """The element type and shape; Declined for sequences and optionals."""
        if not isinstance(self.value.type, TensorType):
            raise Declined("a value whose type is unknown or no tensor", self.value)
        return self.value.type

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.type.dtype

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape: numbers, names, None. Declined where the rank is unknown."""
        if self.type.shape is None:
            raise Declined("a tensor of unknown rank", self.value)
        return self.type.shape

    @property
    def rank(self) -> int:
        """The number of axes; Declined where it is unknown."""
        return len(self.dims)

    @property
    def shape(self) -> Tensor:
        """The shape as i64[rank]: constant where known, else computed at run time."""
        return self.writer.shape_of(self.value)

    def size(self, axis: int) -> int | Tensor:
        """The size of one axis: a number, or i64[1] at run time."""
        dim = self.dims[axis]
        if isinstance(dim, int):
            return dim
        axis %= self.rank
        return self.shape.slice([axis], [axis + 1])

    def sizes(self) -> list[int | Tensor]:
        """The sizes of all axes."""
        return [self.size(axis) for axis in range(self.rank)]

    # -- arithmetic

    def _with(self, op: str, other: Operand, swap: bool = False) -> Tensor:
        b = other if isinstance(other, Tensor) else self.number(other)
        return self.writer.node(op, b, self) if swap else self.writer.node(op, self, b)

    def number(self, number: float) -> Tensor:
        """A number in this element type; of this rank where the last axis has size 1, since onnxruntime broadcasts a
        scalar over such tensors element by element, at a hundred times the time."""
        shape = self.type.shape or ()
        return self.writer.constant(np.full([1] * len(shape) if shape[-1:] == (1,) else [], number), self.dtype)

    def __add__(self, other: Operand) -> Tensor:
        return self._with("Add", other)

    def __radd__(self, other: Operand) -> Tensor:
        return self._with("Add", other)

    def __sub__(self, other: Operand) -> Tensor:
        return self._with("Sub", other)

    def __rsub__(self, other: Operand) -> Tensor:
        return self._with("Sub", other, swap=True)

    def __mul__(self, other: Operand) -> Tensor:
        return self._with("Mul", other)

    def __rmul__(self, other: Operand) -> Tensor:
        return self._with("Mul", other)

    def __truediv__(self, other: Operand) -> Tensor:
        return self._with("Div", other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self._with("Div", other, swap=True)

    def __pow__(self, other: Operand) -> Tensor:
        return self._with("Pow", other)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.writer.node("MatMul", self, other)

    def __neg__(self) -> Tensor:
        return self.writer.node("Neg", self)

    def positive(self) -> Tensor:
        """1 for x > 0, else 0. For this machine alone min(max(2¹²⁷ x, 0), 1), which is between 0 and 1 for x < 2⁻¹²⁷:
        operators that use all threads, where onnxruntime casts bools to floats on one."""
        if self.writer.block and self.dtype is DType.FLOAT:
            return self.writer.node("HardSigmoid", self, alpha=2.0**127, beta=0.0)
        return self.greater(0).cast(self.dtype)

    def same(self, other: Tensor) -> Tensor:
        """1 where both are equal, else 0. For this machine alone by their difference d, as min(max(1 − 2¹²⁷ d², 0), 1),
        which is 1 for |d| < 2⁻⁷⁵ and between 0 and 1 below 2⁻⁶³."""
        if self.writer.block and self.dtype is DType.FLOAT:
            d = self - other
            return self.writer.node("HardSigmoid", d * d, alpha=-(2.0**127), beta=1.0)
        return self.equals(other).cast(self.dtype)

    def equals(self, other: Operand) -> Tensor:
        """Elementwise ==, as bool."""
        return self._with("Equal", other)

    def greater(self, other: Operand) -> Tensor:
        """Elementwise >, as bool."""
        return self._with("Greater", other)

    def less(self, other: Operand) -> Tensor:
        """Elementwise <, as bool."""
        return self._with("Less", other)

    def both(self, other: Tensor) -> Tensor:
        """Logical and."""
        return self.writer.node("And", self, other)

    def where(self, yes: Operand, no: Operand) -> Tensor:
        """`yes` where this bool tensor holds, else `no`; at least one of both is a tensor."""
        like = yes if isinstance(yes, Tensor) else no
        assert isinstance(like, Tensor)
        a, b = (v if isinstance(v, Tensor) else self.writer.constant(v, like.dtype) for v in (yes, no))
        return self.writer.node("Where", self, a, b)

    def __getattr__(self, op: str) -> Any:
        """`x.Exp()` is the operator Exp of x; attributes are keywords."""
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *more, **attrs: self.writer.node(op, self, *more, **attrs)

    def cast(self, dtype: DType) -> Tensor:
        """The same numbers in another element type."""
        return self if self.dtype is dtype else self.writer.node("Cast", self, to=int(dtype))

    # -- reductions

    def sum(self, axes: Sequence[int] | Tensor | None = None, keepdims: bool = False) -> Tensor:
        """The sum over some axes, by default all."""
        return self._reduced("ReduceSum", axes, keepdims)

    def mean(self, axes: Sequence[int] | Tensor | None = None, keepdims: bool = False) -> Tensor:
        """The mean over some axes, by default all."""
        return self._reduced("ReduceMean", axes, keepdims)

    def max(self, axes: Sequence[int] | Tensor | None = None, keepdims: bool = False) -> Tensor:
        """The largest element over some axes, by default all."""
        return self._reduced("ReduceMax", axes, keepdims)

    def _reduced(self, op: str, axes: Sequence[int] | Tensor | None, keepdims: bool) -> Tensor:
        if axes is not None and not isinstance(axes, Tensor):
            if not axes:
                return self
            axes = self.writer.ints([int(a) for a in axes])
        noop = 1 if isinstance(axes, Tensor) and axes.value.constant is None else None
        return self.writer.node(op, self, axes, keepdims=int(keepdims), noop_with_empty_axes=noop)

    # -- shapes

    def reshape(self, shape: Tensor | Sequence[int | Tensor]) -> Tensor:
        """Reshape; 0 copies a size and -1 is computed, as in ONNX."""
        wanted = shape if isinstance(shape, Tensor) else self.writer.ints(shape)
        known = wanted.value.constant
        if self._has_shape(wanted):
            return self
        literal = isinstance(shape, Tensor) and (known is None or 0 in known.array())  # a 0 here is a size, not a copy
        return self.writer.node("Reshape", self, wanted, allowzero=1 if literal else None)

    def expand(self, shape: Tensor | Sequence[int | Tensor]) -> Tensor:
        """Broadcast to a shape."""
        wanted = shape if isinstance(shape, Tensor) else self.writer.ints(shape)
        if self._has_shape(wanted):
            return self
        return self.writer.node("Expand", self, wanted)

    def _has_shape(self, shape: Tensor) -> bool:
        """Whether the tensor's shape is known and equals `shape`."""
        known, sizes = shape.value.constant, self.type.sizes
        return known is not None and sizes is not None and tuple(known.array()) == sizes

    def transpose(self, perm: Sequence[int]) -> Tensor:
        """The axes in another order."""
        return self if list(perm) == list(range(len(perm))) else self.writer.node("Transpose", self, perm=tuple(perm))

    @property
    def T(self) -> Tensor:
        """The last two axes swapped."""
        n = self.rank
        return self.transpose([*range(n - 2), n - 1, n - 2])

    def unsqueeze(self, axes: Sequence[int]) -> Tensor:
        """New axes of size 1, counted in the result."""
        return self.writer.node("Unsqueeze", self, self.writer.ints(list(axes))) if axes else self

    def squeeze(self, axes: Sequence[int]) -> Tensor:
        """Without the given axes of size 1."""
        return self.writer.node("Squeeze", self, self.writer.ints(list(axes))) if axes else self

    @overload
    def slice(self, starts: Sequence[int], ends: Sequence[int], axes: None = None, steps: None = None) -> Tensor: ...

    @overload
    def slice(
        self, starts: Sequence[int | Tensor], ends: Sequence[int | Tensor], axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> Tensor: ...  # fmt: skip

    def slice(
        self, starts: Sequence[Any], ends: Sequence[Any], axes: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
    ) -> Tensor:  # fmt: skip
        """The elements from `starts` to `ends`, of the first axes unless `axes` are given."""
        w = self.writer
        over = list(range(len(starts))) if axes is None else list(axes)
        more = [] if steps is None or all(s == 1 for s in steps) else [w.ints(list(steps))]
        return w.node("Slice", self, w.ints(starts), w.ints(ends), w.ints(over), *more)

    def flipped(self, axes: Sequence[int]) -> Tensor:
        """The elements of some axes in reverse order."""
        if not axes:
            return self
        n = len(axes)
        return self.slice([-1] * n, [-(2**31)] * n, list(axes), [-1] * n)

    def pad(self, pads: Sequence[int | Tensor], number: float = 0.0) -> Tensor:
        """Pad as ONNX does: all begins and then all ends; negative numbers crop."""
        if all(isinstance(p, int) and p == 0 for p in pads):
            return self
        value = None if number == 0 else self.writer.constant(number, self.dtype)
        return self.writer.node("Pad", self, self.writer.ints(pads), value)

    def zeros(self) -> Tensor:
        """Zeros of this shape and element type."""
        return self.filled(0.0)

    def filled(self, number: float) -> Tensor:
        """One number in this shape and element type."""
        return self.writer.full(self.shape, number, self.dtype)

    def reduced_to(self, like: Tensor) -> Tensor:
        """The sum over the axes along which `like` was broadcast to this shape: the gradient of broadcasting.

        Where sizes are unknown and may differ, the axes are found at run time.
        """
        have, want = self.dims, like.dims
        lead = len(have) - len(want)
        if lead < 0:
            raise Declined(f"a cotangent of rank {len(have)} for a tensor of rank {len(want)}", like.value)
        pairs = list(zip(have[lead:], want))
        if all(w is not None and (h == w or w == 1) for h, w in pairs):
            ones = [lead + i for i, (h, w) in enumerate(pairs) if w == 1 and h != 1]
            out = self.sum(ones, keepdims=True) if ones else self
            return out.sum(list(range(lead))) if lead else out
        writer = self.writer
        out = self.sum(list(range(lead))) if lead else self
        differs = writer.node("Not", out.shape.equals(like.shape))
        axes = writer.node("NonZero", differs).reshape([-1])
        out = out.sum(axes, keepdims=True)
        out.value.type = like.value.type
        return out


Operand = Tensor | float
