"""Tables of predicted cost by decision: a sum of factors, corrected by measurements of built models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from ..ir import Array
from .plan import Decision, Plan, plan_of, recipe_of
from .program import Limit, solve

_STEPS, _STRIDE = 12, 1.0
"""Gauss-Newton steps that correct a table, and the largest change of a logarithm per step: few steps converge."""
_GAPS = {"noise": 0.05, "": 0.005}
"""Relative gaps of the integer programs by minimized quantity, below the tables' accuracy: noise to 0.2 dB. With a
ten-thousandth the programs of rapidocr-cls (71 decisions) took up to 28 s each, now up to 2.5 s."""
_LEAST = 1e-12
"""The least total, so that it has a logarithm: far below any share of a time or a signal."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A joint cost of some decisions. over: their indices; costs: float64, an axis for each.

    kinds: a kind for each choice of the first decision; costs of one kind have a common error, and are corrected
    together.
    """

    over: tuple[int, ...]
    costs: Array
    kinds: tuple[str, ...]

    def at(self, plan: Plan) -> float:
        """The cost under a plan."""
        return float(self.costs[tuple(plan[i] for i in self.over)])


@dataclass(slots=True)
class CostTable:
    """A sum of factors, with corrections by measurements.

    base: the part that no decision changes. noise: the relative standard error of a measurement; doubt: standard
    deviations, as logarithms, of the common error of a kind, and of the further error of a single factor under a single
    choice; doubts: exceptions by kind.

    The corrections are multipliers of all costs, of each kind, of each factor by the choice of its first decision: the
    posterior mode with Gaussian logarithms of the multipliers and of the measured totals (Gauss-Newton on a ridge
    regression).
    """

    base: float
    factors: tuple[Factor, ...]
    noise: float
    doubt: tuple[float, float]
    doubts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seen: dict[Plan, float] = field(default_factory=dict)
    _shift: Array | None = None
    _rows: dict[Plan, tuple[Array, Array, Array]] = field(default_factory=dict)

    def predict(self, plan: Plan) -> float:
        """The corrected total."""
        return self.base + float(self._parts(plan, self._corrections())[0].sum())

    def observe(self, plan: Plan, total: float) -> None:
        """Add a measured total, which corrects the factors."""
        self.seen[plan] = total
        self._shift = None

    def corrected(self) -> list[Factor]:
        """The factors with their corrections."""
        shift, columns = self._corrections(), self._columns()
        found = []
        for factor, first in zip(self.factors, self._starts()):
            own = shift[0] + shift[[columns[kind] for kind in factor.kinds]] + shift[first : first + len(factor.kinds)]
            scale = np.exp(own).reshape(-1, *[1] * (factor.costs.ndim - 1))
            found.append(Factor(factor.over, factor.costs * scale, factor.kinds))
        return found

    def _parts(self, plan: Plan, shift: Array) -> tuple[Array, Array, Array]:
        """f64[factors]: the costs of a plan under corrections; i64[factors] twice: the columns of their kinds, and of
        each factor's choice."""
        if plan not in self._rows:
            columns = self._columns()
            chosen = [plan[factor.over[0]] for factor in self.factors]
            kinds = np.array([columns[factor.kinds[choice]] for factor, choice in zip(self.factors, chosen)], int)
            own = np.array(self._starts(), int) + np.array(chosen, int)
            self._rows[plan] = np.array([factor.at(plan) for factor in self.factors]), kinds, own
        costs, kinds, own = self._rows[plan]
        return costs * np.exp(shift[0] + shift[kinds] + shift[own]), kinds, own

    def _columns(self) -> dict[str, int]:
        kinds = dict.fromkeys(kind for factor in self.factors for kind in factor.kinds)
        return {kind: 1 + place for place, kind in enumerate(kinds)}

    def _starts(self) -> list[int]:
        """For each factor the column of its first choice."""
        first = 1 + len(self._columns())
        counts = [len(factor.kinds) for factor in self.factors]
        return [first + before for before in accumulate([0, *counts[:-1]])]

    def _spread(self) -> Array:
        """The variances of the corrections."""
        kinds = [self.doubts.get(kind, self.doubt)[0] for kind in self._columns()]
        own = [self.doubts.get(kind, self.doubt)[1] for factor in self.factors for kind in factor.kinds]
        return np.array([self.doubt[0], *kinds, *own]) ** 2

    def _corrections(self) -> Array:
        """Logarithms of the multipliers: of all costs, of each kind, of each factor's choices."""
        if self._shift is not None:
            return self._shift
        spread, count = self._spread(), len(self.seen)
        shift = np.zeros(len(spread))
        totals = np.log(list(self.seen.values()))
        for _ in range(_STEPS if count else 0):
            moved, wanted = np.zeros((count, len(spread))), np.zeros(count)
            for number, plan in enumerate(self.seen):
                parts, kinds, own = self._parts(plan, shift)
                total = max(_LEAST, self.base + float(parts.sum()))
                np.add.at(moved[number], kinds, parts / total)
                moved[number, 0], moved[number, own] = parts.sum() / total, parts / total
                wanted[number] = totals[number] - np.log(total)
            gram = (moved * spread) @ moved.T + self.noise**2 * np.eye(count)
            best = spread * (moved.T @ np.linalg.solve(gram, wanted + moved @ shift))
            shift = shift + np.clip(best - shift, -_STRIDE, _STRIDE)
        self._shift = shift
        return shift


@dataclass(slots=True)
class Tables:
    """The decisions of a search, and the tables of their latency, noise and size.

    latency: shares of the original's time. noise: shares of the signal's power. size: bytes.
    """

    decisions: tuple[Decision, ...]
    latency: CostTable
    noise: CostTable
    size: CostTable

    @property
    def start(self) -> Plan:
        """The plan that changes nothing."""
        return (0,) * len(self.decisions)

    def predict(self, plan: Plan) -> dict[str, float]:
        """The predicted latency, noise and size of a plan."""
        return {name: max(0.0, getattr(self, name).predict(plan)) for name in ("latency", "noise", "size")}

    def predicted(self, recipe: Mapping[str, Any]) -> dict[str, float]:
        """The predicted figures of a recipe; {} where it matches no plan."""
        plan = plan_of(self.decisions, recipe)
        return {} if plan is None else self.predict(plan)

    def observe(self, plan: Plan, measured: Mapping[str, float]) -> None:
        """Correct the tables by a built model's figures, if finite and positive."""
        for name, value in measured.items():
            if value > 0 and np.isfinite(value):
                getattr(self, name).observe(plan, value)

    def solve(
        self, *, latency: float | None = None, noise: float | None = None, size: float | None = None,
        minimise: str | Mapping[str, float] | None = None, banned: Sequence[Plan] = (), apart: int = 1,
    ) -> tuple[Plan, dict[str, float]] | None:  # fmt: skip
        """The best plan within limits, and its predicted figures; None where no plan meets them.

        minimise: "latency", "noise" or "size", or weights of them; by default noise where it is not limited, else
        latency. banned: plans from which the result differs in at least `apart` decisions.
        """
        limits = {"latency": latency, "noise": noise, "size": size}
        wanted = minimise or ("noise" if noise is None else "latency")
        weights = {wanted: 1.0} if isinstance(wanted, str) else wanted
        tables = {name: (getattr(self, name).base, getattr(self, name).corrected()) for name in limits}
        bounds = [
            Limit([(f.over, f.costs) for f in tables[name][1]], bound - tables[name][0])
            for name, bound in limits.items()
            if bound is not None and name not in weights
        ]
        goal = [(f.over, f.costs * weight) for name, weight in weights.items() for f in tables[name][1]]
        gap = _GAPS["noise" if "noise" in weights else ""]
        plan = solve([len(d.choices) for d in self.decisions], goal, bounds, banned, apart, gap=gap)
        return None if plan is None else (plan, self.predict(plan))

    def recipe(self, plan: Plan) -> dict[str, Any]:
        """The plan as plain data: the choices that change something, by their parts."""
        return recipe_of(self.decisions, plan)
