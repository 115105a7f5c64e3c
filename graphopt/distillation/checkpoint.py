"""Checkpoints: the whole state of a training run in one file, from which a killed run resumes bit for bit."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..errors import InputError, OptionError
from ..ir import Array
from ..machine.files import replace_file, reported

_ABOUT = "about.json"


@dataclass(slots=True)
class Progressed:
    """The state of a run between two steps.

    digest: of models, data and options. step: steps done. rate: peak learning rate. best: the weights kept so far, None
    for the student's own; error: their held-out error; at: their step; least: the least error of all weights ever kept.
    history: (step, mean training loss since the last entry, held-out error).
    """

    digest: str
    rate: float = 0.0
    step: int = 0
    error: float = float("inf")
    least: float = float("inf")
    at: int = 0
    history: list[tuple[int, float, float]] = field(default_factory=list)
    stopped: str = ""
    state: dict[str, Array] = field(default_factory=dict)
    best: dict[str, Array] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state atomically: a reader finds the old or the new state whole. OutputError."""
        about = _plain(self)
        arrays = {f"state/{name}": array for name, array in self.state.items()}
        arrays |= {f"best/{name}": array for name, array in (self.best or {}).items()}
        arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        named: dict[str, Any] = arrays

        def write(file: Any) -> None:
            np.savez(file, **named)

        with reported(os.fspath(path)):
            replace_file(os.fspath(path), write)


def _plain(progressed: Progressed) -> dict[str, Any]:
    """All fields but the tensors, as plain data."""
    kept = {f.name: getattr(progressed, f.name) for f in fields(progressed) if f.name not in ("state", "best")}
    return {**kept, "has_best": progressed.best is not None}


def load(path: str | os.PathLike[str], digest: str) -> Progressed | None:
    """The state in a file, None without a file. OptionError for another run's file, InputError for a damaged one."""
    name = os.fspath(path)
    if not os.path.exists(name):
        return None
    try:
        with np.load(name, allow_pickle=False) as file:
            about = json.loads(bytes(file[_ABOUT]))
            state = {key[len("state/") :]: file[key] for key in file.files if key.startswith("state/")}
            best = {key[len("best/") :]: file[key] for key in file.files if key.startswith("best/")}
        has_best = about.pop("has_best")
        about["history"] = [tuple(entry) for entry in about["history"]]
        found = Progressed(**about, state=state, best=best if has_best else None)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"distil: {name!r} is no checkpoint of distillation, or is damaged: remove it") from error
    if found.digest != digest:
        raise OptionError(f"distil: the checkpoint {name!r} is of other models, data or options: name another file")
    return found
