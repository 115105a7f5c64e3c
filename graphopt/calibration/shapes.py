"""The shapes of a model's values on one sample: as declared, or seen in a run where sizes are open."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ..equivalence.feeds import Feeds
from ..errors import ModelError
from ..ir import Model, TensorType, Value
from .activations import Taps

Shapes = dict[Value, tuple[int, ...]]


def shapes_at(model: Model, values: Iterable[Value], feed: Feeds) -> Shapes:
    """The shape of each value on `feed`; omits values of open size that a run cannot read.

    The model runs only where a size is open: once, in a temporary onnxruntime session.
    """
    shapes: Shapes = {}
    unknown = []
    for value in dict.fromkeys(values):
        sizes = value.type.sizes if isinstance(value.type, TensorType) else None
        if sizes is not None:
            shapes[value] = sizes
        elif value.constant is None:
            unknown.append(value)
    if unknown:
        with suppress(ModelError):  # a sample that the model cannot run on shows nothing
            shapes.update((value, array.shape) for value, array in Taps(model, unknown).run(feed).items())
    return shapes
