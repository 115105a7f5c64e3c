"""The command line. Exit codes: 0 done (or equal), 1 different, 2 unusable input, 3 unverified."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .errors import GraphoptError, InputError, OptionError
from .options import Compression, Options, Output, Schedule, Target, Validation, check_named, runtime_named

if TYPE_CHECKING:
    from .measure import Metric
    from .passes.quantize import Quantize

app = typer.Typer(
    name="graphopt", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Optimise ONNX models: the same results, fewer nodes, validated.",
)  # fmt: skip
out = Console()
err = Console(stderr=True)

Model = Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)]
Names = Annotated[Optional[str], typer.Option(help="comma-separated names")]  # noqa: UP045 - typer reads it at run time


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2, never a traceback."""
    try:
        app()
    except GraphoptError as error:
        err.print(f"graphopt: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("graphopt: interrupted", style="red")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


@app.command()
def optimize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="the ONNX file to optimise", show_default=False)],
    destination: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="OUT", help="where to write it; IN with .opt.onnx by default", show_default=False),
    ] = None,
    quantize: Annotated[Optional[str], typer.Option(help="static, dynamic or weights")] = None,  # noqa: UP045
    quantize_option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a word of graphopt.Quantize, as calibrate_method=mse; repeatable"),
    ] = None,
    sensitivity: Annotated[bool, typer.Option(help="let the report tell what each layer costs alone")] = False,
    calibration: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    prune: Annotated[Optional[float], typer.Option(help="share of channels to remove, 0 to 1")] = None,  # noqa: UP045
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="module:function of a session, higher is better"),
    ] = None,
    max_drop: Annotated[Optional[float], typer.Option(help="allowed fall of the metric")] = None,  # noqa: UP045
    target: Annotated[str, typer.Option(help="portable, onnxruntime or graphopt")] = "portable",
    input_shape: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="fix the sizes of an input, as x:1,3,224,224 (? leaves one open); repeatable"),
    ] = None,
    dim: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="fix a size by its name, as batch=1; repeatable"),
    ] = None,
    opset: Annotated[Optional[int], typer.Option(help="convert to this later operator set first")] = None,  # noqa: UP045
    passes: Names = None,
    skip: Names = None,
    check: Annotated[str, typer.Option(help="when numbers are compared: end, each, off")] = "end",
    report: Annotated[Optional[Path], typer.Option(help="write the report, OUT.html or OUT.json")] = None,  # noqa: UP045
    provenance: Annotated[bool, typer.Option(help="let OUT tell where its nodes come from")] = False,
    provenance_beside: Annotated[bool, typer.Option(help="the same, in OUT with .provenance.json")] = False,
    save_as_external_data: Annotated[bool, typer.Option(help="weights beside the model in OUT.data")] = False,
    repros: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="a folder for small models that show why a rewrite was rolled back"),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="show what would be done, write nothing")] = False,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Optimise IN into OUT and show what changed and that it is equal."""
    from .api import as_prune, optimize_as
    from .machine.files import check_target
    from .provenance import sidecar, write_sidecar

    destination = destination or source.with_suffix(".opt.onnx")
    if report is not None and report.suffix not in (".html", ".json"):
        raise OptionError(f"--report {report.name}: the name ends in .html or .json")
    for path in ([] if dry_run else [destination]) + ([] if report is None else [report]):
        check_target(path)
    words = [*(quantize_option or []), *(["sensitivity"] if sensitivity else [])]
    options = Options(
        target=Target(
            runtime=runtime_named(target), input_shapes=_shapes(input_shape or []), dims=_dims(dim or []), opset=opset
        ),
        schedule=Schedule(passes=_split(passes), skip=_split(skip) or ()),
        compression=Compression(
            quantize=_quantize(quantize, words), prune=as_prune(prune), calibration=calibration,
            metric=None if metric is None else _function(metric), max_drop=max_drop,
        ),
        validation=Validation(check=check_named(check), repros=repros),
        output=Output(provenance=provenance),
        seed=seed,
    )  # fmt: skip
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True,
        disable=not err.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("optimise", total=1.0)
        result = optimize_as(source, options, lambda what, share: bar.update(task, completed=share, description=what))
    if not dry_run:
        result.save(destination, external=True if save_as_external_data else None)
        if provenance_beside and result.report.trail is not None:
            write_sidecar(result.report.trail.provenance, sidecar(destination))
    out.print(result.report)
    if report is not None:
        result.report.save(report, source.name)
    out.print("nothing written (dry run)" if dry_run else f"wrote {destination}", highlight=False, soft_wrap=True)


def _quantize(mode: str | None, words: list[str]) -> Quantize | None:
    """The options of quantization. OptionError for words without a mode."""
    if mode is None:
        if words:
            raise OptionError(f"{words[0]}: goes with --quantize static, dynamic or weights")
        return None
    from .passes.quantize.options import from_words

    return from_words(mode, words)


@app.command()
def verify(
    original: Model,
    candidate: Model,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(help="how many inputs to synthesise")] = 4,
    rtol: Annotated[float, typer.Option(help="tolerance relative to the largest result")] = 1e-4,
    min_sqnr: Annotated[Optional[float], typer.Option(help="accept by this SQNR in dB instead")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Say whether CANDIDATE computes what ORIGINAL computes: exit 0 equal, 1 different, 3 unverified."""
    from .equivalence import compare

    comparison = compare(original, candidate, inputs, samples, rtol, seed=seed, min_sqnr=min_sqnr)
    out.print(str(comparison), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit({"equal": 0, "different": 1}.get(comparison.status, 3))


@app.command()
def bisect(
    model: Model,
    passes: Names = None,
    skip: Names = None,
    target: Annotated[str, typer.Option(help="portable, onnxruntime or graphopt")] = "portable",
    repros: Annotated[Path, typer.Option(help="the folder that repros are written to")] = Path("repros"),
    samples: Annotated[int, typer.Option(help="how many inputs to make up")] = 4,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Find the rewrites that change MODEL's results, with a small model for each: exit 0 none, 1 some, 3 unverified."""
    from .bisection import bisect as run

    found = run(
        model, passes=_split(passes), skip=_split(skip) or (), target=runtime_named(target), samples=samples, seed=seed
    )
    for number, finding in enumerate(found.findings, 1):
        what = finding.guilty + (f" ({finding.rewrite})" if finding.rewrite else "")
        at = f" at {', '.join(finding.nodes[:3])}" if finding.nodes else ""
        out.print(f"[red]guilty[/] {what}{at}: {finding.reason}", highlight=False, soft_wrap=True)
        if finding.repro is not None:
            path = finding.repro.save(repros / f"{number:02d}-{finding.guilty}")
            out.print(f"  repro of {finding.repro.nodes} nodes: {path}", highlight=False, soft_wrap=True)
    left = found.report
    out.print(
        f"{'with these rolled back' if found else 'no rewrite is guilty'}: {left.status} {left.reason}", soft_wrap=True
    )
    raise typer.Exit(1 if found else 0 if left.status == "equal" else 3)


@app.command()
def inspect(
    model: Model,
    constants: Annotated[bool, typer.Option(help="show the values of small constants")] = False,
    text: Annotated[bool, typer.Option(help="show the IR text")] = True,
    channels: Annotated[bool, typer.Option(help="show which channels can be removed together, not the text")] = False,
) -> None:
    """Show a model's figures and its IR text."""
    from . import onnx_io
    from .ir import to_text
    from .measure import figures
    from .report.tables import model_table

    lifted = onnx_io.load(model)
    out.print(model_table(figures(lifted, onnx_io.file_bytes(lifted)), lifted.opsets))
    if channels:
        from .report.channels import channel_tables

        for table in channel_tables(lifted):
            out.print(table)
    elif text:
        out.print(to_text(lifted.graph, constants=constants), markup=False, highlight=False, soft_wrap=True, end="")


@app.command()
def diff(
    original: Model, changed: Model, text: Annotated[bool, typer.Option(help="show the IR texts line by line")] = True
) -> None:
    """Show how two models differ: figures, what became of the nodes where CHANGED tells, IR texts line by line."""
    from . import onnx_io
    from .ir import to_text
    from .measure import figures
    from .provenance import overview, read
    from .report.tables import figures_table

    a, b = onnx_io.load(original), onnx_io.load(changed)
    out.print(figures_table(figures(a, onnx_io.file_bytes(a)), figures(b, onnx_io.file_bytes(b))))
    found = read(changed, b.metadata)
    if found is not None and found.is_of(a.graph):
        out.print(overview(found))
    if not text:
        return
    before, after = (to_text(m.graph, constants=True).splitlines() for m in (a, b))
    for line in difflib.unified_diff(before, after, str(original), str(changed), lineterm="", n=1):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


@app.command()
def explain(
    model: Model,
    node: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="a node or value of the model, or a node of the original", show_default=False),
    ] = None,
    beside: Annotated[Optional[Path], typer.Option(help="the provenance, if neither in nor beside it")] = None,  # noqa: UP045
) -> None:
    """Tell where a node of an optimised model comes from, or what became of a node of the original."""
    from . import onnx_io
    from .provenance import explanation, overview, read

    lifted = onnx_io.load(model, infer=False)
    found = read(model, lifted.metadata, beside)
    if found is None:
        raise InputError(f"{str(model)!r} does not tell where its nodes come from: optimise with --provenance")
    if node is None:
        out.print(overview(found))
        return
    for line in explanation(found, lifted.graph, node):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, the first is the base", show_default=False)],
    threads: Annotated[int, typer.Option(help="threads within an operator")] = 1,
    seconds: Annotated[float, typer.Option(help="time for each model")] = 2.0,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    profile: Annotated[bool, typer.Option(help="show where the kernels' time goes, step by step")] = False,
) -> None:
    """Time models side by side in onnxruntime and graphopt's Session, on the same inputs, interleaved."""
    from .bench import bench_table, profile_table

    if profile:
        for model in models:
            out.print(profile_table(model, inputs=inputs))
        return
    out.print(bench_table(models, threads=threads, seconds=seconds, inputs=inputs))


@app.command()
def warmup(
    model: Model,
    threads: Annotated[int, typer.Option(help="threads within an operator")] = 1,
    seconds: Annotated[float, typer.Option(help="time for each region")] = 0.5,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
) -> None:
    """Compile a model's kernels and measure what is faster on this machine: kernels or onnxruntime."""
    from .bench import warmup_table

    out.print(warmup_table(model, threads=threads, seconds=seconds, inputs=inputs))


@app.command(name="passes")
def list_passes(
    model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="the model to trace on", show_default=False),
    ] = None,
    trace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="RULE", help="show where this rule (or all of a pass) almost matched MODEL, and why not"),
    ] = None,
    target: Annotated[str, typer.Option(help="portable, onnxruntime or graphopt")] = "portable",
) -> None:
    """List the passes in the order they run, and those that run only when named; or trace a rule on a model."""
    from .report.tables import passes_table
    from .report.tracing import trace_rule, trace_table

    if (model is None) != (trace is None):
        raise OptionError("passes: give both a rule to --trace and the MODEL to trace it on, or neither")
    if model is None or trace is None:
        out.print(passes_table())
        return
    out.print(trace_table(trace_rule(model, trace, target)))


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _shapes(texts: list[str]) -> dict[str, tuple[int | None, ...]]:
    shapes: dict[str, tuple[int | None, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        try:
            shape = tuple(None if d.strip() in ("?", "-1") else int(d) for d in sizes.split(",") if d.strip())
        except ValueError:
            shape = ()
        if not colon or not name or (not shape and sizes.strip()):
            raise InputError(f"--input-shape {text!r}: write it as name:1,3,224,224")
        shapes[name] = shape
    return shapes


def _dims(texts: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.strip().isdecimal():
            raise InputError(f"--dim {text!r}: write it as batch=1")
        sizes[name] = int(size)
    return sizes


def _function(text: str) -> Metric:
    from importlib import import_module

    module, colon, name = text.partition(":")
    if not colon:
        raise OptionError(f"--metric {text!r}: write it as module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        metric: Metric = getattr(import_module(module), name)
        return metric
    except (ImportError, AttributeError) as error:
        raise OptionError(f"--metric {text!r}: {error}") from error
    finally:
        sys.path.pop(0)


if __name__ == "__main__":
    main()
