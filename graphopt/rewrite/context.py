"""The context of a run of passes: what every rewrite may assume, and the record of the rewrites that were made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..ir import Node, Owner


class RewriteLog:
    """Counts rewrites and stops them: at a limit (bisection), or those of a banned name (what was rolled back).

    entries: the rewrites in order (pass, rewrite, names of the original nodes). erased: for each node that was erased
    its original nodes, the pass that ran, and the index of the last entry before it (-1 before the first).
    """

    __slots__ = ("banned", "count", "entries", "erased", "limit", "scope")

    def __init__(self, limit: int | None = None, banned: frozenset[str] = frozenset()) -> None:
        self.limit, self.banned = limit, banned
        self.count = 0
        self.scope = ""  # the running pass
        self.entries: list[tuple[str, str, tuple[str, ...]]] = []
        self.erased: list[tuple[tuple[str, ...], str, int]] = []

    @property
    def is_spent(self) -> bool:
        """No further rewrite is permitted."""
        return self.limit is not None and self.count >= self.limit

    def permits(self, what: str) -> bool:
        """Whether a rewrite of this name may be made."""
        return not self.is_spent and what not in self.banned

    def record(self, what: str, origins: tuple[str, ...]) -> None:
        """Add a rewrite."""
        self.count += 1
        self.entries.append((self.scope, what, origins))


@dataclass(slots=True)
class Context:
    """Handed to every pass of a run.

    target: the runtime that the model is for. size_limit: the bytes that constants may take in all; None for any.
    log: the rewrites made so far. touched: the nodes that edits reached since the innermost `collecting` began.
    """

    target: str = "portable"
    size_limit: int | None = None
    log: RewriteLog = field(default_factory=RewriteLog)
    touched: dict[Node, None] = field(default_factory=dict)

    def commit(self, what: str, node: Node) -> bool:
        """Record the rewrite `what` at `node`, to be called right before its first edit; False if it may not be made.

        Every rewrite commits, so that any single one can be rolled back.
        """
        if not self.log.permits(what):
            return False
        self.log.record(what, node.origins or (node.name,))
        return True

    def erased(self, node: Node) -> None:
        """A node is about to be erased, with all that is nested in it."""
        log = self.log
        for gone in (node, *(inner for nested in node.subgraphs for inner in nested.walk())):
            log.erased.append((gone.origins, log.scope, len(log.entries) - 1))

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
        """The nodes that edits reach from here on; in the end they are added to those collected before."""
        outer, self.touched = self.touched, {}
        try:
            yield self.touched
        finally:
            outer.update(self.touched)
            self.touched = outer
