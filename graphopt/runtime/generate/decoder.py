"""Decoders: the roles of a model's inputs and outputs in generation, found by names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError, ModelError
from ...ir import Array, TensorType
from ...kernels.attention.cached import row_bytes
from ..cache.manifest import Input, Output
from ..execute.growing import KeptCache, SharedMemory

_TOKENS = ("input_ids", "decoder_input_ids", "tokens")
_MASK, _POSITIONS, _LOGITS = "attention_mask", ("position_ids", "cache_position"), "logits"
_PAST = re.compile(r"past(?:_key_values)?")
_PRESENT = ("present", "present_key_values")
"""Names that Optimum, onnxruntime-genai and onnxruntime's older tools give: past_key_values.3.key and present.3.key,
past_3 and present_3, past_key_3 and present_key_3."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input fed in each step: name, numpy type, number of axes."""

    name: str
    dtype: np.dtype[np.generic]
    rank: int


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys or values of earlier tokens: the input `past`, and the output `present`, longer by a step's tokens along
    `axis`."""

    past: str
    present: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...]
    axis: int

    def empty(self, batch: int) -> Array:
        """The cache before the first token: no rows, the batch along the other open axis."""
        sizes = [size if isinstance(size, int) else batch for size in self.shape]
        sizes[self.axis] = 0
        return np.zeros(sizes, self.dtype)

    def kept(self, batch: int, coded: bool, memory: SharedMemory) -> KeptCache:
        """The same where kernels keep it. `coded`: of bytes, its rows being codes and their scale."""
        heads, size = self.shape[1], self.size
        assert isinstance(heads, int)  # or kernels would not take the model
        size, dtype = (row_bytes(size, True), np.uint8) if coded else (size, np.float32)
        return KeptCache(batch, heads, size, dtype, memory)

    @property
    def size(self) -> int:
        """Numbers of a row."""
        size = self.shape[-1]
        assert isinstance(size, int)
        return size


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model that computes logits of the next token and longer caches from tokens and caches.

    `limit`: the most tokens that its position tables hold, None where it has none.
    """

    tokens: Tensor
    mask: Tensor | None
    positions: Tensor | None
    caches: tuple[Cache, ...]
    logits: str
    limit: int | None

    @property
    def outputs(self) -> list[str]:
        """The outputs that each step computes: the logits, then the caches in order."""
        return [self.logits, *(cache.present for cache in self.caches)]

    def empty(self, batch: int) -> list[Array]:
        """The caches before the first token."""
        return [cache.empty(batch) for cache in self.caches]

    def kept(self, batch: int, coded: bool) -> list[KeptCache]:
        """The same where kernels keep them, of floats or `coded`."""
        memory = SharedMemory()
        return [cache.kept(batch, coded, memory) for cache in self.caches]

    def check_length(self, prompt: int, new: int) -> None:
        """InputError where a prompt and its new tokens but the last, which is not fed, exceed the position tables."""
        if self.limit is not None and prompt + new - 1 > self.limit:
            raise InputError(
                f"a prompt of {prompt} tokens with {new} new ones is too long: the model has positions for {self.limit}"
            )


def decoder_of(inputs: Sequence[Input], outputs: Sequence[Output], limit: int | None) -> Decoder:
    """The roles of a model's inputs and outputs. ModelError naming the missing role where the model is no decoder."""
    given = {one.name: one for one in inputs if one.default is None}
    tokens = next((name for name in _TOKENS if name in given), None)
    if tokens is None:
        raise ModelError(f"no decoder: there is no input {_TOKENS[0]} among {', '.join(given)}")
    made = {one.name: one for one in outputs}
    caches = tuple(_caches(given, made))
    if not caches:
        raise ModelError(
            "no decoder with a cache: there are no inputs past_key_values.* with outputs present.*, as exports with "
            f"past keys and values have; the inputs are {', '.join(given)}"
        )
    others = [name for name in made if name not in {cache.present for cache in caches}]
    if _LOGITS not in made and len(others) != 1:
        raise ModelError(f"no decoder: there is no output {_LOGITS} among {', '.join(made)}")
    positions = next((name for name in _POSITIONS if name in given), None)
    known = {tokens, _MASK, positions, *(cache.past for cache in caches)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ModelError(
            f"input {unknown[0]!r} has no part in generation from tokens, their mask, positions and caches"
        )
    return Decoder(
        _tensor(given[tokens]),
        _tensor(given[_MASK]) if _MASK in given else None,
        None if positions is None else _tensor(given[positions]),
        caches,
        _LOGITS if _LOGITS in made else others[0],
        limit,
    )


def _caches(inputs: dict[str, Input], outputs: dict[str, Output]) -> Iterator[Cache]:
    """Pairs of caches in the order of the inputs."""
    for name, one in inputs.items():
        names = [_PAST.sub(word, name, count=1) for word in _PRESENT] if _PAST.match(name) else []
        present = next((name for name in names if name in outputs), None)
        if present is None:
            continue
        kind = _type(one)
        open_axes = [axis for axis, size in enumerate(kind.shape or ()) if not isinstance(size, int)]
        if not open_axes:
            raise ModelError(f"the cache {name!r} cannot grow: its sizes are fixed")
        yield Cache(name, present, kind.dtype.numpy, kind.shape or (), open_axes[-1])


def _tensor(one: Input) -> Tensor:
    kind = _type(one)
    return Tensor(one.name, kind.dtype.numpy, len(kind.shape or ()))


def _type(one: Input) -> TensorType:
    if not isinstance(one.type, TensorType) or one.type.shape is None:
        raise ModelError(f"input {one.name!r} of a decoder must be a tensor of known rank")
    return one.type
