"""Branches of If are quantized like models of their own: what they capture becomes an input, seen wherever they run.

Bodies of Loop and Scan stay float: what flows through them changes from turn to turn and cannot be read from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...calibration import Calibration, Taps
from ...compress.context import StageContext
from ...compress.layers.linear import LINEAR
from ...compress.report import StageReport
from ...equivalence.runnable import open_runnable
from ...ir import Graph, Model, Node, Port, TensorType, Value, clone_model, clone_node, outer_values
from ...measure import Quality
from .options import Quantize
from .place.accuracy_guard import meets

QuantizeModel = Callable[[Model, Quantize, StageContext], tuple[Model, StageReport]]
BRANCHES = ("then_branch", "else_branch")
WORTHY = LINEAR | {"LSTM", "GRU", "RNN"}


@dataclass(frozen=True, slots=True)
class Nested:
    """The model with what became of its branches, a report for each that was changed, and why others were not."""

    model: Model
    reports: tuple[tuple[StageReport, int], ...]
    refused: tuple[tuple[str, str], ...]


def quantize_branches(model: Model, options: Quantize, context: StageContext, quantize: QuantizeModel) -> Nested:
    """Quantize the branches of each If of the root graph, in a copy. Reports come with the branch's MACs."""
    from ...measure import figures

    made, reports, refused = clone_model(model), list[tuple[StageReport, int]](), list[tuple[str, str]]()
    for node, original in zip(made.graph.snapshot(), model.graph.snapshot(), strict=True):
        name = node.name or node.output.name or node.op
        if node.op != "If":
            refused += [(name, f"in the body of {node.op}: what it sees cannot be read") for _ in _products(node)][:1]
            continue
        for slot in BRANCHES:
            branch, label = original.attrs.get(slot), f"{name}, {slot.replace('_', ' ')}"
            if not isinstance(branch, Graph) or not any(inner.op in WORTHY for inner in branch.walk()):
                continue
            part = _cut(model, branch)
            told = _quantized(model, original, slot, part, options, context, quantize)
            if isinstance(told, str):
                refused.append((label, told))
                continue
            quantized, report = told
            for domain, version in quantized.opsets.items():
                made.opsets.setdefault(domain, version)
            made.graph.set_attr(node, slot, _back(quantized, part, dict(_pairs(model, made))))
            reports.append((replace(report, name=label), figures(part.model).macs or 0))
    if reports and not meets(made, options, context):
        told = "in branches, taken back for accuracy"
        return Nested(model, (), (*refused, *((report.name, told) for report, _ in reports)))
    return Nested(made if reports else model, tuple(reports), tuple(refused))


def with_branches(report: StageReport, nested: Nested, total: int | None) -> StageReport:
    """The report of the root graph with those of its branches; `total`: the MACs of the whole model."""
    refused = (*report.refused, *nested.refused)
    if not nested.reports:
        return replace(report, refused=refused)
    facts = dict(report.figures or {})
    parts = [part.figures or {} for part, _ in nested.reports]
    for name in ("layers", "layers_float"):
        facts[name] = facts.get(name, 0) + sum(part.get(name, 0) for part in parts)
    inside = sum(part.get("share_of_macs", 0.0) * macs for part, (_, macs) in zip(parts, nested.reports))
    facts["share_of_macs"] = facts.get("share_of_macs", 0.0) + (inside / total if total else 0.0)
    rows, told = list(report.rows), [f"{part.name}: {part.summary}" for part, _ in nested.reports]
    for part, _ in nested.reports:
        rows += part.rows
        refused += part.refused
    columns = max((report.columns, *(part.columns for part, _ in nested.reports)), key=len)
    rows = [(*row, *(None,) * (len(columns) - len(row))) for row in rows]
    summary = "; ".join([*([report.summary] if report.changed else []), *told])
    return replace(
        report, summary=summary, columns=columns, rows=tuple(rows), figures=facts, refused=refused, changed=True
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A branch as a model whose inputs are copies of what it captures."""

    model: Model
    captured: tuple[Value, ...]


def _products(node: Node) -> Iterator[Node]:
    return (inner for graph in node.subgraphs for inner in graph.walk() if inner.op in LINEAR)


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
) -> tuple[Model, StageReport] | str:
    """The branch quantized, or why not."""
    if not all(isinstance(value.type, TensorType) for value in part.captured):
        return "the branch reads something that is no tensor"
    condition = node.inputs[0]
    if condition is None or condition.constant is not None:
        return "its condition is constant"
    taps = Taps(model, list(dict.fromkeys((condition, *part.captured))))
    if not {condition, *part.captured} <= set(taps.readable):
        return "what it captures cannot be read"

    def taken() -> Iterator[dict[str, Any]]:
        for feed in context.calibration:
            seen = taps.run(feed)
            if bool(np.asarray(seen[condition]).reshape(-1)[0]) == (slot == BRANCHES[0]):
                yield {value.name: seen[source] for value, source in zip(part.model.graph.inputs, part.captured)}

    if next(taken(), None) is None:
        return "no sample of the calibration data takes this branch"
    calibration = Calibration(taken, open_runnable(part.model), context.calibration.note)
    quality = Quality(clone_model(part.model), context.quality.session, calibration, evaluations=options.evaluations)
    cache = None if options.cache is None else f"{options.cache}.{node.name or node.output.name}.{slot}"
    inner = replace(context, calibration=calibration, quality=quality, max_drop=None)
    made, report = quantize(part.model, replace(options, cache=cache), inner)
    if not report.changed:
        return report.summary
    return (made, report) if made.opset == model.opset else f"it would need opset {made.opset}"


def _pairs(model: Model, copy: Model) -> Iterator[tuple[Value, Value]]:
    yield from zip(model.graph.inputs, copy.graph.inputs)
    for old, new in zip(model.graph.snapshot(), copy.graph.snapshot()):
        yield from zip(old.outputs, new.outputs)


def _back(made: Model, part: _Part, outside: dict[Value, Value]) -> Graph:
    """The quantized branch as a nested graph again, which captures what the original did."""
    values = {given: outside.get(value, value) for given, value in zip(made.graph.inputs, part.captured)}
    graph = Graph(made.graph.name)
    for node in made.graph:
        graph.append(clone_node(node, values))
    graph.set_outputs([values.get(v, v) for v in made.graph.outputs], made.graph.ports)
    return graph
