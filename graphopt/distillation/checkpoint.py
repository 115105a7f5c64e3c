"""Checkpoints: the whole state of a run in one file, from which a killed run goes on bit for bit."""

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

    digest: of models, data and options. step: steps done. rate: the peak of the schedule. best: the weights that are
    kept, None while these are the student's own; error: theirs on the samples held out; at: the step that left them;
    least: the least error of all that were kept. history: (step, loss of training since the last, held-out error).
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
        """Write it so that a reader finds the old state whole or the new one. OutputError."""
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
    """All but the tensors, as plain data."""
    kept = {f.name: getattr(progressed, f.name) for f in fields(progressed) if f.name not in ("state", "best")}
    return {**kept, "has_best": progressed.best is not None}


def load(path: str | os.PathLike[str], digest: str) -> Progressed | None:
    """The state in a file, None where there is no file. OptionError for one of another run, InputError for a damaged
    one.
    """
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
