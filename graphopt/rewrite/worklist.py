"""Runs rules to a fixpoint. The worklist is indexed by operator, so the cost grows linearly with the model."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from ..ir import RETURN, Graph, Node
from ..ops import update_types
from .rule import Rule


class NoFixpoint(RuntimeError):
    """Rules keep undoing each other."""


def apply_rules(graph: Graph, rules: Sequence[Rule], made_by: str = "") -> Counter[str]:
    """Apply rules, in the order given at each node, until none fires; returns how often each fired.

    Covers nested graphs. NoFixpoint after 50 rewrites a node.
    """
    index: dict[str, list[Rule]] = {}
    for candidate in rules:
        if not candidate.refuses(graph):
            for op in candidate.pattern.ops:
                index.setdefault(op, []).append(candidate)
    fired: Counter[str] = Counter()
    if not index:
        return fired
    queue = deque(node for node in graph.walk() if node.op in index)
    queued = set(queue)
    depth = max(candidate.pattern.depth for found in index.values() for candidate in found)
    limit = 50 * (len(queue) + 20)
    model = graph.model
    before = None if model is None else model.touched
    touched: dict[Node, None] = {}
    if model is not None:
        model.touched = touched
    while queue:
        node = queue.popleft()
        queued.discard(node)
        for candidate in index[node.op]:
            if node.graph is None:
                break
            if candidate.apply(node, made_by):
                continue
            fired[candidate.name] += 1
            if fired.total() > limit:
                raise NoFixpoint(f"rules do not reach a fixpoint: {', '.join(sorted(fired))}")
            for near in _neighbourhood(touched, depth):
                if near.op in index and near not in queued:
                    queued.add(near)
                    queue.append(near)
            if before is not None:
                before.update(touched)
            touched.clear()
    if model is not None:
        model.touched = before
    return fired


def _neighbourhood(touched: dict[Node, None], depth: int) -> dict[Node, None]:
    """Nodes in a graph among `touched`, and users of their results up to `depth` steps on: their matches may be new."""
    near = {node: None for node in touched if node.graph is not None}
    front = list(near)
    for _ in range(depth):
        following = []
        for node in front:
            if node.op == RETURN:
                continue
            for value in node.outputs:
                for use in value._uses:
                    if use.node not in near and use.node.graph is not None:
                        near[use.node] = None
                        following.append(use.node)
        front = following
    return near


def retype(touched: Sequence[Node]) -> int:
    """Infer the types of `touched` nodes anew and follow changes to their users. Returns how many nodes changed."""
    queue, changed = deque(n for n in touched if n.graph is not None and n.op != RETURN), 0
    seen: Counter[Node] = Counter()
    while queue:
        node = queue.popleft()
        seen[node] += 1
        if node.graph is None or seen[node] > 4 or not update_types(node):
            continue
        changed += 1
        for value in node.outputs:
            queue.extend(use.node for use in value._uses if use.node.op != RETURN)
    return changed
