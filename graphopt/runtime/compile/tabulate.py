"""Binary operations whose operands are both functions of the same codes become tables of 256 entries.

x · HardSigmoid(x) with a QuantizeLinear behind every operator multiplies two tensors; its table costs 256
multiplications once, and moves into the epilogue of the product that computes x.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ...ir import Array, Node, Value
from ...kernels.tensors.quantization import Quantization
from ..lower.operations import Binary, Table
from ..lower.traits import Operation

_FUNCTIONS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}


def tabulate(operations: Sequence[Operation], exported: Collection[Value]) -> list[Operation]:
    """Equivalent operations, with Binary replaced by Table where possible, and without unread tables."""
    providers: dict[Value, Operation] = {}
    for operation in operations:
        table = _as_table(operation, providers) if isinstance(operation, Binary) else None
        providers[operation.output] = table or operation
    read = {*exported}
    kept: list[Operation] = []
    for operation in reversed(providers.values()):
        if isinstance(operation, Table) and operation.output not in read:
            continue
        read.update(operation.inputs)
        kept.append(operation)
    return kept[::-1]


def _as_table(operation: Binary, providers: dict[Value, Operation]) -> Table | None:
    first, second = (_ancestry(value, providers) for value in operation.inputs)
    for source, left in first.items():
        if source not in second:
            continue
        a, b = _codes(left, operation.a), _codes(second[source], operation.b)
        with np.errstate(over="ignore"):
            values = _FUNCTIONS[operation.kind](operation.a.dequantize(a), operation.b.dequantize(b))
        table: Array = operation.y.quantize(values)
        if operation.table is not None:
            table = operation.table[table.view(np.uint8)]
        between = tuple(node for value in operation.inputs for node in _nodes(value, source, providers))
        return Table(
            inputs=(source,),
            output=operation.output,
            nodes=(*dict.fromkeys((*between, *operation.nodes)),),
            table=table,
        )
    return None


def _codes(table: Array | None, x: Quantization) -> Array:
    return x.codes() if table is None else table.reshape(-1).view(x.dtype)


def _ancestry(value: Value, providers: dict[Value, Operation]) -> dict[Value, Array | None]:
    """The values that `value` is a function of, itself first, each with the table from its codes (None for itself)."""
    tables: dict[Value, Array | None] = {value: None}
    table: Array | None = None
    provider = providers.get(value)
    while isinstance(provider, Table):
        own = provider.table.reshape(-1)
        table = own if table is None else table[own.view(np.uint8)]
        (value,) = provider.inputs
        tables[value] = table
        provider = providers.get(value)
    return tables


def _nodes(value: Value, source: Value, providers: dict[Value, Operation]) -> list[Node]:
    nodes: list[Node] = []
    while value is not source:
        provider = providers[value]
        nodes.extend(provider.nodes)
        (value,) = provider.inputs
    return nodes
