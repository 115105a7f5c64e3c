"""Elements of integer vectors computed from shapes: numbers, symbolic sizes, or unknown.

Facts flow forward through Shape, Gather, Slice, Concat, Squeeze, Unsqueeze, Cast, Where, comparison and integer
arithmetic. A symbol stands for a size, so it is never negative; a truth value is the number 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Constant, Dim, DType, Node, TensorType, Value
from ..ops import attr, quotient, remainder, total

LONGEST = 64
"""Elements of the longest vector that is followed; a shape has one for each axis."""

_FOLLOWED = (DType.INT64, DType.INT32, DType.BOOL)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The known elements of an integer vector, or of a single number if `scalar`."""

    dims: tuple[Dim, ...]
    scalar: bool = False

    @property
    def known(self) -> bool:
        """Whether every element is a number."""
        return all(isinstance(d, int) for d in self.dims)

    def array(self, dtype: DType) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """The numbers, when all are known."""
        return np.array(self.dims[0] if self.scalar else self.dims, dtype.numpy)


Operands = Sequence[Sizes | None]
Derive = Callable[[Node, Operands], Sizes | None]


def sizes_of_constant(constant: Constant) -> Sizes | None:
    """A short vector or a scalar of integers; None for anything else."""
    if constant.size > LONGEST or len(constant.shape) > 1 or constant.dtype not in _FOLLOWED:
        return None
    return Sizes(tuple(int(v) for v in constant.array().reshape(-1)), constant.shape == ())


def derive_sizes(node: Node, of: Callable[[Value | None], Sizes | None]) -> Sizes | None:
    """The known elements of the result of `node`, from those of its operands, which `of` gives."""
    derive = _TABLE.get(node.op)
    if derive is None or len(node.outputs) != 1 or node.domain or not node.inputs:
        return None
    if node.op in ("Shape", "Size"):
        return derive(node, ())
    operands = [of(v) for v in node.inputs]
    sizes = None if operands[0] is None else derive(node, operands)
    return sizes if sizes is not None and len(sizes.dims) <= LONGEST and _has_its_rank(node, sizes) else None


def _has_its_rank(node: Node, sizes: Sizes) -> bool:
    """Whether the result has the rank of `sizes`: Unsqueeze may insert several axes, Squeeze may keep some."""
    type = node.output.type
    rank = type.rank if isinstance(type, TensorType) else None
    return node.op != "Unsqueeze" if rank is None else rank == (0 if sizes.scalar else 1)


def _shape(node: Node, _: Operands) -> Sizes | None:
    type = None if node.inputs[0] is None else node.inputs[0].type
    if not isinstance(type, TensorType) or type.shape is None:
        return None
    return Sizes(type.shape[slice(node.attrs.get("start"), node.attrs.get("end"))])


def _size(node: Node, _: Operands) -> Sizes | None:
    type = None if node.inputs[0] is None else node.inputs[0].type
    if not isinstance(type, TensorType) or type.shape is None:
        return None
    return Sizes((quotient(type.shape, ()),), True)


def _gather(node: Node, operands: Operands) -> Sizes | None:
    data, index = operands[0], operands[1]
    if data is None or index is None or not index.known or data.scalar or attr(node, "axis", 0) not in (0, -1):
        return None
    picked = [int(i) for i in index.dims if isinstance(i, int)]
    if any(not -len(data.dims) <= i < len(data.dims) for i in picked):
        return None
    return Sizes(tuple(data.dims[i] for i in picked), index.scalar)


def _slice(node: Node, operands: Operands) -> Sizes | None:
    data = operands[0]
    if data is None or data.scalar:
        return None
    bounds = []
    for slot, name in ((1, "starts"), (2, "ends"), (4, "steps")):
        given = node.attrs.get(name)
        if given is None and node.input(slot) is not None:
            sizes = operands[slot]
            given = sizes.dims if sizes is not None and sizes.known else ()
        bounds.append((1,) if given is None and slot == 4 else tuple(given or ()))
    if any(len(b) != 1 for b in bounds):
        return None
    start, end, step = (int(b[0]) for b in bounds)
    return Sizes(data.dims[start:end:step]) if step > 0 else None


def _concat(node: Node, operands: Operands) -> Sizes | None:
    if any(o is None or o.scalar for o in operands):
        return None
    return Sizes(tuple(d for o in operands if o is not None for d in o.dims))


def _reshape(node: Node, operands: Operands) -> Sizes | None:
    data, wanted = operands[0], operands[1]
    if data is None or wanted is None or not wanted.known or wanted.scalar or attr(node, "allowzero", 0):
        return None
    if not wanted.dims:
        return Sizes(data.dims, True) if len(data.dims) == 1 else None
    fits = len(wanted.dims) == 1 and wanted.dims[0] in (-1, len(data.dims))
    return Sizes(data.dims) if fits else None


def _to_scalar(node: Node, operands: Operands) -> Sizes | None:
    data = operands[0]
    return Sizes(data.dims, True) if data is not None and not data.scalar and len(data.dims) == 1 else None


def _to_vector(node: Node, operands: Operands) -> Sizes | None:
    data = operands[0]
    return Sizes(data.dims) if data is not None and data.scalar else None


def _cast(node: Node, operands: Operands) -> Sizes | None:
    """Casts between integers keep the value; known elements are below 2**31, so 32 bits hold them."""
    data, source = operands[0], node.inputs[0]
    if data is None or source is None or not isinstance(source.type, TensorType):
        return None
    fits = all(not isinstance(d, int) or abs(d) < 2**31 for d in data.dims)
    integers = node.attrs.get("to") in (DType.INT64, DType.INT32) and source.type.dtype in _FOLLOWED
    return data if integers and fits else None


def _fill(node: Node, operands: Operands) -> Sizes | None:
    shape, value = operands[0], attr(node, "value")
    if shape is None or shape.scalar or len(shape.dims) != 1 or not isinstance(shape.dims[0], int):
        return None
    number = None if value is None or value.dtype not in _FOLLOWED else int(value.array().reshape(-1)[0])
    return None if number is None or not 0 <= shape.dims[0] <= LONGEST else Sizes((number,) * shape.dims[0])


def _product(node: Node, operands: Operands) -> Sizes | None:
    data = operands[0]
    axes = node.attrs.get("axes") if len(node.inputs) == 1 else (None if operands[1] is None else operands[1].dims)
    if data is None or data.scalar or (axes is not None and tuple(axes) not in ((0,), (-1,), ())):
        return None
    if (len(node.inputs) > 1 and axes is None) or attr(node, "noop_with_empty_axes", 0):
        return None
    return Sizes((quotient(data.dims, ()),), not attr(node, "keepdims", 1))


def _pairs(a: Sizes, b: Sizes) -> list[tuple[Dim, Dim]] | None:
    length = max(len(a.dims), len(b.dims))
    if any(len(o.dims) not in (1, length) for o in (a, b)):
        return None
    first, second = (o.dims * (length if len(o.dims) == 1 else 1) for o in (a, b))
    return list(zip(first, second))


def _elementwise(compute: Callable[[Dim, Dim], Dim]) -> Derive:
    def derive(node: Node, operands: Operands) -> Sizes | None:
        a, b = operands[0], operands[1] if len(operands) == 2 else None
        pairs = None if a is None or b is None else _pairs(a, b)
        if pairs is None or a is None or b is None:
            return None
        dims = tuple(compute(x, y) for x, y in pairs)
        fits = all(not isinstance(d, int) or abs(d) < 2**31 for d in dims)
        return Sizes(dims, a.scalar and b.scalar) if fits else None

    return derive


def _arithmetic(compute: Callable[[int, int], int], neutral: int | None = None, either: bool = True) -> Derive:
    """Compute with numbers; an operand, number or symbol, combined with `neutral` stays unchanged."""

    def one(x: Dim, y: Dim) -> Dim:
        if isinstance(x, int) and isinstance(y, int):
            return compute(x, y)
        if neutral is not None and y == neutral:
            return x
        return y if neutral is not None and either and x == neutral else None

    return _elementwise(one)


def _divide(x: Dim, y: Dim) -> Dim:
    if not isinstance(y, int) or y <= 0:
        return None
    if isinstance(x, int):
        return x // y if x >= 0 else None
    return x if y == 1 else None


def _equal(x: Dim, y: Dim) -> Dim:
    if x is None or y is None:
        return None
    if isinstance(x, int) and isinstance(y, int):
        return int(x == y)
    if x == y:
        return 1
    return 0 if any(isinstance(d, int) and d < 0 for d in (x, y)) else None


def _where(node: Node, operands: Operands) -> Sizes | None:
    choice, a, b = operands
    if choice is None or not choice.known or a is None or b is None:
        return None
    length = max(len(o.dims) for o in (choice, a, b))
    if any(len(o.dims) not in (1, length) for o in (choice, a, b)):
        return None
    c, x, y = (o.dims * (length if len(o.dims) == 1 else 1) for o in (choice, a, b))
    return Sizes(tuple(p if k else q for k, p, q in zip(c, x, y)), choice.scalar and a.scalar and b.scalar)


_TABLE: dict[str, Derive] = {
    "Shape": _shape, "Size": _size, "Gather": _gather, "Slice": _slice, "Concat": _concat, "Reshape": _reshape,
    "Squeeze": _to_scalar, "Unsqueeze": _to_vector, "Cast": _cast, "Identity": lambda node, operands: operands[0],
    "ConstantOfShape": _fill, "ReduceProd": _product, "Add": _elementwise(total),
    "Sub": _elementwise(remainder), "Mul": _arithmetic(lambda x, y: x * y, 1),
    "Div": _elementwise(_divide), "Equal": _elementwise(_equal), "Max": _arithmetic(max, 0), "Min": _arithmetic(min),
    "Mod": _elementwise(lambda x, y: x % y if isinstance(x, int) and isinstance(y, int) and x >= 0 and y > 0 else None),
    "Where": _where,
}  # fmt: skip
"""By operator, the function that derives the result's elements from the operands'."""
