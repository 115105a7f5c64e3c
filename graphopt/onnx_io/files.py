"""Files that are either the old one or the new one, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ..errors import OutputError

CHUNK = 1 << 24


def check_target(path: str | os.PathLike[str]) -> None:
    """OutputError if a file cannot be put at `path`, before any work is done."""
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    if not os.path.basename(path):
        raise OutputError(f"{path!r} cannot be written: it names no file")
    if os.path.isdir(path):
        raise OutputError(f"{path!r} cannot be written: it is a directory")
    if not os.path.isdir(folder):
        raise OutputError(f"{path!r} cannot be written: there is no directory {folder!r}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(f"{path!r} cannot be written: it is not a regular file")
    if not os.access(folder, os.W_OK) or (os.path.exists(path) and not os.access(path, os.W_OK)):
        raise OutputError(f"{path!r} cannot be written: permission denied")


@contextmanager
def reported(path: str) -> Iterator[None]:
    """Turn what the system says into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path!r} cannot be written: {error.strerror or error}") from error


def replace_file(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Write beside `path`, flush to the disk, then rename: a reader sees the old file or the new one, both whole."""
    beside = beside_name(path)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with open(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


def beside_name(path: str) -> str:
    """A free name in the folder of `path`."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")


def sync_folder(path: str) -> None:
    """Make a rename last; systems that cannot open folders do so by themselves."""
    if os.name == "nt":
        return
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DigestingFile:
    """Counts and digests what is written, so that a file can be named by its content."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position = file, 0
        self._hash = hashlib.blake2b(digest_size=8)

    def write(self, data: memoryview) -> None:
        """Write in pieces, so that a mapped file of any size passes through without staying in memory."""
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self.file.write(piece)
            self._hash.update(piece)
        self.position += len(data)

    def pad_to(self, offset: int) -> None:
        """Fill with zeros up to `offset`."""
        self.write(memoryview(bytes(offset - self.position)))

    @property
    def digest(self) -> str:
        """Sixteen hex digits."""
        return self._hash.hexdigest()
