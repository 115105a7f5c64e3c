"""The held-out error of a model: its outputs' losses against targets, computed by onnxruntime as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import Declined, ModelError
from ..gradient.prepare import OPSET
from ..gradient.tensor import Tensor, Writer
from ..ir import Array, DType, Graph, Model, Port, TensorType, Value
from ..measure import ort_session
from .matching import Pair
from .running import run_session


class Criterion:
    """The losses as a model of their own, with outputs and targets as inputs."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = tuple(pairs)
        graph = Graph("losses")
        model = Model(graph, {"": OPSET})
        writer = Writer(graph)
        losses: list[Value] = []
        try:
            for pair in pairs:
                type = pair.student.type
                if not isinstance(type, TensorType):
                    raise Declined(f"{pair.name} is no tensor")
                kind = getattr(pair.loss, "target_type", None)
                y = graph.add_input(Value(type, pair.name))
                target = graph.add_input(Value(type if kind is None else kind(type), f"{pair.name}.target"))
                found = pair.loss(Tensor(writer, y), Tensor(writer, target))
                found = found if found.type.rank == 0 else found.sum()
                losses.append(found.cast(DType.DOUBLE).Identity().value)
        except Declined as declined:
            raise ModelError(f"distil: the loss cannot be computed: {declined.reason}") from declined
        graph.set_outputs(losses, [Port(f"loss.{i}", v.type) for i, v in enumerate(losses)])
        self._session = ort_session(model)

    def losses(self, results: Mapping[str, Any], targets: Mapping[str, Any]) -> Array:
        """f64[pairs]: the losses of a batch; arrays by output name and `<name>.target`. InputError where shapes do not
        fit."""
        feeds = {pair.name: results[pair.name] for pair in self.pairs}
        feeds |= {name: targets[name] for name in (f"{pair.name}.target" for pair in self.pairs)}
        return np.array(run_session(self._session, None, feeds, "the loss"), np.float64).reshape(-1)

    def row_totals(self, results: Mapping[str, Any], targets: Mapping[str, Any], count: int) -> list[float]:
        """The weighted loss of each row of a batch."""

        def row(arrays: Mapping[str, Any], i: int) -> dict[str, Any]:
            return {name: array[i : i + 1] for name, array in arrays.items()}

        return [self.total(self.losses(row(results, i), row(targets, i))) for i in range(count)]

    def total(self, losses: Array) -> float:
        """The weighted sum of losses f64[pairs]."""
        return float(losses @ np.array([pair.weight for pair in self.pairs]))
