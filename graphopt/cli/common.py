"""Helpers of all commands: argument types, and parsers of their texts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..errors import InputError, OptionError, did_you_mean, one_line
from ..options import TARGETS
from .console import err, out

if TYPE_CHECKING:
    from types import ModuleType

    from ..measure import Metric

__all__ = [
    "JSON", "Calibration", "MetricName", "Model", "Names", "Preprocess", "Scheduler", "TargetName", "Workers",
    "dims_of", "err", "function_of", "one_of", "out", "shapes_of", "split",
]  # fmt: skip


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Shell completion among a few words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete.lower())]

    return complete


JSON = Annotated[bool, typer.Option("--json", help="the result as JSON on stdout")]
"""The parameter is named `as_json`."""
Model = Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)]
Preprocess = Annotated[
    Optional[str],  # noqa: UP045 - as below
    typer.Option(help="of images: raw, unit, signed, imagenet, or as scale=1/255,mean=0.5,std=0.5,size=224x224"),
]
Calibration = Annotated[
    Optional[Path],  # noqa: UP045 - as below
    typer.Option(help="typical inputs: an .npz file by name, or a folder of images or arrays"),
]
MetricName = Annotated[
    Optional[str],  # noqa: UP045 - as below
    typer.Option(help="module:function or file.py:function, of a session; higher is better"),
]
TargetName = Annotated[str, typer.Option(help="portable, onnxruntime or graphopt", autocompletion=one_of(*TARGETS))]
Workers = Annotated[
    Optional[int],  # noqa: UP045 - as below
    typer.Option(help="processes that share the work; the result does not depend on how many"),
]
Scheduler = Annotated[
    Optional[str],  # noqa: UP045 - as below
    typer.Option(help="tcp://HOST:PORT of a dask scheduler, whose workers share it"),
]
Names = Annotated[Optional[str], typer.Option(help="comma-separated names")]  # noqa: UP045 - typer reads it at run time


_PIPED = 4096
"""Columns of piped output: names are never cut."""


def split(names: str | None) -> list[str] | None:
    """The names in a text, None for none."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def shapes_of(texts: list[str]) -> dict[str, tuple[int | None, ...]]:
    """The sizes of inputs, each written as `x:1,3,224,224`. InputError."""
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


def dims_of(texts: list[str]) -> dict[str, int]:
    """Sizes by name, each written as `batch=1`. InputError."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.strip().isdecimal():
            raise InputError(f"--dim {text!r}: write it as batch=1")
        sizes[name] = int(size)
    return sizes


def function_of(text: str) -> Metric:
    """The function that `module:function` or `file.py:function` names. OptionError."""
    from importlib import import_module

    module, _, name = text.rpartition(":")
    if not module or not name:
        raise OptionError(f"--metric {text!r}: write it as module:function or file.py:function")
    file = Path(module) if module.endswith(".py") else None
    if file is not None and not file.is_file():
        raise OptionError(f"--metric {text!r}: there is no file {module}")
    folder = str(Path.cwd() if file is None else file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        held = import_module(module) if file is None else _module_of(file)
    except Exception as error:  # the caller's module may raise anything
        raise OptionError(f"--metric {text!r}: {type(error).__name__}: {one_line(error)}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    metric: Metric | None = getattr(held, name, None)
    if metric is None:
        known = [key for key, value in vars(held).items() if callable(value) and not key.startswith("_")]
        raise OptionError(f"--metric {text!r}: {module} has no {name}{did_you_mean(name, known)}")
    return metric


def _module_of(file: Path) -> ModuleType:
    """The module in a file, under a private name: the file may share an installed package's name."""
    from importlib.util import module_from_spec, spec_from_file_location

    name = f"graphopt_metric_{file.stem}"
    spec = spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no module")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up here
    spec.loader.exec_module(module)
    return module
