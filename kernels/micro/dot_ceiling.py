"""Dot products between registers only: a core's peak rate without loads or stores."""

from __future__ import annotations

from llvmlite import ir

from graphopt.kernels.core.levels import select_level
from graphopt.kernels.micro import dot
from graphopt.kernels.micro.vectors import I8, I32, I64, function, load, repeat, store, variable, vector


def emit(module: ir.Module, symbol: str, level_name: str, sums: int, unroll: int) -> None:
    """Define void symbol(operands, count): `count` times `unroll` dot products into each of `sums` independent sums.

    operands: the weights, then the first value of each sum, a vector each. Each sum is its own next activations, and
    the total is written over the weights, so that LLVM can neither drop nor hoist a dot product.
    """
    level = select_level(level_name)
    _, b = function(module, symbol, ("operands", "count"))
    operands, count = b.function.args
    w = load(b, operands, vector(I8, 4 * level.lanes))
    starts = [load(b, b.add(operands, I64(4 * level.lanes * (1 + i))), vector(I32, level.lanes)) for i in range(sums)]
    places = [variable(b, start) for start in starts]
    with repeat(b, count):
        for _ in range(unroll):
            for place in places:
                total = b.load(place)
                b.store(dot.FORMS[level.dot](b, total, total, w), place)
    total = b.load(places[0])
    for place in places[1:]:
        total = b.add(total, b.load(place))
    store(b, total, operands)
    b.ret_void()
