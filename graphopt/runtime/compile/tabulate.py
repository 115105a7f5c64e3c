"""Binary operations whose two sides are functions of the same codes are functions of one code: tables.

x · HardSigmoid(x), spelled out with a QuantizeLinear behind every operator, costs a multiplication of two tensors where
256 multiplications say it all; as a table it also moves into the epilogue of the product that made x.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ...ir import Array, Node, Value
from ...kernels.tensors.quantization import Quantization
from ..lower.operations import Binary, Operation, Table

_FUNCTIONS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}


def tabulate(operations: Sequence[Operation], exported: Collection[Value]) -> list[Operation]:
    """The same results with such binary operations replaced, and without tables that nobody reads any more."""
    makers: dict[Value, Operation] = {}
    made: list[Operation] = []
    for operation in operations:
        found = _as_table(operation, makers) if isinstance(operation, Binary) else None
        makers[operation.output] = found or operation
        made.append(makers[operation.output])
    read = {*exported}
    kept: list[Operation] = []
    for operation in reversed(made):
        if isinstance(operation, Table) and operation.output not in read:
            continue
        read.update(operation.inputs)
        kept.append(operation)
    return kept[::-1]


def _as_table(operation: Binary, makers: dict[Value, Operation]) -> Table | None:
    first, second = (_ancestry(value, makers) for value in operation.inputs)
    for source, left in first.items():
        if source not in second:
            continue
        a, b = _codes(left, operation.a), _codes(second[source], operation.b)
        with np.errstate(over="ignore"):
            values = _FUNCTIONS[operation.kind](operation.a.dequantize(a), operation.b.dequantize(b))
        table: Array = operation.y.quantize(values)
        if operation.table is not None:
            table = operation.table[table.view(np.uint8)]
        between = tuple(node for value in operation.inputs for node in _nodes(value, source, makers))
        return Table(
            inputs=(source,),
            output=operation.output,
            nodes=(*dict.fromkeys((*between, *operation.nodes)),),
            table=table,
        )
    return None


def _codes(table: Array | None, x: Quantization) -> Array:
    return x.codes() if table is None else table.reshape(-1).view(x.dtype)


def _ancestry(value: Value, makers: dict[Value, Operation]) -> dict[Value, Array | None]:
    """The value and all it is a function of, the nearest first, with the table from there (None: the value itself)."""
    found: dict[Value, Array | None] = {value: None}
    table: Array | None = None
    maker = makers.get(value)
    while isinstance(maker, Table):
        own = maker.table.reshape(-1)
        table = own if table is None else table[own.view(np.uint8)]
        (value,) = maker.inputs
        found[value] = table
        maker = makers.get(value)
    return found


def _nodes(value: Value, source: Value, makers: dict[Value, Operation]) -> list[Node]:
    found: list[Node] = []
    while value is not source:
        maker = makers[value]
        found.extend(maker.nodes)
        (value,) = maker.inputs
    return found
