"""Drift between two models, layer by layer: `graphopt compare A B --layers`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import onnx_io
from ..arguments import check_arguments
from ..equivalence import FeedData
from ..equivalence.comparison import interface_difference
from ..equivalence.drawn import draw_alike
from ..equivalence.drift import Drift, measure_drift
from ..equivalence.feeds import checked_feeds
from ..equivalence.runnable import open_runnable
from ..equivalence.synthesis import find_samples
from ..errors import InputError, OptionError, OutputError
from ..ir import Model
from ..measure import show_db
from ..provenance import KEY, Provenance, read
from .tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from ..onnx_io.source import ModelSource

_SCALE, _BAR = 60.0, 20
"""The SQNR in dB at which a bar is full (float32 codes of 10 bits), and its length in characters."""
_ROUNDING = 90.0
"""SQNR in dB from which a difference counts as rounding: 15 of float32's 24 bits, the rest for sums of 2¹⁸ terms."""
_FAR = 15.0
"""SQNR in dB below which the conclusion mentions made-up inputs: the floor of `graphopt.Quantize.min_sqnr`."""
_NAMED = 3
"""The largest steps named in the line below the table: as many as one examines first."""


def compare_layers(
    a: ModelSource | Model, b: ModelSource | Model, inputs: FeedData | None = None, samples: int = 2, *,
    seed: int = 0, threads: int | None = None,
) -> Drift:  # fmt: skip
    """How far the inner values of the candidate `b` are from those of the original `a`, along the graph.

    a, b: path, bytes, onnx.ModelProto, onnx_ir.Model or graphopt.ir.Model. inputs, samples, seed, threads: as for
    `graphopt.compare`. A value is matched with the candidate's value of its name; else with the dequantized value or
    the codes named after it, by graphopt or by onnxruntime's quantizer; else by the candidate's provenance, where
    stored. Values without a counterpart are listed, never guessed.

    Raises ModelError where a model does not run, InputError where the models differ in inputs or outputs, or the given
    inputs do not fit.
    """
    check_arguments(compare_layers, locals())
    original = open_runnable(a, "original")
    candidate = open_runnable(b, "candidate", original.folder)
    difference = interface_difference(original, candidate)
    if difference:
        raise InputError(f"the models cannot be compared layer by layer: {difference}")
    heirs = _heirs(a, b)
    original, candidate = draw_alike(original, candidate)
    if inputs is None:
        session = original.session(optimize=False, threads=threads)
        feeds = [sample.feeds for sample in find_samples(original, session, samples, seed)]
        del session
    else:
        feeds = checked_feeds(inputs, original)
    drift = measure_drift(original, candidate, feeds, heirs=heirs, threads=threads)
    return replace(drift, made_up=inputs is None)


def _heirs(a: ModelSource | Model, b: ModelSource | Model) -> dict[str, str]:
    """The candidate's value names by the original value names that they derive from; empty without a provenance."""
    found = _provenance_of(b)
    if found is None:
        return {}
    original = a if isinstance(a, Model) else onnx_io.load(a, infer=False)
    if not found.is_of(original.graph):
        return {}
    order = {node.origins[0]: i for i, node in enumerate(original.graph) if node.origins}
    results = {node.origins[0]: node.output.name for node in original.graph if node.origins and node.outputs}
    heirs: dict[str, str] = {}
    for name, origin in found.nodes.items():
        sources = [source for source in origin.sources if source in order]
        if sources and not origin.op.endswith("QuantizeLinear"):
            heirs[results[max(sources, key=order.__getitem__)]] = name  # a source's result is its last heir's
    return heirs


def _provenance_of(model: ModelSource | Model) -> Provenance | None:
    lifted = model if isinstance(model, Model) else onnx_io.load(model, infer=False)
    if isinstance(model, (str, os.PathLike)):
        return read(Path(model), lifted.metadata)
    return read("the model", lifted.metadata) if KEY in lifted.metadata else None


def drift_table(drift: Drift) -> Iterator[Table | str]:
    """A row a matched value, then the largest steps and the values without a counterpart."""
    numbers = ("before", "SQNR dB")
    table = plain_table(("value", "operator", *numbers, "", "remarks"), right=numbers)
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.header not in ("value", "remarks")
    for layer in drift.layers:
        table.add_row(layer.name, layer.op, show_db(layer.before), show_db(layer.sqnr), _bar(layer.sqnr), layer.remarks)
    yield table
    yield from conclusion(drift)


def conclusion(drift: Drift) -> Iterator[str]:
    """The result in sentences: the largest sources of noise, unmatched values, and the inputs."""
    steps = [
        f"{step.name} ({step.op}, {show_db(step.before)} → {show_db(step.sqnr)} dB)" for step in drift.steps[:_NAMED]
    ]
    if not drift.layers:
        yield "nothing to compare: no value of the original has a counterpart"
    elif not steps:
        yield "all matched values are the same"
    elif (least := min(drift.layers, key=lambda layer: layer.sqnr)).sqnr >= _ROUNDING:
        yield f"all matched values agree up to rounding: the lowest SQNR is {show_db(least.sqnr)} dB, of {least.name}"
    else:
        yield f"most noise comes in at {'; '.join(steps)}"
    if drift.layers and not drift.inner and drift.unmatched:
        yield (
            "no inner value has a counterpart by name or provenance, only results are compared: "
            "optimise with --provenance, or keep the names"
        )
    total = len(drift.layers) + len(drift.unmatched)
    yield f"{len(drift.layers)} of {total} values matched" + (
        f"; without a counterpart: {_few(list(drift.unmatched))}" if drift.unmatched else ""
    )
    if drift.made_up and min((layer.sqnr for layer in drift.layers), default=math.inf) < _FAR:
        yield "MADE-UP INPUTS: quantized ranges were not chosen for them; give --inputs to see how real data drift"
    made = " made up by graphopt, on which real data may differ: --inputs takes yours" if drift.made_up else ""
    yield f"{drift.samples} sample{'' if drift.samples == 1 else 's'}{made}"


def _few(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _bar(sqnr: float) -> str:
    filled = _BAR if sqnr == math.inf else round(_BAR * min(max(sqnr, 0.0), _SCALE) / _SCALE)
    return "█" * filled + "░" * (_BAR - filled)


def save_drift(drift: Drift, path: str | Path, title: str = "") -> None:
    """Write the layers as a page (.html), a chart (.svg) or data (.json). OptionError, OutputError."""
    from .html.drift import chart, drift_page

    kind = Path(path).suffix
    if kind == ".json":
        text = json.dumps(drift.to_dict(), indent=2)
    elif kind == ".svg":
        text = chart(drift, alone=True)
    elif kind == ".html":
        text = drift_page(drift, title, list(conclusion(drift)))
    else:
        raise OptionError(f"report {str(path)!r}: the name ends in .html, .svg or .json")
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
