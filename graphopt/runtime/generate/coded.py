"""Caches of 8 bits: which models can have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from ...errors import ModelError
from ...ir import Array
from ...kernels.attention.cached import row_bytes
from ..cache.manifest import Manifest
from .decoder import Decoder

CacheType = Literal["float32", "int8"]
"""How keys and values of earlier tokens are kept while text is generated."""
CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)


def shapes_alone(decoder: Decoder, manifest: Manifest, values: Sequence[Any]) -> dict[int, Array]:
    """Arrays without content as large as what caches of codes stand for, by number, where nodes ask for the shape."""
    caches, inputs = {cache.past for cache in decoder.caches}, manifest.inputs
    sized = [place for part in manifest.parts for place in part.sized if place < len(inputs)]
    return {
        place: np.empty((*values[place].shape[:-1], values[place].shape[-1] - row_bytes(0, True)), np.float32)
        for place in sized
        if inputs[place].name in caches
    }


def check_coded(decoder: Decoder, manifest: Manifest) -> None:
    """ModelError unless kernels, and nothing else, read every cache, and compute the attention over it; others may ask
    for its shape."""
    numbers = {given.name: number for number, given in enumerate(manifest.inputs)}
    caches = {numbers[cache.past] for cache in decoder.caches}
    parts = () if manifest.whole else manifest.parts
    growing = {part.reads[index] for part in parts for index, _ in part.growing}
    others = {place for part in parts if not part.growing for place in part.reads if place not in part.sized}
    if not caches <= growing or caches & others:
        raise ModelError(
            "cache='int8' is for caches whose attention kernels compute; here onnxruntime computes it: see describe()"
        )
