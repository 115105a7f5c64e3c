"""Optimize a folder of models in one call: encoder and decoder of a pair, and the files beside them.

Folders as Optimum writes them (encoder_model.onnx, decoder_model.onnx, decoder_with_past_model.onnx,
decoder_model_merged.onnx) and as onnxruntime-genai reads them (model.onnx with genai_config.json): every model keeps
its name, its inputs and its outputs, so that the configuration stays valid.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import check_arguments
from .errors import InputError, OptionError, OutputError

if TYPE_CHECKING:
    from .report import Report
    from .result import Result

_SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class FolderResult:
    """The report of each model and the files that were copied, by their paths in the folder."""

    reports: Mapping[str, Report]
    copied: tuple[str, ...]

    @property
    def is_unverified(self) -> bool:
        """A model of the folder could not be compared with its original."""
        return any(report.is_unverified for report in self.reports.values())


def optimize_folder(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    each: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
    **options: Any,
) -> FolderResult:
    """Optimise every model of a folder into another one, and copy the files beside them.

    folder: models with the suffix .onnx, in folders within it, too. output: a new or empty folder; `force` replaces
    files in it. options: the keywords of `graphopt.optimize`, for all models; each: further keywords by model name
    ("encoder_model": {"quantize": "weights"}). Raises as `optimize` does, and for names in `each` without a model.
    """
    check_arguments(optimize_folder, locals())
    from .api import optimize

    own = dict(each or {})
    models = models_of(folder)
    unknown = sorted(set(own) - {path.stem for path in models})
    if unknown:
        known = ", ".join(sorted(path.stem for path in models))
        raise OptionError(f"each: {', '.join(unknown)}: not in the folder, which has {known}")

    def one(path: Path) -> Result:
        return optimize(path, **{**options, **own.get(path.stem, {})})

    return optimized_folder(folder, output, one, lambda result, path: result.save(path), force=force)


def optimized_folder(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    one: Callable[[Path], Result],
    save: Callable[[Result, Path], None],
    *,
    force: bool = False,
) -> FolderResult:
    """`optimize_folder` with functions that optimise one model and write its result. One model is held at a time."""
    source, target = Path(folder), Path(output)
    models = models_of(source)
    _check_output(source, target, force)
    reports: dict[str, Report] = {}
    stored: set[Path] = set()
    for path in models:
        result = one(path)
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        save(result, destination)
        reports[str(path.relative_to(source))] = result.report
        stored |= _data_files(path)
    copied = []
    for path in _files(source):
        if path.suffix != _SUFFIX and path.resolve() not in stored:
            name = path.relative_to(source)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)
            copied.append(str(name))
    return FolderResult(reports, tuple(copied))


def models_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The models of a folder, in the order of their paths. InputError where there is none."""
    source = Path(folder)
    if not source.is_dir():
        raise InputError(f"{str(source)!r} is no folder")
    found = [path for path in _files(source) if path.suffix == _SUFFIX]
    if not found:
        raise InputError(f"{str(source)!r} holds no file with the suffix {_SUFFIX}")
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder, in order; hidden ones and their folders are left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _check_output(source: Path, target: Path, force: bool) -> None:
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise OptionError(f"{str(target)!r} is the folder of the models, or in it: name another one")
    if target.exists() and not target.is_dir():
        raise OutputError(f"{str(target)!r} is a file: name a folder")
    if not force and target.is_dir() and any(target.iterdir()):
        raise OutputError(f"{str(target)!r} is not empty: name another folder, or force replaces its files")


def _data_files(model: Path) -> set[Path]:
    """The external data files of a model, not copied: the result brings its own."""
    import onnx

    proto = onnx.load(model, load_external_data=False)
    places = {
        entry.value
        for tensor in proto.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {(model.parent / place).resolve() for place in places}
