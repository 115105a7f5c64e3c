"""The plans of a region with growing caches, in one file that holds their shared packed weights once."""

from __future__ import annotations

from collections.abc import Sequence

from ...kernels.products.blocked_matmul import BlockedWeights
from ..compile.executable import Executable, NoExecutable, hidden_addresses
from ..lower.decoders.operations import BlockedMatMul
from ..lower.traits import Operation, Shape
from .plan_cache import PlanCache

_MOST = 16
"""Plans a file holds: eight for float caches, eight for coded ones, that is one for each piece size of a prompt and one
to spare. Each new plan rewrites the file."""

Key = tuple[tuple[Shape, ...], int | None]
"""Shapes of a region's inputs, without the lengths of what grows, and the output of which the last row alone is wanted,
if any."""
Plans = dict[Key, Executable | NoExecutable]


class GrowingPlans:
    """The plans of region `index` by what they are for; read from disk when first asked for."""

    def __init__(self, cache: PlanCache, index: int) -> None:
        self._cache, self._name = cache, (index, "growing")
        self._stored: tuple[Plans, tuple[BlockedWeights, ...]] | None = None

    def _read(self) -> tuple[Plans, tuple[BlockedWeights, ...]]:
        if self._stored is None:
            self._stored = self._cache.load(self._name) or ({}, ())
        return self._stored

    def find(self, key: Key) -> Executable | NoExecutable | None:
        """The plan for these shapes; None where there is none."""
        return self._read()[0].get(key)

    def lend_weights(self, operations: Sequence[Operation]) -> None:
        """Give the stored plans' packed weights to the operations, so that no weight is packed again."""
        for operation, packed in zip(_products(operations), self._read()[1]):
            operation.weights.packed = packed

    def keep(self, key: Key, plan: Executable | NoExecutable, operations: Sequence[Operation]) -> None:
        """Write another plan to the others, if there is room and any process could run it."""
        plans, weights = self._read()
        if len(plans) >= _MOST or (isinstance(plan, Executable) and hidden_addresses(plan)):
            return
        if isinstance(plan, Executable):
            weights = tuple(operation.weights.packed for operation in _products(operations))
        plans[key] = plan
        self._stored = plans, weights
        self._cache.save(self._name, self._stored)


def _products(operations: Sequence[Operation]) -> list[BlockedMatMul]:
    return [operation for operation in operations if isinstance(operation, BlockedMatMul)]
