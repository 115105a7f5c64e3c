"""The model of a whole file: the root graph, functions, operator sets, metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .graph import Graph, Listener


@dataclass(frozen=True, slots=True)
class FunctionId:
    """The name by which a node calls a function."""

    domain: str
    name: str
    overload: str = ""


@dataclass(slots=True)
class Function:
    """A model-local function. Its body is a small model: a graph and the opsets that the graph imports."""

    id: FunctionId
    body: Model
    raw: Any = None  # declared attributes, for onnx_io


@dataclass(slots=True)
class Model:
    """A whole file: the root graph, functions, operator set versions, metadata."""

    graph: Graph
    opsets: dict[str, int] = field(default_factory=dict)
    functions: dict[FunctionId, Function] = field(default_factory=dict)
    ir_version: int = 10
    producer: str = ""
    producer_version: str = ""
    domain: str = ""
    version: int | None = None
    doc: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    folder: str = ""  # the folder to which locations of external data are relative
    raw: Any = None  # fields of the file that only onnx_io reads
    listener: Listener | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for graph in self.graph.graphs():
            graph.model = self

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set; 0 if the model imports none."""
        return self.opsets.get("", 0)

    def __str__(self) -> str:
        return str(self.graph)


def model_of(graph: Graph) -> Model | None:
    """The model of a graph, nested or not; None for a graph without a model."""
    return graph.model if isinstance(graph.model, Model) else None
