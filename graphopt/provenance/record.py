"""The data of a provenance, stored as JSON in the file's metadata or beside the file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..ir import Graph

KEY = "graphopt.provenance"
"""The metadata entry of a model that carries its provenance."""

_VERSION = 1  # version of the JSON format below


@dataclass(frozen=True, slots=True)
class Step:
    """One rewrite: the pass, the rule or kind of change in the pass, and the original nodes it started from."""

    by: str
    rewrite: str
    nodes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The pass, and the rule where its name differs."""
        return self.by if self.rewrite in ("", self.by) else f"{self.by} · {self.rewrite}"


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a node of the optimized model: its operator, the original nodes it came from, its creating pass.

    `by` is the pass that created the node, "" for a node of the original, and "emit" for an Identity that only gives an
    output its name.
    """

    op: str
    sources: tuple[str, ...]
    by: str


@dataclass(frozen=True, slots=True)
class Removal:
    """The removal of an original node: the pass, and the index of the step (None if unknown)."""

    by: str
    step: int | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """The data behind `graphopt explain`.

    original: operator by the name of each node of the original; an unnamed node is called `Op_position`.
    nodes: the origin of each node of the optimized model, by the name of its first output. gone: removed original
    nodes. steps: every rewrite, in order. notes: the effect of passes and rewrites, in one line each, by name.
    """

    original: Mapping[str, str]
    nodes: Mapping[str, Origin]
    gone: Mapping[str, Removal]
    steps: tuple[Step, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def heirs(self, name: str) -> tuple[str, ...]:
        """The first outputs of the nodes that descend from an original node."""
        return tuple(output for output, origin in self.nodes.items() if name in origin.sources)

    def note_on(self, step: Step) -> str:
        """The effect of a step in one line, "" if neither pass nor rule has a summary."""
        return self.notes.get(step.rewrite) or self.notes.get(step.by, "")

    def history(self, sources: tuple[str, ...]) -> tuple[Step, ...]:
        """The steps that started from any of these original nodes."""
        wanted = set(sources)
        return tuple(step for step in self.steps if not wanted.isdisjoint(step.nodes))

    def is_of(self, graph: Graph) -> bool:
        """Whether `graph` is the original of this provenance, by names and operators of its nodes."""
        return dict(self.original) == {node.origins[0]: node.op for node in graph.walk() if node.origins}

    def to_json(self) -> str:
        """Compact JSON text, deterministic for equal runs."""
        return json.dumps({"version": _VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, place: str) -> Provenance:
        """Read `to_json` back; InputError names `place` for any other text."""
        try:
            return _from_dict(json.loads(text))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{place} holds no provenance that this version reads") from error


def _from_dict(data: dict[str, Any]) -> Provenance:
    if data["version"] != _VERSION:
        raise ValueError(data["version"])
    return Provenance(
        original=dict(data["original"]),
        nodes={k: Origin(v["op"], tuple(v["sources"]), v["by"]) for k, v in data["nodes"].items()},
        gone={k: Removal(v["by"], v["step"]) for k, v in data["gone"].items()},
        steps=tuple(Step(s["by"], s["rewrite"], tuple(s["nodes"])) for s in data["steps"]),
        notes=dict(data["notes"]),
    )


def sidecar(model: str | Path) -> Path:
    """The file beside a model that may hold its provenance: `out.onnx` has `out.provenance.json`."""
    return Path(model).with_suffix(".provenance.json")


def read(model: str | Path, metadata: Mapping[str, str], beside: str | Path | None = None) -> Provenance | None:
    """The provenance of a model: from `beside` if given, else from the file's metadata, else from its sidecar."""
    if beside is None and KEY in metadata:
        return Provenance.from_json(metadata[KEY], f"{os.fspath(model)!r}")
    path = sidecar(model) if beside is None else Path(beside)
    if beside is None and not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} holds no provenance that this version reads") from error
    return Provenance.from_json(text, repr(str(path)))


def write_sidecar(provenance: Provenance, path: str | Path) -> None:
    """Write the provenance as JSON. OutputError if it cannot be written."""
    try:
        Path(path).write_text(provenance.to_json(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{os.fspath(path)!r} cannot be written: {error.strerror}") from error
