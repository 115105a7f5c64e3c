"""`graphopt optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import OptionError
from ..options import Compression, Options, Output, Schedule, Target, Validation, check_named, mode_named, runtime_named
from .common import Names, dims_of, err, function_of, out, shapes_of, split

if TYPE_CHECKING:
    from ..passes.quantize import Quantize


def optimize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="the ONNX file to optimise", show_default=False)],
    destination: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="OUT", help="where to write it; IN with .opt.onnx by default", show_default=False),
    ] = None,
    quantize: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="static (or int8), dynamic, weights, or int4 for weights of 4 bits"),
    ] = None,
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
    add_pass: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="run this pass, too, such as one of an installed package; repeatable"),
    ] = None,
    check: Annotated[str, typer.Option(help="when numbers are compared: end, each, off")] = "end",
    report: Annotated[Optional[Path], typer.Option(help="write the report, OUT.html, OUT.md or OUT.json")] = None,  # noqa: UP045
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
    from ..api import as_prune, optimize_as
    from ..machine.files import check_target
    from ..provenance import sidecar, write_sidecar

    destination = destination or source.with_suffix(".opt.onnx")
    if report is not None and report.suffix not in (".html", ".md", ".json"):
        raise OptionError(f"--report {report.name}: the name ends in .html, .md or .json")
    for path in ([] if dry_run else [destination]) + ([] if report is None else [report]):
        check_target(path)
    words = [*(quantize_option or []), *(["sensitivity"] if sensitivity else [])]
    options = Options(
        target=Target(
            runtime=runtime_named(target), input_shapes=shapes_of(input_shape or []), dims=dims_of(dim or []),
            opset=opset,
        ),
        schedule=Schedule(passes=split(passes), skip=split(skip) or (), add=tuple(add_pass or ())),
        compression=Compression(
            quantize=_quantize(quantize, words), prune=as_prune(prune), calibration=calibration,
            metric=None if metric is None else function_of(metric), max_drop=max_drop,
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
    from ..passes.quantize.options import from_words

    named, weight_type = mode_named(mode)
    return from_words(named, words if weight_type is None else [f"weight_type={weight_type}", *words])
