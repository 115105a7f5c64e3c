"""Parts of a file that the IR carries unread: opaque attributes and descriptions of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .types import Type


@dataclass(frozen=True, slots=True)
class Opaque:
    """An attribute that graphopt only carries (sparse tensors, types, references to function attributes).

    `raw`: the `onnx_ir.Attr`.
    """

    raw: Any

    def __repr__(self) -> str:
        return "opaque"


@dataclass(frozen=True, slots=True)
class Port:
    """The description of a graph's result in the file: name, declared type, doc string and metadata."""

    name: str
    type: Type | None = None
    doc: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
