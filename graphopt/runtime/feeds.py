"""What a caller hands to a session: arrays by input name, checked and put where the model's values are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from ..errors import InputError
from ..ir import DType, TensorType
from .cache.manifest import Input

_in_native_order = attrgetter("dtype.isnative")


def are_native(feeds: Mapping[str, Any]) -> bool:
    """All feeds are arrays in this machine's byte order; onnxruntime reads any other order as if it were."""
    try:
        return all(map(_in_native_order, feeds.values()))
    except AttributeError:  # no numpy array, so that `Feeds` makes one
        return False


class Feeds:
    """The model's inputs, and the checks of what is fed to them. Linear in their number."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._names = frozenset(given.name for given in inputs)
        self._wanted = [_wanted(given) for given in inputs]

    def arrays(self, feeds: Mapping[str, Any]) -> list[Any]:
        """What is fed to each input, or its default. Raises InputError where the feeds do not fit the inputs."""
        for name in feeds:
            if name not in self._names:
                raise InputError(f"no input {name!r}; the model has {', '.join(one.name for one in self._inputs)}")
        arrays: list[Any] = []
        for given, wanted in zip(self._inputs, self._wanted):
            fed = feeds.get(given.name)
            if type(fed) is np.ndarray and (fed.dtype, fed.shape) == wanted:
                arrays.append(fed)
            elif given.name in feeds:
                arrays.append(_checked(given, fed))
            elif given.default is not None:
                arrays.append(given.default)
            else:
                raise InputError(f"input {given.name!r} is missing")
        return arrays


def _wanted(given: Input) -> tuple[np.dtype[Any], tuple[int | str | None, ...] | None] | None:
    """The dtype and the shape that need no closer look."""
    return (given.type.dtype.numpy, given.type.shape) if isinstance(given.type, TensorType) else None


def _checked(given: Input, fed: Any) -> Any:
    """The feed as an array of the input's type, in this machine's byte order, and of a shape that fits."""
    name, declared = given.name, given.type
    if not isinstance(declared, TensorType):
        return fed
    wanted = declared.dtype.numpy
    if isinstance(fed, (list, tuple, int, float)) and not isinstance(fed, np.generic):  # without a type of their own
        try:
            fed = np.array(fed, wanted)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"input {name!r} must be {wanted}: {error}") from error
    array = np.asarray(fed)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if declared.dtype is not DType.STRING and array.dtype != wanted:
        raise InputError(f"input {name!r} must be {wanted}, got {array.dtype}")
    if declared.shape is None:
        return array
    fits = len(declared.shape) == array.ndim
    fits = fits and all(not isinstance(d, int) or d == size for d, size in zip(declared.shape, array.shape))
    if not fits:
        shape = ", ".join("?" if d is None else str(d) for d in declared.shape)
        raise InputError(f"input {name!r} must have shape [{shape}], got {list(array.shape)}")
    return array
