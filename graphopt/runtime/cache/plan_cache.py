"""The plans of a model on disk, beside the kernels: its manifest and its executables, weights packed.

A file is a pickle followed by its arrays, each aligned to a cache line for kernels, read in one piece and used in
place. The folder also holds machine code that is run, so that pickles need no additional trust. Files are written
beside, then renamed; a file that cannot be read or written costs only the time to compile again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import struct
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ...kernels import SLACK, aligned_empty, select_level
from ...kernels.core.object_cache import digest_sources, generation
from ...machine.files import cache_folder, replace_file

_MAGIC = b"graphopt-plans-1\n"
_LINE = 64  # bytes of a cache line
_LARGEST = 1 << 29
"""Bytes of the largest file, packed weights of some 500 million parameters; a bound, not tuned."""

_MOST = 2 << 30
"""Bytes of all files, least recently used models removed first; a bound on the user's disk, not tuned."""

_FILES = 64
"""Files of one model, which with open shapes could have any number of executables; a bound, not tuned."""

_ROOM = _MOST // 8
"""Bytes freed beyond _MOST at a time: the sizes of all files are read once for so many bytes saved. A choice."""

_UNIT = 1 << 16
"""Bytes that a byte of the tally stands for: a tally of 32 KB for _MOST. A choice."""

_HEAD = struct.Struct("<32sQQ")  # digest of the pickle and of the sizes, length of the pickle, number of arrays


@cache
def _sources() -> bytes:
    """Digest of all code that turns a model into executables: kernels, compilers, the packages above, libraries."""
    digest = hashlib.sha256(generation().encode())
    package = Path(__file__).parents[2]
    for folder in ("ir", "ops", "onnx_io", "analysis", "runtime"):
        digest_sources(digest, package / folder)
    for library in ("onnx", "onnxruntime"):  # whose inference gave the types
        digest.update(version(library).encode())
    return digest.digest()


class PlanCache:
    """The cache files of one model, keyed by its digest and by the options that its executables depend on."""

    def __init__(self, digest: str, *options: object) -> None:
        facts = hashlib.sha256(_MAGIC + _sources() + repr((digest, select_level().name, *options)).encode())
        self._folder = cache_folder() / "plans" / facts.hexdigest()[:32]

    def _path(self, name: object) -> Path:
        return self._folder / hashlib.sha256(repr(name).encode()).hexdigest()[:32]

    def load(self, name: object) -> Any:
        """The object saved under this name; None where no readable file holds one."""
        try:
            with open(self._path(name), "rb") as file:
                plan = _read(file)
            os.utime(self._folder)
        except (OSError, ValueError, EOFError, AttributeError, ImportError, TypeError, pickle.UnpicklingError):
            return None
        return plan

    def save(self, name: object, plan: object) -> bool:
        """Keep an object that pickles; False where it is too large or the folder cannot be written."""
        arrays: list[memoryview] = []
        text = pickle.dumps(plan, protocol=5, buffer_callback=lambda b: arrays.append(b.raw()))
        if len(text) + sum(array.nbytes for array in arrays) > _LARGEST:
            return False
        path = self._path(name)
        try:
            try:
                count = len(os.listdir(self._folder))
            except FileNotFoundError:
                self._folder.mkdir(parents=True, exist_ok=True)
                count = 0
            if count >= _FILES:
                return False
            replace_file(str(path), lambda file: _write(file, text, arrays), durable=False)
            if _tallied(self._folder.parent, path.stat().st_size) > _MOST:
                _forget(self._folder)
        except OSError:
            return False
        return True


def _write(file: Any, text: bytes, arrays: list[memoryview]) -> None:
    sizes = np.array([array.nbytes for array in arrays], np.int64).tobytes()
    file.write(_MAGIC + _HEAD.pack(hashlib.sha256(sizes + text).digest(), len(text), len(arrays)) + sizes + text)
    zeros = bytes(SLACK + _LINE)
    file.writelines(part for array in arrays for part in (array, zeros[: _padded(array.nbytes) - array.nbytes]))


def _read(file: Any) -> Any:
    """Raises ValueError for a file that is cut off or damaged."""
    head = file.read(len(_MAGIC) + _HEAD.size)
    if not head.startswith(_MAGIC) or len(head) != len(_MAGIC) + _HEAD.size:
        raise ValueError("not a file of plans")
    digest, length, count = _HEAD.unpack(head[len(_MAGIC) :])
    text = file.read(8 * count + length)
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("damaged")
    sizes = np.frombuffer(text[: 8 * count], np.int64).tolist()
    begins = [0, *accumulate(_padded(size) for size in sizes)]
    memory = aligned_empty(begins[-1])
    if file.readinto(memory) != memory.nbytes:
        raise ValueError("cut off")
    buffers = [memory.data[begin : begin + size] for begin, size in zip(begins, sizes)]
    return pickle.loads(memoryview(text)[8 * count :], buffers=buffers)


def _padded(size: int) -> int:
    """Bytes of an array and the slack that kernels may read behind it, rounded up to a cache line."""
    return -(-(size + SLACK) // _LINE) * _LINE


def _tally(plans: Path) -> Path:
    """The file whose size tells, in units, the bytes saved in a folder of plans; none until they are counted."""
    return plans.with_name(f"{plans.name}.tally")


def _tallied(plans: Path, size: int) -> int:
    """No fewer than the bytes in a folder with a new file of `size` bytes; above _MOST where none were counted."""
    try:
        descriptor = os.open(_tally(plans), os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return _MOST + 1
    try:
        os.write(descriptor, bytes(-(-size // _UNIT)))
        return os.fstat(descriptor).st_size * _UNIT
    finally:
        os.close(descriptor)


def _forget(own: Path) -> None:
    """Remove the least recently used models until the rest fits with room for others, and tally the rest."""
    folders = []
    for folder in own.parent.iterdir():
        with suppress(OSError):
            folders.append((folder.stat().st_mtime, sum(f.stat().st_size for f in folder.iterdir()), folder))
    total = sum(size for _, size, _ in folders)
    for _, size, folder in sorted(folders):
        if total <= _MOST - _ROOM:
            break
        if folder != own:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
    _tally(own.parent).write_bytes(bytes(-(-total // _UNIT)))
