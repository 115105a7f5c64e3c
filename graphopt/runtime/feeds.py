"""Feeds of a session: arrays by input name, checked and put in the order of the model's inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from ..errors import InputError
from ..ir import Array, DType, TensorType
from .cache.manifest import Input

in_native_order = attrgetter("dtype.isnative")
"""Whether an array has this machine's byte order; onnxruntime misreads any other. AttributeError for no array."""


class Feeds:
    """The model's inputs, and the checks of their feeds; linear in the number of inputs."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._names = frozenset(given.name for given in inputs)
        self._wanted = [_wanted(given) for given in inputs]

    def arrays(self, feeds: Mapping[str, Any], trusted: Collection[str] = ()) -> list[Any]:
        """The array of each input, its feed or its default. Raises InputError where the feeds do not fit the inputs.

        Feeds of `trusted` inputs are not checked.
        """
        if type(feeds) is not dict and not isinstance(feeds, Mapping):
            raise InputError(f"feeds are a dict of arrays by input name, got {type(feeds).__name__}")
        for name in feeds:
            if name not in self._names:
                raise InputError(f"no input {name!r}; the model has {', '.join(one.name for one in self._inputs)}")
        arrays: list[Any] = []
        for given, wanted in zip(self._inputs, self._wanted):
            fed = feeds.get(given.name)
            if given.name in trusted or (wanted is not None and type(fed) is np.ndarray and wanted.fits(fed)):
                arrays.append(fed)
            elif given.name in feeds:
                arrays.append(_checked(given, fed))
            elif given.default is not None:
                arrays.append(given.default)
            else:
                raise InputError(f"input {given.name!r} is missing")
        return arrays


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The dtype, rank and fixed sizes (axis, size) of an array that passes without further checks."""

    dtype: np.dtype[Any]
    rank: int
    sizes: tuple[tuple[int, int], ...]

    def fits(self, fed: Array) -> bool:
        """Whether an array has this dtype, rank and sizes. Fast: a decoder has a hundred inputs a token."""
        shape = fed.shape
        if fed.dtype != self.dtype or len(shape) != self.rank:
            return False
        for axis, size in self.sizes:  # noqa: SIM110 - `all` of a generator takes as long as the rest
            if shape[axis] != size:
                return False
        return True


def _wanted(given: Input) -> _Wanted | None:
    if not isinstance(given.type, TensorType) or given.type.shape is None or given.type.dtype is DType.STRING:
        return None
    sizes = tuple((axis, size) for axis, size in enumerate(given.type.shape) if isinstance(size, int))
    return _Wanted(given.type.dtype.numpy, len(given.type.shape), sizes)


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
