"""Random graphs in a `graphopt.Session` that runs on kernels all it can: equal to the reference, near onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx

import graphopt
from graphopt.machine.sessions import open_session, session_options
from graphopt.rewrite import Rule
from graphopt.testing import random_graph
from tests.runtime.reference import check_regions

from .trial import SIZES, Feeds, Trial, may_abort, open_plainly, random_feeds

FAMILIES = (("quantized",), ("quantized", "control", "infinite"), ("quantized", "linear", "layout", "elementwise"))
NEAR = 0.1
"""Largest difference from onnxruntime, relative to the largest result: a code that is rounded the other way on a tie
is 1/16 to 1/8 in itself (the scales of `graphopt.testing.blocks.quantized`), where results are about 2."""


def model_of(seed: int) -> onnx.ModelProto:
    """The graph of a seed, most of them with quantized operators."""
    return random_graph(seed, blocks=8, families=FAMILIES[seed % len(FAMILIES)], matching=_codes())


@cache
def _codes() -> tuple[Rule, ...]:
    """The rules about quantized models, whose patterns are what their exporters write."""
    from graphopt.passes import SCHEDULE

    return tuple(rule for item in SCHEDULE if "code" in item.name or "integer" in item.name for rule in item.rules)


def trial_of(seed: int) -> Trial:
    return attempt(model_of(seed), seed)


def attempt(model: onnx.ModelProto, seed: int = 0) -> Trial:
    """Run a model in a Session with `kernels=True`. Its entries in `fired` count the operations that kernels ran.

    different: a region is not bit for bit what the reference gives, or a result is near onnxruntime's neither without
    its optimizations nor with them (it drops one of two pairs of QuantizeLinear and DequantizeLinear, whatever their
    scales); crashed: the Session cannot be made or raises.
    """
    if may_abort(model):
        return Trial("invalid", "onnxruntime may abort")
    try:
        stock = open_plainly(model)
        feeds = [random_feeds(model, sizes, seed + i) for i, sizes in enumerate(SIZES)]
        wanted = [stock.run(None, feed) for feed in feeds]
    except Exception as error:  # onnxruntime's exceptions share no base
        return Trial("invalid", str(error))
    fired = Counter[str]()
    try:
        session = graphopt.Session(model.SerializeToString(), 1, kernels=True)
        results = [session.run(None, feed) for feed in feeds]
        if all(region.executable(_shapes(arrays)) for region, arrays in session.region_inputs(feeds[0]).items()):
            fired.update(check_regions(session, feeds[0]))
        else:
            fired["refused"] += 1
    except AssertionError as error:
        return Trial("different", f"a region: {error}", fired)
    except Exception as error:  # whatever it is, the user would see it
        return Trial("crashed", f"{type(error).__name__}: {error}", fired)
    told = _apart(model, feeds, results, wanted)
    if told:
        optimized = open_session(model.SerializeToString(), session_options())
        told = _apart(model, feeds, results, [optimized.run(None, feed) for feed in feeds]) and told
    return Trial("different", told, fired) if told else Trial("equal" if fired else "stock", "", fired)


def _apart(model: onnx.ModelProto, feeds: Sequence[Feeds], results: Sequence[Any], wanted: Sequence[Any]) -> str:
    """The first result that is not near the one that is wanted; "" if there is none."""
    for feed, ours, theirs in zip(feeds, results, wanted):
        for name, a, b in zip((port.name for port in model.graph.output), theirs, ours, strict=True):
            told = _far(a, b)
            if told:
                return f"{name} on {[v.shape for v in feed.values()]}: {told}"
    return ""


def _shapes(arrays: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in arrays)


def _far(a: Any, b: Any) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
    if a.dtype.kind != "f":
        apart = np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0)
        return "" if apart <= 1 else f"values differ by {apart}"
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "infinities or NaN differ"
    scale = max(1.0, float(np.abs(a[finite]).max(initial=0)))
    error = float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0))
    return "" if error <= NEAR * scale else f"error {error:.3g} of {scale:.3g}"
