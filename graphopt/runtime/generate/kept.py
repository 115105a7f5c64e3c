"""Caches that kernels keep while a text is written, in float32 or in 8 bits: which models can have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from ...errors import ModelError, OptionError
from ...ir import Array
from ..cache.manifest import Manifest
from .decoder import Decoder

CacheType = Literal["float32", "int8"]
"""How keys and values of earlier tokens are kept while text is generated."""
CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)


def shapes_alone(decoder: Decoder, manifest: Manifest, values: Sequence[Any]) -> dict[int, Array]:
    """Arrays without content as large as what kept caches stand for, by number, where nodes ask for the shape."""
    sizes = {cache.past: cache.size for cache in decoder.caches}
    sized = {place for part in manifest.parts for place in part.sized if place < len(manifest.inputs)}
    names = {place: manifest.inputs[place].name for place in sized}
    return {place: values[place].shape_alone(sizes[name]) for place, name in names.items() if name in sizes}


def kept_as(wanted: CacheType, decoder: Decoder, manifest: Manifest) -> CacheType | None:
    """How kernels keep the caches, None where they do not.

    Raises OptionError for other words, ModelError where caches of codes cannot be had.
    """
    if wanted not in CACHE_TYPES:
        raise OptionError(f"cache must be {' or '.join(map(repr, CACHE_TYPES))}, got {wanted!r}")
    if _on_kernels(decoder, manifest):
        return wanted
    if wanted == "int8":
        raise ModelError(
            "cache='int8' is for caches whose attention kernels compute; here onnxruntime computes it: see describe()"
        )
    return None


def _on_kernels(decoder: Decoder, manifest: Manifest) -> bool:
    """Whether kernels, and nothing else, read every cache, of known sizes but its rows, and compute the attention over
    it; others may ask for its shape before."""
    if any(not isinstance(size, int) for cache in decoder.caches for size in (cache.shape[1], cache.shape[-1])):
        return False
    names = {name for cache in decoder.caches for name in (cache.past, cache.present)}
    pasts = {number for number, given in enumerate(manifest.inputs) if given.name in names}
    presents = {output.place for output in manifest.outputs if output.name in names}
    parts = () if manifest.whole else manifest.parts
    growing = {part.reads[index] for part in parts for index, _ in part.growing}
    others = {place for part in parts if not part.growing for place in part.reads if place not in part.sized}
    read = {place for part in parts for place in part.reads}
    return pasts <= growing and not pasts & others and not presents & read


def logits_alone(decoder: Decoder, manifest: Manifest) -> int | None:
    """The number of the logits, None where some part reads them."""
    (place,) = (output.place for output in manifest.outputs if output.name == decoder.logits)
    return None if any(place in part.reads for part in manifest.parts) else place
