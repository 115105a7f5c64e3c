"""`graphopt optimize`, and its variants with other defaults: `quantize`, `prune` and `simplify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..errors import OptionError
from ..options import (
    CHECKS,
    Compression,
    Options,
    Output,
    Schedule,
    Target,
    Validation,
    check_named,
    mode_named,
    runtime_named,
)
from .common import (
    JSON,
    MetricName,
    Names,
    Preprocess,
    Scheduler,
    TargetName,
    Workers,
    dims_of,
    function_of,
    one_of,
    out,
    shapes_of,
    split,
)
from .console import leave_stdout, manner, note, write_json
from .folder import optimize_folder
from .progress import progress
from .results import PIPE, check_destination, default_name, kind_of, write
from .routing import variant

if TYPE_CHECKING:
    from ..distillation import Distil
    from ..passes.float16 import Float16
    from ..passes.prune import Prune
    from ..passes.quantize import Quantize
    from ..report import Report

_SECONDS = 0.5
"""Seconds of timing per candidate for the headline: the default of `Report.timed`."""
_WORDS = ("int8", "int4", "static", "dynamic", "weights")
_FASTER_NOT_PLAINER = "merge-products,hoist-over-split"
"""Passes that `simplify` skips: they merge layers, or move one operator to several places, for speed alone."""
_RATIO = 0.3
"""The default share of channels that `graphopt prune` removes, as in the example of README.md."""


def optimize(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="the ONNX file to optimise, - for stdin, or a folder of files that belong together",
            show_default=False,
        ),
    ],
    destination: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="OUT", help="the same as --output", show_default=False),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="where to write it, - for stdout; MODEL with .opt.onnx by default"),
    ] = None,
    quantize: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="static (or int8), dynamic, weights, or int4 for weights of 4 bits", autocompletion=one_of(*_WORDS)
        ),
    ] = None,
    quantize_option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a word of graphopt.Quantize, as calibrate_method=mse; repeatable"),
    ] = None,
    sensitivity: Annotated[bool, typer.Option(help="let the report tell what each layer costs alone")] = False,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="an .npz file of inputs by name, or a folder of images or arrays, to quantize and prune by, else to "
            "validate by; or the word synthetic"
        ),
    ] = None,
    preprocess: Preprocess = None,
    prune: Annotated[Optional[float], typer.Option(help="share of channels to remove, 0 to 1")] = None,  # noqa: UP045
    prune_option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a word of graphopt.Prune, as macs=0.5 or speedup=2 in place of the share; repeatable"),
    ] = None,
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="float16 (or fp16): half the bytes", autocompletion=one_of("float16", "float32")),
    ] = None,
    precision_option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a word of graphopt.Float16, as keep_io=false or storage; repeatable"),
    ] = None,
    recover: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="distil: train what is left on the original's results", autocompletion=one_of("distil")),
    ] = None,
    recover_option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a word of graphopt.Distil, as steps=3000; repeatable"),
    ] = None,
    metric: MetricName = None,
    max_drop: Annotated[Optional[float], typer.Option(help="allowed fall of the metric")] = None,  # noqa: UP045
    target: TargetName = "portable",
    input_shape: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="fix the sizes of an input, as x:1,3,224,224 (? leaves one open); repeatable"),
    ] = None,
    dim: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="fix a size by its name, as batch=1; repeatable"),
    ] = None,
    opset: Annotated[Optional[int], typer.Option(help="convert to this later operator set first")] = None,  # noqa: UP045
    recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="a recipe says what is done, in place of options; data and metric are given beside it"),
    ] = None,
    save_recipe: Annotated[Optional[Path], typer.Option(help="write the recipe of the result")] = None,  # noqa: UP045
    workers: Workers = None,
    scheduler: Scheduler = None,
    passes: Names = None,
    skip: Names = None,
    add_pass: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="run this pass, too, such as one of an installed package; repeatable"),
    ] = None,
    check: Annotated[
        str, typer.Option(help="when numbers are compared: end, each, off", autocompletion=one_of(*CHECKS))
    ] = "end",
    report: Annotated[Optional[Path], typer.Option(help="write the report, OUT.html, OUT.md or OUT.json")] = None,  # noqa: UP045
    provenance: Annotated[bool, typer.Option(help="let OUT tell where its nodes come from")] = False,
    provenance_beside: Annotated[bool, typer.Option(help="the same, in OUT with .provenance.json")] = False,
    save_as_external_data: Annotated[bool, typer.Option(help="weights beside the model in OUT.data")] = False,
    repros: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="a folder for small models that show why a rewrite was rolled back"),
    ] = None,
    allow_unverified: Annotated[
        bool, typer.Option(help="exit with 0 in place of 3 where nothing could be compared")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="show what would be done, write no model")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace MODEL itself, or a result of another kind")] = False,
    as_json: JSON = False,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
    kind: Annotated[str, typer.Option(hidden=True, help="the kind of an exact result")] = "opt",
) -> None:
    """Optimise MODEL into OUT and show what changed and that it is equal: exit 0, 3 where that could not be verified.

    `graphopt MODEL` is the same. Of a folder every model is optimised, and the files beside them are copied.
    """
    from ..api import optimize_as
    from ..machine.files import check_target
    from ..parallel import executor_of
    from ..provenance import sidecar, write_sidecar
    from ..recipe import Recipe
    from ..report.tables import report_lines

    if output is not None and destination not in (None, output):
        raise OptionError(f"OUT {str(destination)!r} and --output {str(output)!r} name two files: give one")
    if report is not None and report.suffix not in (".html", ".md", ".json"):
        raise OptionError(f"--report {report.name}: the name ends in .html, .md or .json")
    words = [*(quantize_option or []), *(["sensitivity"] if sensitivity else [])]
    options = Options(
        target=Target(
            runtime=runtime_named(target), input_shapes=shapes_of(input_shape or []), dims=dims_of(dim or []),
            opset=opset,
        ),
        schedule=Schedule(passes=split(passes), skip=split(skip) or (), add=tuple(add_pass or ())),
        compression=Compression(
            quantize=_quantize(quantize, words), prune=_prune(prune, prune_option or []),
            precision=_precision(precision, precision_option or []), recover=_recover(recover, recover_option or []),
            calibration=calibration, preprocess=preprocess,
            metric=None if metric is None else function_of(metric), max_drop=max_drop,
        ),
        validation=Validation(check=check_named(check), repros=repros),
        output=Output(provenance=provenance),
        seed=seed,
    )  # fmt: skip
    read = None if recipe is None else Recipe.load(recipe)
    options = options if read is None else read.options(options)
    asked = options.compression
    kind = kind_of(asked.quantize, asked.prune, kind, asked.precision)
    if source.is_dir():
        beside = {
            "--report": report, "--dry-run": dry_run, "--provenance-beside": provenance_beside, "--recipe": recipe,
            "--save-recipe": save_recipe, "--workers": workers, "--scheduler": scheduler,
        }  # fmt: skip
        where = output or destination or source.with_name(f"{source.name}.{kind}")
        optimize_folder(source, where, options, kind, save_as_external_data, beside, force=force, as_json=as_json)
        return
    written = output or destination or default_name(source, kind)
    to_pipe = str(written) == PIPE
    if report is not None:
        check_target(report)
    if save_recipe is not None:
        check_target(save_recipe)
    if not dry_run:
        if to_pipe and as_json:
            raise OptionError("--json and the model cannot both go to stdout: name a file with --output")
        check_destination(written, source, kind, force=force)
        if to_pipe:
            leave_stdout()
    for ignored in _ignored(options, dry_run, provenance_beside, save_as_external_data):
        note(ignored)
    model = sys.stdin.buffer.read() if str(source) == PIPE else source
    with executor_of(workers, scheduler) as executor, progress("optimize") as tell:
        result = optimize_as(model, options, tell, read, executor)
        account: Report = result.report
        if report is not None or (account.is_lossy and (as_json or not manner.quiet)):
            tell("measure speed", None)
            account = account.timed(_SECONDS)
        if not dry_run:
            tell("write", None)
            write(result, written, kind, save_as_external_data)
            if provenance_beside and account.trail is not None and not to_pipe:
                write_sidecar(account.trail.provenance, sidecar(written))
        if report is not None:
            account.save(report, source.name)
        if save_recipe is not None:
            result.recipe.save(save_recipe)
    if as_json:
        write_json({**account.to_dict(), "input": str(source), "output": None if dry_run else str(written)})
    else:
        out.print(*report_lines(account, manner.verbose), sep="\n")
        line = "nothing written (dry run)" if dry_run else f"wrote {'to stdout' if to_pipe else written}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if account.is_unverified and not allow_unverified:
        raise typer.Exit(3)


def _quantize(mode: str | None, words: list[str]) -> Quantize | None:
    """The options of quantization. OptionError for words without a mode."""
    if mode is None:
        if words:
            raise OptionError(f"{words[0]}: goes with --quantize static, dynamic or weights")
        return None
    from ..passes.quantize.options import from_words

    named, weight_type = mode_named(mode)
    return from_words(named, words if weight_type is None else [f"weight_type={weight_type}", *words])


def _prune(ratio: float | None, words: list[str]) -> Prune | None:
    """The options of pruning: a ratio, words, or both."""
    if ratio is None and not words:
        return None
    from ..passes.prune.options import from_words

    return from_words(ratio, words)


def _precision(word: str | None, words: list[str]) -> Float16 | None:
    """The options of half precision. OptionError for words without it."""
    from ..passes.float16.options import check_precision, from_words

    options = check_precision(word)
    if options is None and words:
        raise OptionError(f"{words[0]}: goes with --precision float16")
    return from_words(words) if words else options


def _recover(method: str | None, words: list[str]) -> Distil | None:
    """The options of recovery. OptionError for words without a method, or another method."""
    if method is None and not words:
        return None
    if method is None:
        raise OptionError(f"{words[0]}: goes with --recover distil")
    from ..distillation.options import check_distil, from_words

    return from_words(words) if method == "distil" else check_distil(method)


def _ignored(options: Options, dry_run: bool, beside: bool, external: bool) -> list[str]:
    """A line for each group of options that has no effect beside the other options."""
    lines = []
    asked = options.compression
    if not asked.is_wanted:
        given: dict[str, object] = {"--metric": asked.metric, "--max-drop": asked.max_drop}
        if not asked.validates or options.validation.policy == "off":
            given = {"--calibration": asked.calibration, "--preprocess": asked.preprocess, **given}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            lines.append(f"{', '.join(unused)}: not used, because nothing is quantized, pruned or converted")
    unwritten = [
        name for name, given in (("--provenance-beside", beside), ("--save-as-external-data", external)) if given
    ]
    if dry_run and unwritten:
        lines.append(f"{', '.join(unwritten)}: not used, because a dry run writes no model")
    if options.validation.repros is not None and options.validation.policy == "off":
        lines.append("--repros: not used, because nothing is compared with --check off")
    return lines


_LOSSY = (
    "quantize", "quantize_option", "sensitivity", "calibration", "preprocess", "prune", "prune_option", "precision",
    "precision_option", "recover", "recover_option", "metric", "max_drop", "recipe", "save_recipe", "workers",
    "scheduler",
)  # fmt: skip

quantize = variant(
    optimize, "quantize",
    "Quantize MODEL, to int8 unless --mode says otherwise: `optimize --quantize int8`.",
    quantize=(
        Annotated[
            str,
            typer.Option(
                "--mode", "--quantize", "-m", autocompletion=one_of(*_WORDS),
                help="static (or int8), dynamic, weights, or int4 for weights of 4 bits",
            ),
        ],
        "int8",
    ),
    output=(
        Annotated[
            Optional[Path],  # noqa: UP045
            typer.Option("--output", "-o", help="where to write it, - for stdout; MODEL with .int8.onnx by default"),
        ],
        None,
    ),
    without=("kind", "recipe"),
)  # fmt: skip
prune = variant(
    optimize, "prune",
    "Remove whole channels of MODEL: `optimize --prune RATIO`.",
    prune=(
        Annotated[float, typer.Option("--ratio", "--prune", "-r", help="share of channels to remove, 0 to 1")], _RATIO,
    ),
    output=(
        Annotated[
            Optional[Path],  # noqa: UP045
            typer.Option("--output", "-o", help="where to write it, - for stdout; MODEL with .pruned.onnx by default"),
        ],
        None,
    ),
    without=("kind", "recipe"),
)  # fmt: skip
simplify = variant(
    optimize, "simplify",
    "Make MODEL plain to read, its results equal: `optimize` without the passes that only speed up.",
    skip=_FASTER_NOT_PLAINER, kind="simplified",
    output=(
        Annotated[
            Optional[Path],  # noqa: UP045
            typer.Option(
                "--output", "-o", help="where to write it, - for stdout; MODEL with .simplified.onnx by default"
            ),
        ],
        None,
    ),
    without=(*_LOSSY, "target", "passes"),
)  # fmt: skip
