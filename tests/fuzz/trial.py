"""Optimise one model, run both, compare: quickly where they agree, thoroughly where they seem not to.

The pipeline runs without its own check, so that nothing wrong is rolled back before it is seen. A first comparison with
plain tolerances in onnxruntime without optimizations costs milliseconds; what fails it is judged by `graphopt.compare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

import graphopt
from graphopt import onnx_io
from graphopt.errors import ModelError
from graphopt.ir import Model
from graphopt.machine.sessions import open_session, session_options
from graphopt.pipeline import Pass, count_nodes, run
from graphopt.pipeline.driver import constant_bytes
from graphopt.validation import with_slack

from .noise import TRIALS, moved, shaken, within

SIZES = ({"N": 2, "S": 3, "P": 2}, {"N": 1, "S": 5, "P": 0}, {"N": 3, "S": 1, "P": 6})
"""Of batches, of sequences, and of the earlier tokens of a cache."""
EMPTY = {"N": 0, "S": 3, "P": 2}
ABORTS = frozenset(("LSTM", "GRU", "RNN"))
RTOL = {"float64": 1e-6, "float32": 2e-5, "float16": 2e-3}
Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Trial:
    """status: equal, unverified, noisy (see `drowns`), different, crashed (a pass raised), or invalid (the original
    itself does not run).
    """

    status: str
    reason: str = ""
    fired: Counter[str] = field(default_factory=Counter)
    nodes: tuple[int, int] = (0, 0)

    @property
    def failed(self) -> bool:
        return self.status in ("different", "crashed")


def optimised(model: onnx.ModelProto, schedule: Sequence[Pass], target: str = "portable") -> tuple[Model, Trial]:
    """The model after the schedule, with nothing rolled back, and the trial so far: crashed if a pass raised."""
    lifted = onnx_io.load(model)
    limit = with_slack(constant_bytes(lifted))
    outcome = run(lifted, schedule, target=target, size_limit=limit, policy="off")
    fired = Counter(f"{scope}/{what}" for scope, what, _ in outcome.log.entries)
    nodes = count_nodes(lifted), count_nodes(outcome.model)
    if outcome.rolled_back:
        return outcome.model, Trial("crashed", outcome.rolled_back[0].reason, fired, nodes)
    return outcome.model, Trial("equal", "", fired, nodes)


def attempt(
    model: onnx.ModelProto, schedule: Sequence[Pass], target: str = "portable", seed: int = 0, empty: bool = False
) -> Trial:
    """Optimise a model and say whether it still computes the same on three inputs of different sizes.

    `empty` adds an empty batch where the original takes one. Some of onnxruntime's kernels abort the process on those
    (the recurrent ones do), so it is asked for by hand.
    """
    try:
        before = open_plainly(model)
        feeds = [random_feeds(model, sizes, seed + i) for i, sizes in enumerate(SIZES)]
        wanted = [before.run(None, f) for f in feeds]
    except Exception as error:  # onnxruntime's exceptions share no base
        return Trial("invalid", str(error))
    if empty and not any(node.op_type in ABORTS for node in model.graph.node):
        nothing = random_feeds(model, EMPTY, seed)
        try:
            wanted.append(before.run(None, nothing))
            feeds.append(nothing)
        except Exception:  # a model need not take an empty batch
            pass
    after, trial = optimised(model, schedule, target)
    if trial.failed:
        return trial
    try:
        candidate = onnx_io.to_proto(after)
    except Exception as error:  # a wrong rewrite may break names and types
        return Trial("crashed", f"the result cannot be written: {error}", trial.fired, trial.nodes)
    reason = _difference(model, candidate, feeds, wanted)
    if not reason:
        return trial
    judged = graphopt.compare(model, candidate, feeds, power=False, intermediates=False, threads=1)
    told = any(word in reason for word in ("declared", "load"))  # of which a comparison says nothing
    status = "different" if told else judged.status
    if status == "different" and drowns(model, candidate, feeds):
        status = "noisy"
    return Trial(status, reason if told else judged.reason or reason, trial.fired, trial.nodes)


def drowns(model: onnx.ModelProto, candidate: onnx.ModelProto, feeds: Sequence[Feeds]) -> bool:
    """The difference is no larger than the original's own when its constants and inputs move by their last bit."""
    rng = np.random.default_rng(0)
    try:
        before, after = open_plainly(model), open_plainly(candidate)
        others = [open_plainly(shaken(model, rng)) for _ in range(TRIALS)]
        return all(
            within(
                before.run(None, feed),
                after.run(None, feed),
                [o.run(None, {k: moved(v, rng) for k, v in feed.items()}) for o in others],
            )
            for feed in feeds
        )
    except Exception:  # onnxruntime's exceptions share no base; what does not run is no noise
        return False


def random_feeds(model: onnx.ModelProto, sizes: dict[str, int], seed: int) -> Feeds:
    """Normal floats with zeros and repeats among them, small integers of both signs, booleans."""
    rng, feeds = np.random.default_rng(seed), {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for given in model.graph.input:
        if given.name in stored:
            continue
        tensor = given.type.tensor_type
        shape = [_size(d.dim_param, sizes) if d.dim_param else d.dim_value for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            values = rng.standard_normal(shape) * 1.5
            values = np.where(rng.random(shape) < 0.1, np.round(values), values)
        else:
            values = rng.integers(-4 if dtype.kind == "i" else 0, 2 if dtype.kind == "b" else 6, shape)
        feeds[given.name] = np.asarray(values).astype(dtype)
    return feeds


def _size(name: str, sizes: dict[str, int]) -> int:
    """The size of a name, or of a sum of names and numbers such as "P + 4"; 2 for a name of no size."""
    return sum(int(part) if part.isdigit() else sizes.get(part, 2) for part in name.split(" + "))


def open_plainly(model: onnx.ModelProto) -> Any:
    """The model in onnxruntime without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def may_abort(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime 1.32 may end the process while it optimises the model: it moves quantization past a value
    that a nested graph reads.
    """
    nested = any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)
    return nested and any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _loads(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime loads the model as users do, with its optimizations."""
    try:
        open_session(model.SerializeToString(), session_options())
    except ModelError:
        return False
    return True


def _difference(
    model: onnx.ModelProto, candidate: onnx.ModelProto, feeds: Sequence[Feeds], wanted: Sequence[Sequence[Array]]
) -> str:
    """The first visible difference of the candidate; "" if there is none."""
    try:
        onnx.checker.check_model(candidate)
        if not may_abort(model) and not _loads(candidate) and _loads(model):
            return "the candidate does not load with onnxruntime's optimizations, the original does"
        after = open_plainly(candidate)
        results = [after.run(None, f) for f in feeds]
    except Exception as error:  # as above
        return f"the candidate does not run: {error}"
    if [v.name for v in model.graph.output] != [v.name for v in candidate.graph.output]:
        return "the outputs have other names"
    for feed, ours, theirs in zip(feeds, wanted, results):
        for port, a, b in zip(candidate.graph.output, ours, theirs):
            told = _mismatch(a, b) or _misdeclared(port, b)
            if told:
                return f"{port.name} on {[v.shape for v in feed.values()]}: {told}"
    return ""


def _mismatch(a: Array, b: Array) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
    if a.dtype.kind != "f":
        return "" if np.array_equal(a, b) else "values differ"
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "infinities or NaN differ"
    scale = float(np.abs(a[finite]).max(initial=0))
    error = float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0))
    return "" if error <= RTOL[a.dtype.name] * scale else f"error {error:.3g} of {scale:.3g}"


def _misdeclared(port: onnx.ValueInfoProto, b: Array) -> str:
    tensor = port.type.tensor_type
    if not tensor.HasField("shape"):
        return ""
    declared = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    fits = len(declared) == b.ndim and all(d is None or d == n for d, n in zip(declared, b.shape))
    return "" if fits else f"declared {declared}, is {list(b.shape)}"
