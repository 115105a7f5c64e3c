"""Tables of predicted cost by decision: a sum of factors, corrected by what built models measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir import Array
from .plan import Decision, Plan, plan_of, recipe_of
from .program import Limit, solve

_FLOOR = 0.1
"""The least that a correction leaves of a cost: a part of a model is never free. A choice."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A cost that depends on some decisions together. over: their numbers; costs: float64, an axis for each.

    kinds: the names of the choices of the first decision; costs of one kind err alike, and are corrected together.
    """

    over: tuple[int, ...]
    costs: Array
    kinds: tuple[str, ...]

    def at(self, plan: Plan) -> float:
        """The cost under a plan."""
        return float(self.costs[tuple(plan[i] for i in self.over)])


@dataclass(slots=True)
class CostTable:
    """A sum of factors, and what of it measurements corrected.

    base: the part that no decision changes. noise: the relative standard error of a measurement; doubt: how far, as a
    share, the cost of all factors of a kind may be off, and that of a single factor beyond.

    The corrections are the mode of a linear Gaussian model: multipliers around 1, of all costs, of each kind, of each
    factor, given the measured totals (ridge regression).
    """

    base: float
    factors: tuple[Factor, ...]
    noise: float
    doubt: tuple[float, float]
    seen: dict[Plan, float] = field(default_factory=dict)
    _shift: Array | None = None

    def predict(self, plan: Plan) -> float:
        """The corrected total."""
        return self.base + sum(value for _, value in self._parts(plan))

    def observe(self, plan: Plan, total: float) -> None:
        """Correct by a measured total."""
        self.seen[plan] = total
        self._shift = None

    def corrected(self) -> list[Factor]:
        """The factors with their corrections."""
        shift, columns = self._corrections(), self._columns()
        return [
            Factor(f.over, f.costs * self._scales(number, f, shift, columns), f.kinds)
            for number, f in enumerate(self.factors)
        ]

    def _parts(self, plan: Plan) -> Iterator[tuple[int, float]]:
        shift, columns = self._corrections(), self._columns()
        for number, factor in enumerate(self.factors):
            kind = columns[factor.kinds[plan[factor.over[0]]]]
            scale = max(_FLOOR, 1.0 + shift[0] + shift[kind] + shift[len(columns) + 1 + number])
            yield number, scale * factor.at(plan)

    def _scales(self, number: int, factor: Factor, shift: Array, columns: Mapping[str, int]) -> Array:
        own = 1.0 + shift[0] + shift[len(columns) + 1 + number]
        by_kind = np.array([own + shift[columns[kind]] for kind in factor.kinds])
        scales: Array = np.maximum(_FLOOR, by_kind).reshape(-1, *[1] * (factor.costs.ndim - 1))
        return scales

    def _columns(self) -> dict[str, int]:
        kinds = dict.fromkeys(kind for factor in self.factors for kind in factor.kinds)
        return {kind: 1 + place for place, kind in enumerate(kinds)}

    def _corrections(self) -> Array:
        """Shifts of the multipliers: of all, of each kind, of each factor."""
        if self._shift is None:
            columns = self._columns()
            width = 1 + len(columns) + len(self.factors)
            rows = np.zeros((len(self.seen), width))
            wanted = np.zeros(len(self.seen))
            for row, (plan, total) in enumerate(self.seen.items()):
                for number, factor in enumerate(self.factors):
                    cost = factor.at(plan) / total
                    for column in (0, columns[factor.kinds[plan[factor.over[0]]]], len(columns) + 1 + number):
                        rows[row, column] += cost
                wanted[row] = 1.0 - self.base / total - rows[row, 0]
            doubts = np.array([self.doubt[0], *[self.doubt[0]] * len(columns), *[self.doubt[1]] * len(self.factors)])
            scaled = rows * doubts / self.noise
            gram = scaled @ scaled.T + np.eye(len(self.seen))
            self._shift = doubts * (scaled.T @ np.linalg.solve(gram, wanted / self.noise))
        return self._shift


@dataclass(slots=True)
class Tables:
    """The decisions of a search, and the tables of what they cost: latency and size, noise.

    latency: shares of the original's time. noise: shares of the signal's power. size: bytes.
    """

    decisions: tuple[Decision, ...]
    latency: CostTable
    noise: CostTable
    size: CostTable

    @property
    def start(self) -> Plan:
        """The plan that leaves everything as it is."""
        return (0,) * len(self.decisions)

    def predict(self, plan: Plan) -> dict[str, float]:
        """The predicted latency, noise and size of a plan."""
        return {name: max(0.0, getattr(self, name).predict(plan)) for name in ("latency", "noise", "size")}

    def predicted(self, recipe: Mapping[str, Any]) -> dict[str, float]:
        """The predicted figures of a recipe; {} where it is no plan."""
        plan = plan_of(self.decisions, recipe)
        return {} if plan is None else self.predict(plan)

    def observe(self, plan: Plan, measured: Mapping[str, float]) -> None:
        """Correct the tables by a built model's figures, as far as they are finite and above zero."""
        for name, value in measured.items():
            if value > 0 and np.isfinite(value):
                getattr(self, name).observe(plan, value)

    def solve(
        self, *, latency: float | None = None, noise: float | None = None, size: float | None = None,
        minimise: str | None = None, banned: Sequence[Plan] = (), apart: int = 1,
    ) -> tuple[Plan, dict[str, float]] | None:  # fmt: skip
        """The best plan within limits, and its predicted figures; None where there is none.

        minimise: "latency", "noise" or "size"; the least noise where it is not limited, else the least time. banned:
        plans from which it must differ in `apart` decisions at least.
        """
        limits = {"latency": latency, "noise": noise, "size": size}
        wanted = minimise or ("noise" if noise is None else "latency")
        tables = {name: (getattr(self, name).base, getattr(self, name).corrected()) for name in limits}
        bounds = [
            Limit([(f.over, f.costs) for f in tables[name][1]], bound - tables[name][0])
            for name, bound in limits.items()
            if bound is not None and name != wanted
        ]
        goal = [(f.over, f.costs) for f in tables[wanted][1]]
        plan = solve([len(d.choices) for d in self.decisions], goal, bounds, banned, apart)
        return None if plan is None else (plan, self.predict(plan))

    def recipe(self, plan: Plan) -> dict[str, Any]:
        """The plan as plain data: the choice of each decision that changes something, by its parts."""
        return recipe_of(self.decisions, plan)
