"""Shapes of a model's values where its open sizes are assumed: batches of one, small pictures, few tokens."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...errors import Declined
from ...ir import Model, TensorType, Value
from ..compile.legality import output_shape
from ..lower.operands import constant_array
from ..lower.traits import Operation, Shape

ASSUMED = {"batch": 1, "image": 64, "time": 16, "past": 16, "node": 16, "volume": 16, "channel": 3}
"""Sizes by the kind of an open dimension: one request, of small pictures or few tokens, in which what a call costs
counts most. Assumed, not tuned."""

_LONGER = (1, 16, 256, 1024)
"""Factors of the sizes but the batch, the first with the most values that are not empty: a second of sound has 16,000
samples."""


def assumed_shapes(model: Model) -> dict[Value, Shape]:
    """The shapes of a model's values under ASSUMED sizes; those that do not follow are left out.

    ONNX infers them, on a copy without weights.
    """
    from ...equivalence.onnx_graph import GraphIndex
    from ...equivalence.synthesis.probe import Probe
    from ...equivalence.synthesis.sizes import read_symbols
    from ...equivalence.value_info import ValueInfo
    from ...onnx_io.emit import Emitter

    emitter = Emitter(model, skeleton=True)
    proto = emitter.model()
    probe = Probe(proto, GraphIndex(proto))
    symbols = read_symbols([ValueInfo.of(given) for given in proto.graph.input], {})
    found: Mapping[str, Shape] = {}
    for factor in _LONGER if {*symbols.kinds.values()} - {"batch", "channel"} else _LONGER[:1]:
        sizes = {s: ASSUMED.get(k, 1) * (1 if k in ("batch", "channel") else factor) for s, k in symbols.kinds.items()}
        shapes = probe.shapes({name: symbols.shape(name, sizes) for name in symbols.dims})
        if _filled(shapes) > _filled(found):
            found = shapes
        if _filled(found) == len(emitter.values):
            break
    return {emitter.values[name]: shape for name, shape in found.items() if name in emitter.values}


def _filled(shapes: Mapping[str, Shape]) -> int:
    """How many values have elements, and a known number of them."""
    return sum(prod(shape) > 0 for shape in shapes.values())


class Shapes:
    """Shapes of values, those of operations computed from their inputs' where they are not known yet."""

    def __init__(self, known: Mapping[Value, Shape]) -> None:
        self.known = dict(known)

    def of(self, value: Value) -> Shape:
        """The shape of a value; where nothing says it, that of its type with 1 for open sizes, or ()."""
        if value not in self.known:
            array = constant_array(value)
            if array is not None:
                self.known[value] = array.shape
            else:
                declared = value.type.shape if isinstance(value.type, TensorType) else None
                self.known[value] = tuple(d if isinstance(d, int) else 1 for d in declared or ())
        return self.known[value]

    def add(self, operation: Operation) -> None:
        """Make the shapes of an operation's operands and result known."""
        inputs = tuple([self.of(value) for value in operation.inputs])
        if operation.output not in self.known:
            try:
                self.known[operation.output] = output_shape(operation, inputs)
            except (Declined, IndexError, ZeroDivisionError):  # of ranks that are not known
                self.of(operation.output)
