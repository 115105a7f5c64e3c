"""The caller's feeds in all accepted forms, checked against a model's inputs."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import numpy as np

from ..errors import InputError
from ..ir import Array, DType, Model
from .runnable import signature_of
from .value_info import Signature, ValueInfo

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource

Feeds = dict[str, Any]
"""One sample: an array by the name of each input; a list of arrays for an input that is a sequence."""


class FeedReader(Protocol):
    """A reader as `onnxruntime.quantization` takes it."""

    def get_next(self) -> Mapping[str, Any] | None:
        """The next sample, inputs by name; None after the last."""


FeedData = FeedReader | Iterable[Mapping[str, Any]] | Mapping[str, Any] | Array | str | os.PathLike[str]
"""The forms that `read_feeds` accepts."""


def read_feeds(data: FeedData, model: ModelSource | Model) -> list[Feeds]:
    """The caller's feeds for a model as a list: a dict of arrays, an iterable of dicts, stacked arrays, or a file.

    Stacked arrays have one axis more than the input, the first one counting samples. A `.npz` holds one array an input;
    a `.npy` serves models of one input. Raises InputError, one line, when names, dtypes or shapes do not fit.
    """
    return checked_feeds(data, signature_of(model))


def checked_feeds(data: FeedData, model: Signature) -> list[Feeds]:
    """`read_feeds` for a model whose inputs are known."""
    data = by_name(data, model)
    if isinstance(data, Mapping):
        feeds = unstacked(dict(data), model)
    elif (get_next := getattr(data, "get_next", None)) is not None:
        feeds = [as_feed(sample) for sample in iter(get_next, None)]
    elif isinstance(data, Iterable):
        feeds = [as_feed(sample) for sample in data]
    else:
        raise InputError(f"inputs: expected a dict, an iterable of dicts or an .npz path, got {type(data).__name__}")
    if not feeds:
        raise InputError("inputs: there is not one sample")
    checked = [checked_feed(f, model) for f in feeds]
    if any(checked) and not any(np.size(value) for feed in checked for value in feed.values()):
        raise InputError("inputs: the arrays have no elements")
    return checked


def by_name(data: FeedData, model: Signature) -> FeedData:
    """Arrays by input name if the data are a path or one array; other data unchanged. InputError."""
    if isinstance(data, (str, os.PathLike)):
        data = read_arrays(Path(data), model)
    return {only_input(model).name: data} if isinstance(data, np.ndarray) else data


def as_feed(sample: Any) -> Feeds:
    """A sample as a dict. InputError for anything but a mapping."""
    if not isinstance(sample, Mapping):
        raise InputError(f"inputs: each sample is a dict of arrays by input name, got {type(sample).__name__}")
    return dict(sample)


def read_arrays(path: Path, model: Signature) -> Feeds:
    """The arrays of an `.npz` or `.npy` file by input name. InputError when it cannot be read."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {only_input(model).name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"inputs: {path} is not there") from error
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"inputs: {path} is no readable .npz or .npy file of numbers") from error


def only_input(model: Signature) -> ValueInfo:
    """The only input of a model, for a single array. InputError for models of several inputs."""
    if len(model.inputs) != 1:
        raise InputError(f"inputs: one array was given, the model takes {len(model.inputs)}: {_described(model)}")
    return model.inputs[0]


def _described(model: Signature) -> str:
    return "; ".join(map(str, model.inputs))


def unstacked(feed: Feeds, model: Signature) -> list[Feeds]:
    """The samples of stacked arrays, which have one axis more than the inputs; otherwise the one feed unchanged."""
    ranks = {p.name: len(p.dims) for p in model.inputs if p.dims is not None}
    arrays = {n: np.asarray(v) for n, v in feed.items() if n in ranks}
    stacked = bool(arrays) and all(a.ndim == ranks[n] + 1 for n, a in arrays.items())
    if not stacked:
        return [feed]
    counts = {len(a) for a in arrays.values()}
    if len(counts) != 1:
        raise InputError(f"inputs: stacked arrays hold different numbers of samples: {sorted(counts)}")
    return [{n: np.asarray(v)[i] for n, v in feed.items()} for i in range(counts.pop())]


def checked_feed(feed: Feeds, model: Signature, *, exact: bool = False) -> Feeds:
    """One sample in the order, dtypes and layout of the model's inputs. InputError where names or shapes do not fit.

    Dtypes are converted if only floats' last digits are lost; with `exact`, only if nothing is lost: integers that keep
    their values, floats to wider ones, Python's numbers.
    """
    names = {p.name for p in model.inputs}
    if names - set(feed) or set(feed) - names:
        missing, extra = sorted(names - set(feed)), sorted(set(feed) - names)
        problems = [f"lack {missing}"] * bool(missing) + [f"have unknown {extra}"] * bool(extra)
        raise InputError(f"inputs: the arrays {' and '.join(problems)}; the model takes {_described(model)}")
    return {p.name: _checked_value(p, feed[p.name], exact) for p in model.inputs}


def _checked_value(info: ValueInfo, value: Any, exact: bool) -> Any:
    if not info.elem:
        return value
    array, dtype = np.asarray(value), DType(info.elem)
    if dtype is DType.STRING:
        array = array.astype(object)
    elif array.dtype != dtype.numpy:
        if not _converts(array, dtype.numpy, exact and hasattr(value, "dtype")):
            offer = f": give it as {dtype.numpy}, if its values then mean the same" * (array.dtype.kind in "fiub")
            raise InputError(f"inputs: {info.name} has dtype {array.dtype}, the model takes {info}{offer}")
        array = array.astype(dtype.numpy)
    if info.dims is not None and (len(info.dims) != array.ndim or not info.has_sizes_of(array.shape)):
        raise InputError(f"inputs: {info.name} has shape {list(array.shape)}, the model takes {info}")
    return np.asarray(array, order="C")


def _converts(array: Array, dtype: np.dtype[Any], exact: bool) -> bool:
    """Floats may be rounded to the model's floats, unless `exact`; integers must keep their values."""
    if array.dtype.kind == "f" and exact:
        return dtype.kind == "f" and np.can_cast(array.dtype, dtype, "safe")
    if array.dtype.kind == "f":
        return dtype.kind in "fV"
    return array.dtype.kind in "iu" and dtype.kind in "iu" and np.array_equal(array.astype(dtype), array)


def one_ulp(feeds: Feeds, rng: np.random.Generator, keep: frozenset[str] = frozenset()) -> Feeds:
    """The feeds with every float element moved to the next float, up or down at random.

    Zeros stay, as do the inputs named in `keep`: floats that encode indexes, masks or sizes.
    """
    return {name: value if name in keep else _moved(value, rng) for name, value in feeds.items()}


def _moved(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, list):
        return [_moved(v, rng) for v in value]
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float16, np.float32, np.float64):
        return value
    way = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
    return np.where(value == 0, value, np.nextafter(value, way)).astype(value.dtype)
