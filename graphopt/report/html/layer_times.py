"""The time of each layer in onnxruntime, measured when a page is written."""

from __future__ import annotations

from ...ir import Node
from ...measure import kernel_times
from ...provenance import Trail
from ..latency import Latency
from .cost import layer_times

_FEWEST, _MOST = 6, 30
"""Runs of a profile: a third is warm-up, and four counted runs have a quartile; more than thirty change nothing."""
_SECONDS = 0.5
"""Approximate seconds for all runs, as in `Report.timed`: a choice."""


def measure_layers(trail: Trail, latency: Latency | None) -> dict[Node, float]:
    """Microseconds of the result's nodes in onnxruntime; empty where latency was not measured there.

    The page's latency is distributed by the profile's shares: the profile itself uses the wall clock, which counts
    other programs' time, and writing it takes time, too.
    """
    run = None if latency is None else latency.in_runtime_of("onnxruntime")
    if run is None:
        return {}
    from ...equivalence import synthesise

    try:
        feeds = synthesise(trail.original, 1)[0]
        runs = max(_FEWEST, min(_MOST, int(_SECONDS / max(run.after, 1e-6))))
        kernels = kernel_times([trail.result], feeds, runs=runs)[0]
        total = sum(kernel.seconds for kernel in kernels)
        return {node: time * run.after / total for node, time in layer_times(kernels).items()} if total else {}
    except Exception:  # a model that cannot be profiled still gets a page
        return {}
