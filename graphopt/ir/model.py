"""A whole file: the root graph with what surrounds it, and the log that its rewrites ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .graph import Graph, Node


@dataclass(frozen=True, slots=True)
class FunctionId:
    """What a node calls a function by."""

    domain: str
    name: str
    overload: str = ""


@dataclass(slots=True)
class Function:
    """A model-local function. Its body is a small model: a graph and the opsets the graph is written in."""

    id: FunctionId
    body: Model
    raw: Any = None  # the attributes' declarations and metadata, for the format layer


class RewriteLog:
    """Counts rewrites and stops them: at a limit (bisection), or those of a banned name (what was taken back).

    `entries` tells the rewrites in order; `erased` the original nodes of each node that went, the pass that ran,
    and the entry it followed (-1 before the first).
    """

    __slots__ = ("banned", "count", "entries", "erased", "limit", "scope")

    def __init__(self, limit: int | None = None, banned: frozenset[str] = frozenset()) -> None:
        self.limit, self.banned = limit, banned
        self.count = 0
        self.scope = ""  # the running pass
        self.entries: list[tuple[str, str, tuple[str, ...]]] = []  # pass, rewrite, original nodes
        self.erased: list[tuple[tuple[str, ...], str, int]] = []

    def permit(self, what: str, node: Node) -> bool:
        """Count the rewrite `what` at `node`, or refuse it."""
        if what in self.banned or (self.limit is not None and self.count >= self.limit):
            return False
        self.count += 1
        self.entries.append((self.scope, what, node.origins or (node.name,)))
        return True

    def note_erased(self, node: Node) -> None:
        """Remember that a node went, and all that is nested in it."""
        self.erased.append((node.origins, self.scope, len(self.entries) - 1))
        for nested in node.subgraphs:
            for inner in nested.walk():
                self.erased.append((inner.origins, self.scope, len(self.entries) - 1))


@dataclass(slots=True)
class Model:
    """A whole file: the root graph, functions, operator set versions, metadata.

    `target` and `size_limit` bind every rewrite: the runtime it may assume, the bytes constants may take in all.
    `touched`, when it is a dict, collects the nodes that edits reach (the worklist listens there); `log` is asked
    before each rewrite.
    """

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
    folder: str = ""  # where relative external data is found
    raw: Any = None  # what only the format layer reads back
    target: str = "portable"
    size_limit: int | None = None
    touched: dict[Node, None] | None = None
    log: RewriteLog | None = None

    def __post_init__(self) -> None:
        for graph in self.graph.graphs():
            graph.model = self

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set; 0 if the model imports none."""
        return self.opsets.get("", 0)

    def __str__(self) -> str:
        return str(self.graph)
