"""The reach of pruning in each network: parameters kept at ratio 0.5 against the arithmetic floor, and weights in
prunable groups. `python -m tests.bench.prune_floor [NAME …]`

The floor halves every interior channel: the inputs of the first layers and the outputs of the last stay. It is computed
from the shapes of weights and from which layers come first and last, not from channel groups.
"""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import onnxruntime

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import LAYERS as channel_layers
from graphopt.analysis.channels import STATISTICS, find_channels
from graphopt.ir import RETURN, Model, Node, Value, clone_model
from graphopt.measure import figures
from graphopt.passes.prune import Prune
from graphopt.passes.prune.cut.remove import remove, unshare
from graphopt.passes.prune.score.importance import weight_scores
from graphopt.passes.prune.select.allocation import allocate
from tests import nets, zoo

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOORS = (
    "light-resnet50", "mobilenetv2-like", "light-squeezenet", "light-shufflenet", "light-densenet121",
    "light-inception_v1", "c2f",
)  # fmt: skip
OTHERS = tuple(name for name in zoo.names() if name not in FLOORS)


def floor(model: Model) -> float:
    """Parameters left when every interior channel is halved, as a share."""
    first, last = _ends(model)
    total = kept = 0.0
    for node in model.graph.walk():
        for slot, value in enumerate(node.inputs):
            if value is None or value.constant is None or value.constant.size < 2 or not value.constant.dtype.is_float:
                continue
            size = value.constant.size
            total += size / len(value.uses)
            kept += size * _left(node, slot, value, first, last) / len(value.uses)
    return kept / total


def _left(node: Node, slot: int, value: Value, first: set[Node], last: set[Node]) -> float:
    if node.op in LAYERS and slot == 1:
        depthwise = (
            node.op == "Conv"
            and value.constant is not None
            and value.constant.shape[1] == 1
            and node.attrs.get("group", 1) > 1
        )
        inputs = 1.0 if node in first or depthwise else 0.5
        return inputs * (1.0 if node in last else 0.5)
    if node.op in LAYERS:
        return 1.0 if node in last else 0.5
    return 0.5  # BatchNormalization and the like


def _ends(model: Model) -> tuple[set[Node], set[Node]]:
    """Layers that read the graph's inputs, and those whose outputs become results, with no layer between."""
    raw: set[Value] = set(model.graph.inputs)
    first: set[Node] = set()
    for node in model.graph:
        if any(v in raw for v in node.inputs):
            if node.op in LAYERS:
                first.add(node)
            else:
                raw.update(node.outputs)
    late: set[Value] = set(model.graph.outputs)
    last: set[Node] = set()
    for node in reversed(model.graph):
        if node.op != RETURN and any(v in late for v in node.outputs):
            if node.op in LAYERS:
                last.add(node)
            else:
                late.update(v for v in node.inputs if v is not None)
    return first, last


def halve(model: Model) -> tuple[Model, float]:
    """A copy with every group halved, and the seconds that finding the groups took."""
    pruned = clone_model(model)
    unshare(pruned)
    start = time.perf_counter()
    facts = find_channels(pruned)
    seconds = time.perf_counter() - start
    options = Prune(ratio=0.5, round_to=1, global_ranking=False, importance="l2")
    kept, _ = allocate(facts, weight_scores(facts, "l2", 0), options, 0.5)
    remove(facts, kept)
    return pruned, seconds


KINDS = ("exact", "statistics", "select")
"""How a weight can be cut: as it is, or with the option of that name only."""


def coverage(model: Model) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers in weights of layers of which an axis can be cut, by kind, and the rest by reason."""
    unshared = clone_model(model)
    unshare(unshared)
    facts = find_channels(unshared)
    reasons_of = {h.node: h.reason for h in facts.fixed}
    layers = {layer.node: layer for layer in facts.layers}
    kind_of = np.full(facts.count, len(KINDS))
    for group in facts.groups:
        kind_of[group.classes] = 2 if group.selections else 1 if STATISTICS in group.approximate else 0
    best: dict[Value, int] = {}  # a weight that several layers share counts once
    reasons: dict[Value, str] = {}
    for node in unshared.graph.walk():
        weight = _weight(node, facts.static) if node.op.removeprefix("com.microsoft::") in channel_layers else None
        if weight is None:
            continue
        layer = layers.get(node)
        ends = [c for c in (layer.inputs, layer.outputs) if c is not None] if layer is not None else []
        kind = min((int(kind_of[classes].min(initial=len(KINDS))) for classes in ends), default=len(KINDS))
        best[weight] = min(kind, best.get(weight, len(KINDS)))
        reasons.setdefault(weight, reasons_of.get(node, "what it reads stays"))
    good: dict[str, int] = {}
    rest: dict[str, int] = {}
    for weight, kind in best.items():
        counts, key = (good, KINDS[kind]) if kind < len(KINDS) else (rest, reasons[weight])
        counts[key] = counts.get(key, 0) + math.prod(weight.type.shape)  # type: ignore[union-attr, arg-type]
    return good, rest


def _weight(node: Node, static: frozenset[Value]) -> Value | None:
    """The weight of a layer, however it is stored; None for a product of two computed values."""
    for slot in (3, 0) if node.op in ("QLinearConv", "QLinearMatMul", "com.microsoft::QGemm") else (1, 0):
        value = node.input(slot)
        if value is not None and (value.constant is not None or value in static):
            return value
    return None


def reached(good: dict[str, int], rest: dict[str, int]) -> str:
    """The share of weights that can be cut, and how much of it only with an option."""
    total = sum(good.values()) + sum(rest.values())
    optional = [f"{good[kind] / total:.1%} with {kind}=True" for kind in KINDS[1:] if kind in good]
    return f"{sum(good.values()) / max(total, 1):.1%}" + (f" ({', '.join(optional)})" if optional else "")


def main() -> None:
    wanted = sys.argv[1:] or [*FLOORS, *OTHERS]
    print(f"{'model':26} {'kept':>6} {'floor':>6} {'groups':>6} {'ms':>5}  weights in groups")
    for name in wanted:
        source = nets.load(name) if name in nets.NAMES else zoo.path(name)
        if source is None:
            print(f"{name:26} absent")
            continue
        model = graphopt.optimize(source, validate=False).ir
        pruned, seconds = halve(model)
        proto = onnx_io.to_proto(pruned)
        feeds = nets.feeds(proto) if name in nets.NAMES else zoo.feeds(name)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        kept = figures(pruned).parameters / figures(model).parameters
        low = f"{floor(model):6.1%}" if name in FLOORS else "      "
        good, rest = coverage(model)
        groups = len(find_channels(model).groups)
        print(f"{name:26} {kept:6.1%} {low} {groups:6} {1e3 * seconds:5.0f}  {reached(good, rest)}", flush=True)
        for why, size in sorted(rest.items(), key=lambda item: -item[1])[:3]:
            print(f"{'':32} {size:>9} weights stay: {why[:120]}")


if __name__ == "__main__":
    main()
