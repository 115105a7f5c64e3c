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

from . import networks
from .trial import Feeds, Trial, may_abort, open_plainly

FAMILIES = (("quantized",), ("quantized", "control", "infinite"), ("quantized", "linear", "layout", "elementwise"))
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
"""Operators that round floats to codes."""
HUGE = 1e30
"""Magnitude from which a number counts as infinite where a scale is found while running."""
FAR, NEAR = 0.4, 0.1
"""Greatest difference from onnxruntime, and its root mean square, relative to the largest result: a code that is
rounded the other way on a tie is 1/16 to 1/8 in itself (the scales of `graphopt.testing.blocks.quantized`), where
results are about 2, and a chain of layers makes more of it."""


def model_of(seed: int) -> onnx.ModelProto:
    """The graph of a seed, most of them with quantized operators; every other is a network as quantizers write it."""
    if seed % 2:
        return networks.quantized(seed)
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
        given = networks.feeds_of(model, seed) + networks.odd_feeds(model, seed)
        feeds = [feed for feed in given if not _rounds_no_number(model, feed)]
        if not feeds:
            return Trial("invalid", "NaN is rounded to codes, whatever is fed")
        wanted = [stock.run(None, feed) for feed in feeds]
    except Exception as error:  # onnxruntime's exceptions share no base
        return Trial("invalid", str(error))
    fired = Counter[str]()
    try:
        session = graphopt.Session(model.SerializeToString(), 1, kernels=True)
        results = [session.run(None, feed) for feed in feeds]
        again = session.run(None, feeds[0])
        checked = feeds[seed % min(3, len(feeds))]
        if all(region.executable(_shapes(arrays)) for region, arrays in session.region_inputs(checked).items()):
            fired.update(check_regions(session, checked))
        else:
            fired["refused"] += 1
    except AssertionError as error:
        return Trial("different", f"a region: {error}", fired)
    except Exception as error:  # whatever it is, the user would see it
        return Trial("crashed", f"{type(error).__name__}: {error}", fired)
    if any(not np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(results[0], again)):
        return Trial("different", "the first feed gives other results after feeds of other sizes", fired)
    told = _apart(model, feeds, results, wanted)
    if told:
        optimized = open_session(model.SerializeToString(), session_options())
        told = _apart(model, feeds, results, [optimized.run(None, feed) for feed in feeds]) and told
    return Trial("different", told, fired) if told else Trial("equal" if fired else "stock", "", fired)


def _rounds_no_number(model: onnx.ModelProto, feed: Feeds) -> bool:
    """Whether a NaN is rounded to a code, or where the scale is found while running a number near infinity: ONNX names
    no code for these."""
    stored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    rounding = [
        node for node in model.graph.node
        if node.op_type in ROUNDING or (node.op_type == "MatMul" and node.input[1] in stored)
    ]  # fmt: skip
    if not rounding:
        return False
    read = list(dict.fromkeys(node.input[0] for node in rounding))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in read)
    values = dict(zip(read, open_plainly(probe).run(None, feed)))
    return any(
        np.isnan(values[node.input[0]]).any()
        if node.op_type == "QuantizeLinear" else not (np.abs(values[node.input[0]]) < HUGE).all() for node in rounding
    )  # fmt: skip


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
    errors = np.abs(a[finite].astype(np.float64) - b[finite])
    error, usual = float(errors.max(initial=0)), float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0
    is_near = usual <= NEAR * scale and error <= FAR * scale
    return "" if is_near else f"error {error:.3g}, usually {usual:.3g}, of {scale:.3g}"
