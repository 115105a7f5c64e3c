"""Feeds of a network: of several sizes, and with odd numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ..trial import Feeds, random_feeds

SIZES = (
    {"N": 2, "S": 3, "P": 2, "H": 8, "W": 9}, {"N": 1, "S": 5, "P": 0, "H": 11, "W": 8},
    {"N": 3, "S": 1, "P": 6, "H": 9, "W": 14},
)  # fmt: skip
"""Of batches, of tokens, of the earlier tokens of a cache, and of images."""


def feeds_of(model: onnx.ModelProto, seed: int, sizes: Sequence[dict[str, int]] = SIZES) -> list[Feeds]:
    """A feed for each of the sizes; tokens stand behind the earlier ones."""
    feeds = [random_feeds(model, given, seed + index) for index, given in enumerate(sizes)]
    for feed, given in zip(feeds, sizes):
        if "positions" in feed:
            feed["positions"] = np.tile(given["P"] + np.arange(given["S"]), (given["N"], 1))
    return feeds


def odd_feeds(model: onnx.ModelProto, seed: int) -> list[Feeds]:
    """Feeds with infinities, with NaN, and with numbers far beyond every scale or far below."""
    odd = []
    for index, values in enumerate(((np.inf, -np.inf), (np.nan,), (1e20, -1e20, 1e-40, -0.0))):
        rng = np.random.default_rng(seed + index)
        feed = feeds_of(model, seed, SIZES[:1])[0]
        for name, x in feed.items():
            if x.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    feed[name] = np.where(rng.random(x.shape) < 0.03, rng.choice(values, x.shape), x).astype(x.dtype)
        odd.append(feed)
    return odd
