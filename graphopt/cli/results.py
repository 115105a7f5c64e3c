"""Files that a command writes: default names by kind, the kind stored in each file, and overwriting rules."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from ..machine.files import check_target

if TYPE_CHECKING:
    from ..passes.float16 import Float16
    from ..passes.prune import Prune
    from ..passes.quantize import Quantize
    from ..result import Result

MARK = "graphopt.result"
"""The metadata entry with the kind of a result; neither figures nor size limit count it."""
PIPE = "-"
"""The name of the standard input and output."""
_METADATA, _KEY, _VALUE = 14, 1, 2
"""Numbers of fields in onnx.proto: ModelProto.metadata_props, StringStringEntryProto.key and .value."""


def kind_of(
    quantize: Quantize | None, prune: Prune | None, exact: str = "opt", precision: Float16 | None = None
) -> str:
    """The kind of a result, the suffix of its default name: "int8", "pruned", "pruned.int8", "w4a8", "w8", "int4",
    "fp16"; else `exact`.

    "int8" computes with integers, and "w4a8" with weights of 4 bits and activations of 8; "w8" and "int4" only store
    weights so.
    """
    parts = [] if prune is None else ["pruned"]
    if quantize is not None:
        bits = quantize.weight_type if quantize.weight_bits < 8 else "w8"
        computed = f"w{quantize.weight_bits}a{quantize.activation_bits}" if quantize.is_narrow else "int8"
        parts.append(bits if quantize.mode == "weights" else computed)
    if precision is not None:
        parts.append("fp16")
    return ".".join(parts) or exact


def default_name(source: Path, kind: str) -> Path:
    """The name of a result where none is given: beside its model, or the standard output for the standard input."""
    return Path(PIPE) if str(source) == PIPE else source.with_suffix(f".{kind}.onnx")


def check_destination(destination: Path, source: Path, kind: str, *, force: bool) -> None:
    """OutputError if a result cannot be written there, or if it would replace the model itself or a result of another
    kind and `force` is False. A file without a kind is replaced: the caller named it.
    """
    if str(destination) == PIPE:
        if sys.stdout.isatty():
            raise OutputError("-: a terminal cannot show a model: redirect the output, or name a file with -o")
        return
    check_target(destination)
    if force or not destination.exists():
        return
    if source.exists() and os.path.samefile(source, destination):
        raise OutputError(f"{str(destination)!r} is the model itself: name another file, or --force replaces it")
    found = kind_in(destination)
    if found not in (None, kind):
        what = f"a result of another kind ({found}, not {kind})"
        raise OutputError(f"{str(destination)!r} exists and is {what}: name another file, or --force replaces it")


def write(result: Result, destination: Path, kind: str, external: bool) -> None:
    """Write a result with its kind in the metadata. OutputError."""
    result.ir.metadata[MARK] = kind
    _mark(result, kind)  # `save` writes this proto, unless weights go beside it
    if str(destination) != PIPE:
        result.save(destination, external=True if external else None)
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        file = Path(folder) / "model.onnx"
        result.save(file, external=False)
        with open(file, "rb") as written:
            while block := written.read(1 << 20):  # 1 MiB at a time: a model is not held twice
                sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def _mark(result: Result, kind: str) -> None:
    """Set the mark in the proto to write, replacing an earlier one."""
    metadata = result.emission.proto.metadata_props
    for entry in metadata:
        if entry.key == MARK:
            entry.value = kind
            return
    entry = metadata.add()
    entry.key, entry.value = MARK, kind


def kind_in(path: Path) -> str | None:
    """The kind stored in a file, None for none or if it is no ONNX file. Reads no graph and no weights."""
    from ..onnx_io.parts.wire import WITH_LENGTH, fields

    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for field in fields(data, 0, len(data)):
                if field.number != _METADATA or field.wire != WITH_LENGTH:
                    continue
                entry = {
                    part.number: part for part in fields(data, field.value, field.stop) if part.wire == WITH_LENGTH
                }
                texts = {number: _text(data[part.value : part.stop]) for number, part in entry.items()}
                if texts.get(_KEY) == MARK:
                    return texts.get(_VALUE)
    except (OSError, ValueError):
        pass
    return None


def _text(data: bytes) -> str:
    return data[:4096].decode("utf-8", "replace")  # a kind has a few letters
