"""Caches of 8 bits: which models can have them."""

from __future__ import annotations

from typing import Literal, get_args

from ...errors import ModelError
from ..cache.manifest import Manifest
from .decoder import Decoder

CacheType = Literal["float32", "int8"]
"""How keys and values of earlier tokens are kept while text is generated."""
CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)


def check_coded(decoder: Decoder, manifest: Manifest) -> None:
    """ModelError unless kernels, and nothing else, read every cache, and compute the attention over it."""
    numbers = {given.name: number for number, given in enumerate(manifest.inputs)}
    caches = {numbers[cache.past] for cache in decoder.caches}
    parts = () if manifest.whole else manifest.parts
    growing = {part.reads[index] for part in parts for index, _ in part.growing}
    others = {place for part in parts if not part.growing for place in part.reads}
    if not caches <= growing or caches & others:
        raise ModelError(
            "cache='int8' is for caches whose attention kernels compute; here onnxruntime computes it: see describe()"
        )
