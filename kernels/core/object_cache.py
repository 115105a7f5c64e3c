"""The on-disk cache of compiled kernels: never stale, safe to share; if it fails, kernels are compiled again."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from graphopt.machine.cpu import host_cpu
from graphopt.machine.files import cache_folder, replace_file


class Digest(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Add data."""


_MAGIC = b"graphopt-object-1\n"
_DIGEST_BYTES = 32  # of SHA-256
_GENERATIONS_KEPT = 8  # of sources and compilers: a few checkouts side by side


@cache
def generation() -> str:
    """Digest of everything an object depends on: all kernels' sources, the CPU, the compilers' versions."""
    digest = hashlib.sha256(_MAGIC)
    digest_sources(digest, Path(__file__).parents[1])
    name, features = host_cpu()
    facts = (name, *sorted(features), version("llvmlite"), version("numba"), sys.version, sys.platform)
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()[:24]


def digest_sources(digest: Digest, folder: Path) -> None:
    """Add the names and contents of all Python files in a folder and below."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(file for file in files if file.endswith(".py")):
            digest.update(f"{os.path.relpath(place, folder)}/{name}".encode())
            with open(os.path.join(place, name), "rb") as file:
                digest.update(file.read())


def _path(key: str) -> Path:
    return cache_folder() / "kernels" / generation() / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".o")


def load_object(key: str) -> bytes | None:
    """The object stored under `key` for this generation; None when absent, unreadable or damaged."""
    try:
        stored = _path(key).read_bytes()
    except OSError:
        return None
    head = len(_MAGIC)
    payload = stored[head + _DIGEST_BYTES :]
    intact = stored[:head] == _MAGIC and stored[head : head + _DIGEST_BYTES] == hashlib.sha256(payload).digest()
    return payload if intact else None


def store_object(key: str, payload: bytes) -> bool:
    """Store an object (written aside, then renamed); False when the cache cannot be written."""
    path = _path(key)
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _forget_old_generations(path.parent)
        replace_file(
            str(path), lambda file: file.write(_MAGIC + hashlib.sha256(payload).digest() + payload), durable=False
        )
    except OSError:
        return False
    return True


def _forget_old_generations(current: Path) -> None:
    others = [folder for folder in current.parent.iterdir() if folder != current]
    others.sort(key=lambda folder: folder.stat().st_mtime)
    for folder in others[: max(0, len(others) + 1 - _GENERATIONS_KEPT)]:
        shutil.rmtree(folder, ignore_errors=True)
