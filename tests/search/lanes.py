"""A timing lane from a table: what a model's nodes cost, whatever the machine does."""

from __future__ import annotations

import math
from collections import Counter

from graphopt.searching.lane import Measured
from graphopt.searching.structure import names_of_nodes

COSTS = {"Conv": 1.0, "Gemm": 0.2, "MatMul": 0.2, "QuantizeLinear": 0.02, "DequantizeLinear": 0.0}
INTEGER = 0.3  # of the time of floats


class TableLane:
    """Seconds by operator and size, integers at a share of floats; counts what it was asked for."""

    def __init__(self) -> None:
        self.asked = Counter()
        self.base = 0.0

    def _seconds(self, node) -> float:
        weight = next((v for v in node.inputs[1:] if v is not None and (v.constant or v.producer)), None)
        shape = getattr(getattr(weight, "type", None), "shape", None) or (1,)
        on_codes = any(v is not None and v.producer and v.producer.op == "DequantizeLinear" for v in node.inputs[:1])
        size = math.prod(d for d in shape if isinstance(d, int))
        return COSTS.get(node.op, 0.01) * size * (INTEGER if on_codes else 1.0)

    def latency(self, model):
        self.asked["latency"] += 1
        total = 10.0 + sum(map(self._seconds, model.graph))
        self.base = self.base or total
        return Measured(total / self.base, 0.005, 1e-3)

    def shares(self, model, layers):
        wanted, times = {*layers}, {"": 10.0}
        for node in model.graph:
            found = names_of_nodes([node]) & wanted
            name = min(found, key=layers.index) if found else ""
            times[name] = times.get(name, 0.0) + self._seconds(node)
        total = sum(times.values())
        return {name: seconds / total for name, seconds in times.items()}

    def conversion(self):
        return 1e-9

    def placed(self, builder, recipe):
        return {}
