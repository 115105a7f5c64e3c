"""Commands that show models and passes: `inspect`, `diff`, `explain` and `passes`."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..errors import InputError, OptionError
from ..options import TARGETS
from .common import JSON, Model, one_of, out
from .console import write_json


def inspect(
    model: Model,
    constants: Annotated[bool, typer.Option(help="show the values of small constants")] = False,
    text: Annotated[bool, typer.Option(help="show the IR text")] = True,
    channels: Annotated[bool, typer.Option(help="show which channels can be removed together, not the text")] = False,
    as_json: JSON = False,
) -> None:
    """Show a model's figures and its IR text."""
    from .. import onnx_io
    from ..ir import to_text
    from ..measure import figures
    from ..report.tables import model_table

    lifted = onnx_io.load(model)
    found = figures(lifted, onnx_io.file_bytes(lifted, model))
    if as_json:
        write_json({"opsets": dict(lifted.opsets), **found.to_dict()})
        return
    out.print(model_table(found, lifted.opsets))
    if channels:
        from ..report.channels import channel_tables

        for table in channel_tables(lifted):
            out.print(table)
    elif text:
        out.print(to_text(lifted.graph, constants=constants), markup=False, highlight=False, soft_wrap=True, end="")


def diff(
    original: Model,
    changed: Model,
    text: Annotated[bool, typer.Option(help="show the IR texts line by line")] = True,
    as_json: JSON = False,
) -> None:
    """Show how two models differ: figures, what became of the nodes where CHANGED tells, IR texts line by line."""
    from .. import onnx_io
    from ..ir import to_text
    from ..measure import figures
    from ..provenance import overview, read, summary
    from ..report.tables import figures_table

    a, b = onnx_io.load(original), onnx_io.load(changed)
    before, after = (figures(m, onnx_io.file_bytes(m, path)) for m, path in ((a, original), (b, changed)))
    found = read(changed, b.metadata)
    if found is not None and not found.is_of(a.graph):
        found = None
    lines: list[str] = []
    if text:
        ours, theirs = (to_text(m.graph, constants=True).splitlines() for m in (a, b))
        lines = list(difflib.unified_diff(ours, theirs, str(original), str(changed), lineterm="", n=1))
    if as_json:
        became = None if found is None else summary(found)
        write_json({"before": before.to_dict(), "after": after.to_dict(), "nodes": became, "text": lines})
        return
    out.print(figures_table(before, after))
    if found is not None:
        out.print(overview(found))
    for line in lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def explain(
    model: Model,
    node: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="a node or value of the model, or a node of the original", show_default=False),
    ] = None,
    beside: Annotated[Optional[Path], typer.Option(help="the provenance, if neither in nor beside it")] = None,  # noqa: UP045
    as_json: JSON = False,
) -> None:
    """Tell where a node of an optimised model comes from, or what became of a node of the original."""
    from .. import onnx_io
    from ..provenance import explanation, history_of, overview, read, summary

    lifted = onnx_io.load(model, infer=False)
    found = read(model, lifted.metadata, beside)
    if found is None:
        raise InputError(f"{str(model)!r} does not tell where its nodes come from: optimise with --provenance")
    if as_json:
        write_json(summary(found) if node is None else history_of(found, lifted.graph, node))
        return
    if node is None:
        out.print(overview(found))
        return
    for line in explanation(found, lifted.graph, node):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def passes(
    model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="the model to trace on", show_default=False),
    ] = None,
    trace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="RULE", help="show where this rule (or all of a pass) almost matched MODEL, and why not"),
    ] = None,
    target: Annotated[
        str, typer.Option(help="portable, onnxruntime or graphopt", autocompletion=one_of(*TARGETS))
    ] = "portable",
    as_json: JSON = False,
) -> None:
    """List the passes in the order they run, and those that run only when named; or trace a rule on a model."""
    from ..pipeline import listed
    from ..report.tables import passes_table
    from ..report.tracing import trace_rule, trace_table

    if (model is None) != (trace is None):
        raise OptionError("passes: give both a rule to --trace and the MODEL to trace it on, or neither")
    if model is not None and trace is not None:
        traced = trace_rule(model, trace, target)
        if as_json:
            write_json(asdict(traced))
        else:
            out.print(trace_table(traced))
    elif as_json:
        rows = [
            {"name": p.name, "scheduled": s, "exact": p.exact, "from": p.source, "summary": p.summary}
            for p, s in listed()
        ]
        write_json(rows)
    else:
        out.print(passes_table())
