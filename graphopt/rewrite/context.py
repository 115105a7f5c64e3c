"""The context of a run of passes: the target and limits of every rewrite, and the log of all rewrites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from ..ir import Node, Owner


class Rewritten(NamedTuple):
    """A logged rewrite: the pass, the name of the rewrite within it, and the names of the original nodes."""

    by: str
    rewrite: str
    nodes: tuple[str, ...]


class Erasure(NamedTuple):
    """A node that was erased: its original nodes, the pass, and the index of the last rewrite before (-1: none)."""

    origins: tuple[str, ...]
    by: str
    after: int


class RewriteLog:
    """Records rewrites, and refuses them: all beyond a limit (bisection), and those of banned names (rolled back).

    scope: the running pass. entries: the rewrites in order. erased: the erased nodes in order.
    """

    __slots__ = ("banned", "count", "entries", "erased", "limit", "scope")

    def __init__(self, limit: int | None = None, banned: frozenset[str] = frozenset()) -> None:
        self.limit, self.banned = limit, banned
        self.count = 0
        self.scope = ""
        self.entries: list[Rewritten] = []
        self.erased: list[Erasure] = []

    @property
    def is_spent(self) -> bool:
        """Whether the limit is reached, so that no further rewrite is permitted."""
        return self.limit is not None and self.count >= self.limit

    def permits(self, what: str) -> bool:
        """Whether a rewrite of this name is permitted now."""
        return what not in self.banned and not self.is_spent

    def record(self, what: str, origins: tuple[str, ...]) -> None:
        """Add a rewrite."""
        self.count += 1
        self.entries.append(Rewritten(self.scope, what, origins))


@dataclass(slots=True)
class Context:
    """The context that every pass of a run receives.

    target: the runtime that the model is for. size_limit: the most bytes of all constants together; None for no limit.
    log: the rewrites so far. touched: the nodes edited since the innermost `collecting` began.
    """

    target: str = "portable"
    size_limit: int | None = None
    log: RewriteLog = field(default_factory=RewriteLog)
    touched: dict[Node, None] = field(default_factory=dict)

    def commit(self, what: str, node: Node) -> bool:
        """Record the rewrite `what` at `node`; False if the log refuses it. Call right before the rewrite's first edit.

        Every rewrite commits, so that each can be rolled back alone.
        """
        if not self.log.permits(what):
            return False
        self.log.record(what, node.origins or (node.name,))
        return True

    def erased(self, node: Node) -> None:
        """Record that a node is about to be erased, with its nested graphs."""
        log = self.log
        log.erased.append(Erasure(node.origins, log.scope, len(log.entries) - 1))
        for nested in node.subgraphs:
            for inner in nested.walk():
                log.erased.append(Erasure(inner.origins, log.scope, len(log.entries) - 1))

    @contextmanager
    def watching(self, model: Owner) -> Iterator[None]:
        """Listen to the edits of the graphs of a model."""
        before = model.listener
        model.listener = self
        try:
            yield
        finally:
            model.listener = before

    @contextmanager
    def collecting(self) -> Iterator[dict[Node, None]]:
        """Collect the nodes edited within the block; afterwards they count as edited in the enclosing block, too."""
        outer, self.touched = self.touched, {}
        try:
            yield self.touched
        finally:
            outer.update(self.touched)
            self.touched = outer
