"""The folder of a search: a line per trial, so that a killed search resumes; and the models."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..machine.files import check_target, replace_file, reported

HISTORY = "history.jsonl"


@dataclass(slots=True)
class Store:
    """A folder with `history.jsonl`, `front.json`, `front.html` and the models of the front.

    header: all that the trials depend on: trials of another header are not comparable. records: the lines after it, in
    order. keep_alive: holds a temporary folder, where no other was given.
    """

    folder: Path
    header: Mapping[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    keep_alive: Any = None

    @classmethod
    def open(cls, out: str | os.PathLike[str] | None, header: Mapping[str, Any]) -> Store:
        """A store in a folder, created if missing, with the lines of an earlier run. OutputError; OptionError where the
        folder holds another search."""
        if out is None:
            temporary = tempfile.TemporaryDirectory(prefix="graphopt-search-")
            store = cls(Path(temporary.name), header, keep_alive=temporary)
        else:
            store = cls(Path(out), header)
        with reported(str(store.folder)):
            store.folder.mkdir(parents=True, exist_ok=True)
        check_target(store.path)
        lines = _lines(store.path)
        if not lines:
            store._append(dict(header))
        elif lines[0] != json.loads(json.dumps(header)):
            changed = [key for key in header if lines[0].get(key) != json.loads(json.dumps(header[key]))]
            raise OptionError(
                f"out: {str(store.folder)!r} holds a search that differs in {', '.join(changed) or 'its version'}: "
                "give another folder, or the same options to resume"
            )
        store.records = lines[1:]
        return store

    @property
    def path(self) -> Path:
        """The file of the history."""
        return self.folder / HISTORY

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Append a record; it is on disk when this returns. OutputError."""
        record = {"kind": kind, **data}
        self._append(record)
        self.records.append(record)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind, in their order."""
        return [record for record in self.records if record.get("kind") == kind]

    def write_model(self, name: str, data: bytes) -> str:
        """Write a model atomically; returns its path. OutputError."""
        path = self.folder / f"{name}.onnx"
        with reported(str(path)):
            replace_file(os.fspath(path), lambda file: file.write(data), durable=False)
        return str(path)

    def _append(self, record: dict[str, Any]) -> None:
        """One line in one write: a killed run leaves at most a partial last line, which later runs skip."""
        line = json.dumps(record, separators=(",", ":"))
        with reported(str(self.path)), open(self.path, "a+b") as file:
            ends = file.seek(0, os.SEEK_END)
            if ends:
                file.seek(ends - 1)
                line = ("" if file.read(1) == b"\n" else "\n") + line
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def _lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without a truncated last line."""
    if not path.is_file():
        return []
    with reported(str(path)):
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for text in texts:
        try:
            record = json.loads(text)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found
