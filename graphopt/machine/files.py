"""Atomic replacement of files, checks of output paths, and the cache folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError


def cache_folder() -> Path:
    """$GRAPHOPT_CACHE, else the platform's cache folder for the user."""
    chosen = os.environ.get("GRAPHOPT_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "graphopt"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "graphopt"
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "graphopt"


def check_target(path: str | os.PathLike[str]) -> None:
    """OutputError if no file can be written at `path`; call it before computing the file's content."""
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
    """Turn an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path!r} cannot be written: {error.strerror or error}") from error


def replace_file(path: str, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write beside `path` (flushed to the disk if `durable`), then rename: readers see the old file or the new one."""
    beside = beside_name(path)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with open(descriptor, "wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    if durable:
        sync_folder(path)


def beside_name(path: str) -> str:
    """A free name in the folder of `path`."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")


def sync_folder(path: str) -> None:
    """Flush a rename in the folder of `path` to the disk. Windows cannot open folders, and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
