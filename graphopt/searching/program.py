"""The integer program of a search: one choice a decision, least cost within limits, solved by HiGHS.

Costs that depend on several decisions are linear in variables for the combinations of their choices, whose sums are
tied to the choices (the local polytope of Wainwright and Jordan 2008): exact for integral choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from ..ir import Array

_NODES = 200
"""Nodes of the search tree after which HiGHS returns its best plan so far: a bound not in seconds, so that a busy
machine returns the same plan."""
_GAP = 1e-4
"""The default relative gap between a plan's cost and the lower bound."""

Terms = Sequence[tuple[tuple[int, ...], Array]]
"""Costs: each a tuple of decisions, and an array with an axis for each of these."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A sum of costs that is at most `most`."""

    terms: Terms
    most: float


class _Columns:
    """The variables: one per choice of each decision, and one per combination of choices for each joint cost."""

    def __init__(self, sizes: Sequence[int], sets: Sequence[tuple[int, ...]]) -> None:
        self.sizes = sizes
        self.starts = list(np.concatenate([[0], np.cumsum(sizes)]).astype(int))
        self.count = int(self.starts[-1])
        self.whole = self.count
        self.sets: dict[tuple[int, ...], int] = {}
        for over in sets:
            if len(over) > 1 and over not in self.sets:
                self.sets[over] = self.count
                self.count += math.prod(sizes[i] for i in over)

    def costs(self, terms: Terms) -> Array:
        """The costs as a row over all variables."""
        row = np.zeros(self.count)
        for over, costs in terms:
            start = self.starts[over[0]] if len(over) == 1 else self.sets[over]
            row[start : start + costs.size] += np.ravel(costs)
        return row


def solve(
    sizes: Sequence[int], goal: Terms, limits: Sequence[Limit], banned: Sequence[tuple[int, ...]] = (), apart: int = 1,
    *, gap: float = _GAP,
) -> tuple[int, ...] | None:  # fmt: skip
    """The choice of each decision with the least cost; None where no plan meets the limits.

    sizes: the number of choices of each decision. banned: plans from which the result differs in at least `apart`
    decisions. gap: relative gap between the cost and the lower bound.
    """
    from scipy.optimize import Bounds, milp

    terms = [term for some in (goal, *(limit.terms for limit in limits)) for term in some]
    columns = _Columns(sizes, [over for over, _ in terms])
    goal_row = columns.costs(goal)
    scale = float(np.abs(goal_row).max()) or 1.0
    tie = np.zeros(columns.count)  # among equal plans prefers the one with fewest changes
    for start, size in zip(columns.starts, sizes):
        tie[start : start + size] = 1e-7 * np.arange(size)  # a thousandth of the gap
    whole = np.zeros(columns.count)
    whole[: columns.whole] = 1
    solution = milp(
        goal_row / scale + tie, integrality=whole, bounds=Bounds(0, 1),
        constraints=[*_ties(columns), *_limits(columns, limits), *_others(columns, banned, apart)],
        options={"node_limit": _NODES, "mip_rel_gap": gap},
    )  # fmt: skip
    if solution.x is None:
        return None
    starts = columns.starts
    return tuple(int(np.argmax(solution.x[a:b])) for a, b in pairwise(starts))


def _ties(columns: _Columns) -> list[Any]:
    """The constraints: one choice per decision; combinations sum to the choices that they contain."""
    from scipy.optimize import LinearConstraint
    from scipy.sparse import coo_array

    rows: list[tuple[int, int, float]] = []
    sums: list[float] = []
    for start, size in zip(columns.starts, columns.sizes):
        rows += [(len(sums), start + choice, 1.0) for choice in range(size)]
        sums.append(1.0)
    for over, first in columns.sets.items():
        shape = [columns.sizes[i] for i in over]
        combinations = list(product(*map(range, shape)))
        for axis, decision in enumerate(over):
            for choice in range(shape[axis]):
                row = len(sums)
                rows.append((row, columns.starts[decision] + choice, -1.0))
                rows += [(row, first + k, 1.0) for k, one in enumerate(combinations) if one[axis] == choice]
                sums.append(0.0)
    at, of, values = zip(*rows)
    matrix = coo_array((values, (at, of)), (len(sums), columns.count)).tocsr()
    return [LinearConstraint(matrix, sums, sums)]


def _limits(columns: _Columns, limits: Sequence[Limit]) -> list[Any]:
    from scipy.optimize import LinearConstraint

    found = []
    for limit in limits:
        row = columns.costs(limit.terms)
        scale = float(np.abs(row).max()) or 1.0
        found.append(LinearConstraint(row[None] / scale, -np.inf, limit.most / scale))
    return found


def _others(columns: _Columns, banned: Sequence[tuple[int, ...]], apart: int) -> list[Any]:
    from scipy.optimize import LinearConstraint

    found = []
    for plan in banned:
        row = np.zeros(columns.count)
        row[[start + choice for start, choice in zip(columns.starts, plan)]] = 1.0
        found.append(LinearConstraint(row[None], -np.inf, len(plan) - apart))
    return found
