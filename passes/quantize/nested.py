"""Quantize branches of If as separate models: captured values become inputs, observed wherever the branch runs.

Bodies of Loop and Scan stay float: their values change per iteration and cannot be observed from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...calibration import Calibration, Taps
from ...compress.choices import FLOAT32, branch_name
from ...compress.context import StageContext
from ...compress.layers.linear import LINEAR
from ...compress.report import StageReport
from ...equivalence.runnable import open_runnable
from ...errors import Declined, OptionError, did_you_mean
from ...ir import Graph, Model, Node, Port, TensorType, Value, clone_model, clone_node, outer_values
from ...measure import Quality, figures
from .chosen import inside, outside
from .emit.mapped_clone import mapped_clone
from .options import INSIDE, Quantize
from .place.accuracy_guard import is_good_enough
from .report import RETURNED_TO_FLOAT, QuantizedParts

QuantizeModel = Callable[[Model, Quantize, StageContext], tuple[Model, StageReport]]
BRANCHES = ("then_branch", "else_branch")
WORTHY = LINEAR | {"LSTM", "GRU", "RNN"}


def quantize_branches(
    model: Model, options: Quantize, context: StageContext, quantize: QuantizeModel
) -> QuantizedParts:
    """Quantize the branches of each If of the root graph, in a copy. Reports come with the branch's MACs."""
    clone, reports, refused = mapped_clone(model), list[tuple[StageReport, int]](), list[tuple[str, str]]()
    copy, choices = clone.model, dict[str, str]()
    _check_branches(model, options)
    for original, node in clone.nodes.items():
        if node.op != "If":
            if _has_products(node):
                name = node.name or node.output.name or node.op
                refused.append((name, f"in the body of {node.op}, whose values cannot be read"))
            continue
        for slot in BRANCHES:
            branch, label = original.attrs.get(slot), branch_name(node, slot)
            if not isinstance(branch, Graph) or not any(inner.op in WORTHY for inner in branch.walk()):
                continue
            part = _cut(model, branch)
            asked = replace(options, layers=inside(options.layers, label))
            try:
                quantized, report = _quantized(model, original, slot, part, asked, context, quantize)
                choices.update(outside({} if report.settled is None else report.settled.layers, label))
                if not report.changed:
                    raise Declined(report.summary, node)
            except Declined as declined:
                refused.append((label, declined.reason))
                continue
            for domain, version in quantized.opsets.items():
                copy.opsets.setdefault(domain, version)
            copy.graph.set_attr(node, slot, _nested_again(quantized, part, clone.values))
            reports.append((replace(report, name=label), figures(part.model).macs or 0))
    if reports and not choices.items() <= options.layers.items() and not is_good_enough(copy, options, context):
        reason, floats = f"in branches, {RETURNED_TO_FLOAT}", dict.fromkeys(choices, FLOAT32)
        refusals = (*refused, *((report.name, reason) for report, _ in reports))
        return QuantizedParts(model, (), refusals, choices=floats)
    return QuantizedParts(copy if reports else model, tuple(reports), tuple(refused), choices=choices)


@dataclass(frozen=True, slots=True)
class _Part:
    """A branch as a model whose inputs are copies of the captured values."""

    model: Model
    captured: tuple[Value, ...]


def _check_branches(model: Model, options: Quantize) -> None:
    """OptionError for a choice for a layer in a branch that the model lacks."""
    known = [branch_name(node, slot) for node in model.graph if node.op == "If" for slot in BRANCHES]
    for name in options.layers:
        head, inside_of, _ = name.partition(INSIDE)
        branch = f"{head}{INSIDE}".removesuffix(": ")
        if inside_of and branch not in known:
            raise OptionError(f"quantize: layers: {name}: the model has no {branch!r}{did_you_mean(branch, known)}")


def _has_products(node: Node) -> bool:
    return any(inner.op in LINEAR for graph in node.subgraphs for inner in graph.walk())


def _cut(model: Model, branch: Graph) -> _Part:
    captured = tuple(outer_values(branch))
    inputs = [Value(value.type, f"captured_{i}") for i, value in enumerate(captured)]
    graph, values = Graph(branch.name, inputs), dict(zip(captured, inputs))
    for node in branch:
        graph.append(clone_node(node, values))
    results = [values.get(v, v) for v in branch.outputs]
    graph.set_outputs(results, [Port(f"result_{i}", v.type) for i, v in enumerate(branch.outputs)])
    return _Part(replace(clone_model(model), graph=graph, metadata={}, raw=None), captured)


def _quantized(
    model: Model, node: Node, slot: str, part: _Part, options: Quantize, context: StageContext, quantize: QuantizeModel
) -> tuple[Model, StageReport]:
    """The quantized branch. Declined where quantization fails, or the branch stays float."""
    if not all(isinstance(value.type, TensorType) for value in part.captured):
        raise Declined("the branch captures a value that is no tensor", node)
    condition = node.inputs[0]
    if condition is None or condition.constant is not None:
        raise Declined("its condition is constant", node)
    taps = Taps(model, list(dict.fromkeys((condition, *part.captured))))
    if not {condition, *part.captured} <= set(taps.readable):
        raise Declined("the values it captures cannot be read", node)

    def taken() -> Iterator[dict[str, Any]]:
        for feed in context.calibration:
            seen = taps.run(feed)
            if bool(np.asarray(seen[condition]).reshape(-1)[0]) == (slot == BRANCHES[0]):
                yield {value.name: seen[source] for value, source in zip(part.model.graph.inputs, part.captured)}

    if next(taken(), None) is None:
        raise Declined("no sample of the calibration data takes this branch", node)
    note = context.calibration.note if context.calibration.is_synthetic else ""
    calibration = Calibration(taken, open_runnable(part.model), note)
    quality = Quality(clone_model(part.model), context.quality.session, calibration, evaluations=options.evaluations)
    cache = None if options.cache is None else f"{options.cache}.{node.name or node.output.name}.{slot}"
    inner = replace(context, calibration=calibration, quality=quality, max_drop=None)
    quantized, report = quantize(part.model, replace(options, cache=cache), inner)
    if quantized.opset != model.opset:
        raise Declined(f"it would need opset {quantized.opset}", node)
    return quantized, report


def _nested_again(quantized: Model, part: _Part, outside: dict[Value, Value]) -> Graph:
    """The quantized branch as a nested graph that captures the same values as the original."""
    values = {given: outside.get(value, value) for given, value in zip(quantized.graph.inputs, part.captured)}
    graph = Graph(quantized.graph.name)
    for node in quantized.graph:
        graph.append(clone_node(node, values))
    graph.set_outputs([values.get(v, v) for v in quantized.graph.outputs], quantized.graph.ports)
    return graph
