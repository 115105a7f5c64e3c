"""Descriptions of a session: inputs and outputs in onnxruntime's type names, and the runtime of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir import TensorType, Type
from .lower.ort_types import ORT_NAMES


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output: name, type in onnxruntime's words like `tensor(float)`, shape of ints, names and None."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True, slots=True)
class DescribedPart:
    """One line of `Session.describe`: the runtime of a part, its operators by count, the reason for the runtime."""

    where: str
    operators: Mapping[str, int]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """The parts of a session in the order they run, and the reason for this partition; `str()` gives a table."""

    parts: tuple[DescribedPart, ...]
    verdict: str = ""

    def __str__(self) -> str:
        lines = []
        for index, part in enumerate(self.parts):
            counts = ", ".join(f"{name} {count}" for name, count in sorted(part.operators.items()))
            lines.append(f"{index:3}  {part.where:12} {counts}" + (f"  ({part.reason})" if part.reason else ""))
        return "\n".join([*lines, *([self.verdict] if self.verdict else [])])


def node_arg(name: str, declared: Type | None) -> NodeArg:
    """An input or output with onnxruntime's name of its type."""
    if not isinstance(declared, TensorType):
        return NodeArg(name, str(declared), [])
    kind = ORT_NAMES.get(declared.dtype, declared.dtype.name.lower())
    return NodeArg(name, f"tensor({kind})", [] if declared.shape is None else list(declared.shape))
