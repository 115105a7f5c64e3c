"""`graphopt distil`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .common import JSON, Preprocess, out
from .console import leave_stdout, write_json
from .progress import progress
from .results import MARK, PIPE, check_destination, default_name

_KIND = "distilled"
"""The kind of the result, the suffix of its default name."""


def distil(
    student: Annotated[Path, typer.Argument(help="the ONNX file to train", show_default=False)],
    teacher: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="the ONNX file whose results are learnt; none where --labels alone are"),
    ] = None,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="samples: an .npz file of inputs by name, or a folder of images or arrays"),
    ] = None,
    labels: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="an .npy file of labels, or an .npz file of labels by output"),
    ] = None,
    preprocess: Preprocess = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="where to write it, - for stdout; STUDENT.distilled.onnx by default"),
    ] = None,
    option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a word of graphopt.Distil, as steps=3000 or checkpoint=run.npz; repeatable"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace STUDENT itself, or a result of another kind")] = False,
    as_json: JSON = False,
    seed: Annotated[int, typer.Option(help="seed of the order of samples")] = 0,
) -> None:
    """Train STUDENT to give the results of --teacher on unlabelled samples; judged on samples that are held out."""
    from ..distillation import distil as run
    from ..distillation.options import from_words

    options = from_words(option or [])
    written = output or default_name(student, _KIND)
    check_destination(written, student, _KIND, force=force)
    to_pipe = str(written) == PIPE
    if to_pipe:
        leave_stdout()
    with progress("distil") as tell:
        found = run(
            student, teacher, calibration, labels=None if labels is None else _labels(labels), preprocess=preprocess,
            seed=seed, progress=tell, options=options,
        )  # fmt: skip
    found.ir.metadata[MARK] = _KIND
    if to_pipe:
        sys.stdout.buffer.write(found.model.SerializeToString())
    else:
        found.save(written)
    if as_json and not to_pipe:
        write_json({**found.report.to_dict(), "student": str(student), "output": str(written)})
        return
    out.print(found.report.gained, markup=False, highlight=False, soft_wrap=True)
    line = f"wrote {'to stdout' if to_pipe else written}"
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _labels(path: Path) -> Any:
    """The labels in a file. InputError."""
    import numpy as np

    from ..errors import InputError, one_line

    try:
        found = np.load(path, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError) as error:
        raise InputError(f"--labels {str(path)!r} cannot be read: {one_line(error)}") from error
