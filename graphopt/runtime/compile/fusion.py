"""Fusion in a region at known shapes: tables and additions move into the epilogue of the product before them.

Exact: the epilogue first requantizes to the intermediate codes, then applies the addition or table to these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir import Array, Value
from ...kernels.tensors.quantization import Quantization
from ..lower.operations import Binary, Clamp, Conv, ConvTranspose, LinearOperation, Residual, Table
from ..lower.traits import Operation
from .tabulate import tabulate


def fuse(
    operations: Sequence[Operation], shapes: Mapping[Value, tuple[int, ...]], exported: Collection[Value]
) -> list[Operation]:
    """An equivalent, shorter list of operations; values in `exported` are still computed."""
    operations = tabulate(operations, exported)
    uses = Counter(value for operation in operations for value in operation.inputs)
    position: dict[Value, int] = {}
    fused: list[Operation | None] = []
    for operation in operations:
        joined = _fused(operation, fused, position, uses, shapes, exported)
        position[operation.output] = len(fused)
        fused.append(joined)
    return [operation for operation in fused if operation is not None]


def _fused(
    operation: Operation, earlier: list[Operation | None], position: dict[Value, int], uses: Counter[Value],
    shapes: Mapping[Value, tuple[int, ...]], exported: Collection[Value],
) -> Operation:  # fmt: skip
    """The operation fused with its producer, which is dropped from `earlier`; else the operation itself."""
    if not isinstance(operation, (Table, Binary)):
        return operation
    for slot, value in enumerate(operation.inputs):
        if value in exported or uses[value] != 1 or value not in position:
            continue
        before = earlier[position[value]]
        fused: Operation | None = None
        if isinstance(operation, Table):
            fused = _with_table(before, operation)
        elif isinstance(before, LinearOperation):
            fused = _with_residual(before, operation, slot, shapes)
        if fused is not None:
            earlier[position[value]] = None
            return fused
    return operation


def _with_table(before: Operation | None, after: Table) -> Operation | None:
    nodes = () if before is None else (*before.nodes, *after.nodes)
    if isinstance(before, LinearOperation) and before.y is not None:
        if before.table is not None:
            return replace(before, output=after.output, nodes=nodes, table=_through(before.table, after.table))
        limits = limits_of(after.table, before.y)
        if limits is not None:
            own = before.clamp or (before.y.low, before.y.high)
            clamp = (int(np.clip(own[0], *limits)), int(np.clip(own[1], *limits)))
            return replace(before, output=after.output, nodes=nodes, clamp=clamp)
        return replace(before, output=after.output, nodes=nodes, table=after.table)
    if isinstance(before, Binary):
        table = after.table if before.table is None else _through(before.table, after.table)
        return replace(before, output=after.output, nodes=nodes, table=table)
    if isinstance(before, Table):
        return replace(before, output=after.output, nodes=nodes, table=_through(before.table, after.table))
    return None


def _through(first: Array, second: Array) -> Array:
    """The table that composes `first` with `second`."""
    return np.take(second, first.reshape(-1).view(np.uint8))


def limits_of(table: Array, x: Quantization) -> Clamp | None:
    """The limits of a table that only clips codes of type `x.dtype`; None for any other table."""
    if table.dtype != np.dtype(x.dtype):
        return None
    low, high = int(table.min()), int(table.max())
    return (low, high) if np.array_equal(np.clip(x.codes(), low, high), table) else None


def _with_residual(
    before: LinearOperation, after: Binary, slot: int, shapes: Mapping[Value, tuple[int, ...]]
) -> Operation | None:
    other = after.inputs[1 - slot]
    inner, residual = (after.a, after.b) if slot == 0 else (after.b, after.a)
    if after.kind != "add" or other is after.inputs[slot] or shapes[other] != shapes[before.output]:
        return None
    if before.residual is not None or before.table is not None or before.clamp is not None or before.y != inner:
        return None
    if isinstance(before, ConvTranspose) or (isinstance(before, Conv) and before.is_depthwise):
        return None
    nodes = (*before.nodes, *after.nodes)
    clamp = None if after.table is None else limits_of(after.table, after.y)
    return replace(
        before, inputs=(before.inputs[0], other), output=after.output, nodes=nodes, y=after.y, clamp=clamp,
        table=after.table if clamp is None else None, residual=Residual(inner=inner, other=residual),
    )  # fmt: skip
