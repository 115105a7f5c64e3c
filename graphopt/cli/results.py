"""Files that a command writes: their names by kind, the kind that each file tells, and what may be overwritten."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import OutputError
from ..machine.files import check_target

if TYPE_CHECKING:
    from ..api import Result
    from ..passes.prune import Prune
    from ..passes.quantize import Quantize

MARK = "graphopt.result"
"""The metadata entry by which a file tells the kind of result that it is; neither figures nor size limit count it."""
PIPE = "-"
"""The name of the standard input and output."""
_METADATA, _KEY, _VALUE = 14, 1, 2
"""Numbers of fields in onnx.proto: ModelProto.metadata_props, StringStringEntryProto.key and .value."""


def kind_of(quantize: Quantize | None, prune: Prune | None, exact: str = "opt") -> str:
    """The kind of a result, as its default name ends: "int8", "pruned", "pruned.int8", "w8", "int4"; else `exact`.

    "int8" computes with integers, "w8" and "int4" only store weights so.
    """
    parts = [] if prune is None else ["pruned"]
    if quantize is not None:
        bits = "int4" if quantize.weight_type == "int4" else "w8"
        parts.append(bits if quantize.mode == "weights" else "int8")
    return ".".join(parts) or exact


def default_name(source: Path, kind: str) -> Path:
    """The name of a result where none is given: beside its model, or the standard output for the standard input."""
    return Path(PIPE) if str(source) == PIPE else source.with_suffix(f".{kind}.onnx")


def check_destination(destination: Path, source: Path, kind: str, *, force: bool) -> None:
    """OutputError if a result cannot be written there, or if it would replace the model itself or a result of another
    kind and `force` is False. A file that tells no kind is replaced: the name was given.
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
    """Write a result that tells its kind. OutputError."""
    result.ir.metadata[MARK] = kind
    _mark(result, kind)  # its proto is what is written, unless weights go beside it
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
    """The mark in the proto that is written, in place of an earlier one."""
    metadata = result.emission.proto.metadata_props
    for entry in metadata:
        if entry.key == MARK:
            entry.value = kind
            return
    entry = metadata.add()
    entry.key, entry.value = MARK, kind


def kind_in(path: Path) -> str | None:
    """The kind that a file tells, None where it tells none or is no ONNX file. Reads no graph and no weights."""
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            for field, start, stop in _fields(file, 0, end):
                if field == _METADATA:
                    entry = {f: _text(file, a, b) for f, a, b in _fields(file, start, stop) if f in (_KEY, _VALUE)}
                    if entry.get(_KEY) == MARK:
                        return entry.get(_VALUE)
    except (OSError, ValueError):
        pass
    return None


def _fields(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of the fields with a length in a part of a protobuf message. ValueError where it is none.

    https://protobuf.dev/programming-guides/encoding: a tag is number << 3 | wire type; 0 is a varint, 1 eight bytes,
    2 a length and its bytes, 5 four bytes.
    """
    while start < stop:
        file.seek(start)
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _varint(file)
            start = file.tell()
        elif wire in (1, 5):
            start = file.tell() + (8 if wire == 1 else 4)
        elif wire == 2:
            size = _varint(file)
            first = file.tell()
            start = first + size
            if start > stop:
                raise ValueError("a field is longer than its message")
            yield number, first, start
        else:
            raise ValueError(f"there is no wire type {wire}")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("a number has no end")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _text(file: BinaryIO, start: int, stop: int) -> str:
    file.seek(start)
    return file.read(min(stop - start, 4096)).decode("utf-8", "replace")  # a kind has a few letters
