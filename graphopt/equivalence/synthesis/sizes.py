"""Sizes for symbolic dimensions: one size per name, chosen by the kind that its name and axis suggest."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..value_info import ValueInfo

_FLOATS = (1, 10, 11, 16)  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}
_BATCH = re.compile(r"(^|_|\b)(n|b|bs|batch)(_?size|_?dim)?($|\b|_)|batch|DynamicDimension\.0$", re.IGNORECASE)

PREFERRED = {
    "batch": (1, 2, 3, 1), "image": (64, 96, 32, 160), "time": (8, 5, 16, 1), "past": (4, 3, 1, 7),
    "node": (6, 9, 3, 1), "volume": (16, 24, 8, 32), "channel": (3, 3, 3, 3),
}  # fmt: skip
"""Sizes by kind: the first is tried first, the others vary the samples (1, several, odd). Small, so that a comparison
is quick; models that require larger sizes are fed from `_LADDER`."""

_LADDER = (
    2, 3, 4, 5, 6, 7, 9, 10, 12, 16, 20, 32, 40, 48, 64, 80, 96, 100, 128, 160, 192, 224, 256, 320, 384, 400, 512, 576,
    640, 768, 1024, 1536, 2048, 4096, 8000, 16000, 32000, 48000,
)  # fmt: skip
"""Sizes that models often fix internally (strides, image sides, sequence lengths, sampling rates): the smallest that
runs wins, but 1, at which operators hide their effect, comes last."""
_LIKELY = (2, 3, 4, 16, 32, 48, 64, 96, 128, 224)
"""Sizes of `_LADDER` that are drawn for each dimension independently."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """The free dimensions of a model's inputs: `kind` of each, and per input the dims as sizes, keys or expressions."""

    kinds: Mapping[str, str]
    dims: Mapping[str, tuple[int | str, ...]]

    def shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of an input under an assignment of sizes."""
        return tuple(d if isinstance(d, int) else max(evaluate(d, sizes), 0) for d in self.dims[name])


def read_symbols(inputs: Sequence[ValueInfo], ranks: Mapping[str, int]) -> Symbols:
    """Name every free dimension. Unnamed ones on the same axis are one dimension; `ranks` fills unknown ranks in."""
    dims: dict[str, tuple[int | str, ...]] = {}
    kinds: dict[str, str] = {}
    for info in inputs:
        if not info.elem:
            continue
        declared = info.dims if info.dims is not None else (None,) * ranks.get(info.name, 1)
        named = [_named(d, i, declared) for i, d in enumerate(declared)]
        dims[info.name] = tuple(named)
        for axis, dim in enumerate(named):
            if isinstance(dim, str):
                for symbol in free_symbols(dim):
                    kind = _kind(symbol, axis, info, declared)
                    if kinds.get(symbol, "time") == "time":
                        kinds[symbol] = kind
    return Symbols(kinds, dims)


def _named(dim: int | str | None, axis: int, dims: tuple[int | str | None, ...]) -> int | str:
    if isinstance(dim, str):
        return dim
    if dim is not None and dim > 0:
        return dim
    is_state = axis == 1 and len(dims) == 3 and isinstance(dims[0], int) and isinstance(dims[2], int)
    if (axis == 0 and len(dims) > 1) or (is_state and dims[0] and dims[2]):
        return "batch?"  # [batch, ...], or the state of a recurrent layer: [layers, batch, hidden]
    return f"axis{axis}?"


def _kind(symbol: str, axis: int, info: ValueInfo, dims: tuple[int | str | None, ...]) -> str:
    lower, rank = symbol.lower(), len(dims)
    if "past" in lower or "cache" in lower:
        return "past"
    if "channel" in lower:
        return "channel"
    if "node" in lower or "edge" in lower:
        return "node"
    if (axis == 0 and (rank > 1 or _BATCH.search(symbol))) or "batch" in lower:
        return "batch"
    pictured = info.elem in _FLOATS or info.elem == 2
    if pictured and rank == 4 and axis > 0:
        is_last = dims[-1] in (1, 3, 4)
        if (
            (is_last and axis in (1, 2))
            or (not is_last and axis in (2, 3) and dims[1] in (1, 3, 4, None))
            or (axis in (2, 3) and isinstance(dims[2], (str, type(None))) and isinstance(dims[3], (str, type(None))))
        ):
            return "image"
    return "volume" if pictured and rank == 5 and axis >= 2 else "time"


def free_symbols(dim: str) -> list[str]:
    """The names in a dimension's expression; the whole text if it is not arithmetic of names and numbers."""
    tree = _parse(dim)
    return [dim] if tree is None else sorted({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)})


def evaluate(dim: str, sizes: Mapping[str, int]) -> int:
    """The size of a dimension such as `past_sequence_length + 1`."""
    if dim in sizes:
        return sizes[dim]
    tree = _parse(dim)
    return 1 if tree is None else _evaluate(tree, sizes)


def _parse(dim: str) -> ast.expr | None:
    try:
        tree = ast.parse(dim.replace(" / ", " // "), mode="eval").body
    except SyntaxError:
        return None
    allowed = (ast.BinOp, ast.Name, ast.Constant, ast.Load, *_OPERATORS)
    return tree if all(isinstance(n, allowed) for n in ast.walk(tree)) else None


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id, 1)
    if isinstance(tree, ast.Constant):
        return int(tree.value) if isinstance(tree.value, (int, float)) else 1
    assert isinstance(tree, ast.BinOp)
    right = _evaluate(tree.right, sizes)
    apply = _OPERATORS[type(tree.op)]
    return int(apply(_evaluate(tree.left, sizes), right)) if right or type(tree.op) is not ast.FloorDiv else 1


def preferred(symbols: Symbols, sample: int) -> dict[str, int]:
    """The preferred sizes of sample number `sample`."""
    sizes = {s: PREFERRED[kind][sample % len(PREFERRED[kind])] for s, kind in symbols.kinds.items()}
    return _with_totals(symbols, sizes)


def _with_totals(symbols: Symbols, sizes: dict[str, int]) -> dict[str, int]:
    """A total length is the past plus the present one."""
    past = [s for s, kind in symbols.kinds.items() if kind == "past" and "total" not in s.lower()]
    for symbol in sizes:
        lower = symbol.lower()
        if not past or not ("total" in lower or ("past" in lower and "+" in lower)):
            continue
        now = [s for s, k in symbols.kinds.items() if k == "time" and "total" not in s.lower()]
        sizes[symbol] = sizes[past[0]] + (sizes[now[0]] if now else 1)
    return sizes


def attempts(symbols: Symbols, rng: np.random.Generator) -> Iterator[dict[str, int]]:
    """Assignments to try until the model runs: preferred ones, then common sizes, then relations between symbols."""
    base = preferred(symbols, 0)
    yield base
    if not base:
        return
    free = [s for s, kind in symbols.kinds.items() if kind not in ("batch", "channel")]
    yield {**base, **{s: 1 for s, kind in symbols.kinds.items() if kind == "batch"}}
    for size in _LADDER[:16]:
        yield {**base, **dict.fromkeys(free, size)}
    yield from _related(base, free)
    for size in _LADDER[16:]:
        yield {**base, **dict.fromkeys(free, size)}
    yield dict.fromkeys(base, 1)
    yield dict.fromkeys(base, 2)
    for symbol in free[:6]:
        yield from ({**base, symbol: size} for size in (1, 2, 3, 4, 5, 7, 16, 32))
    for _ in range(24):
        yield {s: n if s not in free else int(rng.choice(_LIKELY)) for s, n in base.items()}


def reshapable(sizes: Mapping[str, int], given: Sequence[int], asked: Sequence[int]) -> Iterator[dict[str, int]]:
    """Sizes at which a tensor with the shape `given` at `sizes` could be reshaped to `asked`, where -1 is free.

    One dimension becomes a size of `asked`, and if that does not suffice another compensates; or one grows in
    proportion.
    """
    found, wanted = math.prod(given), abs(math.prod(asked))
    if not found or not wanted or 0 in sizes.values():
        return

    def lacking(elements: Fraction) -> Fraction:
        share = wanted / elements
        return Fraction(share.numerator) if -1 in asked else share

    for symbol, size in sizes.items():
        for other in dict.fromkeys(n for n in asked if n > 1 and n != size):
            rest, chosen = lacking(Fraction(found * other, size)), {**sizes, symbol: other}
            yield from [chosen] if rest == 1 else _scaled(chosen, [s for s in sizes if s != symbol], rest)
    yield from _scaled(sizes, sizes, lacking(Fraction(found)))


def _scaled(sizes: Mapping[str, int], symbols: Iterable[str], factor: Fraction) -> Iterator[dict[str, int]]:
    """`sizes` with one of `symbols` multiplied by `factor`, if the product is an integer."""
    for symbol in symbols:
        size = sizes[symbol] * factor
        if size.denominator == 1:
            yield {**sizes, symbol: int(size)}


def _related(base: Mapping[str, int], free: Sequence[str]) -> Iterator[dict[str, int]]:
    """One dimension is the sum of two others, or two are equal though their names differ."""
    if not 2 <= len(free) <= 6:
        return
    for total in free:
        for first in free:
            for second in free:
                if first < second and total not in (first, second):
                    yield {**base, total: base[first] + base[second]}
    for first in free:
        for second in free:
            if first != second:
                yield {**base, first: base[second] + 1}
                yield {**base, first: 1}
