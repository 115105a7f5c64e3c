"""Runs rules to a fixpoint. A worklist indexed by operator keeps the cost linear in the model."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import nullcontext

from ..ir import RETURN, Graph, Node
from ..ops import update_types
from .context import Context
from .pattern import OperandPrefilter, may_match, operand_prefilter
from .rule import Rule

QUANTIZERS = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))
"""Operators that may turn a change in the last bit into a whole quantization step."""

_REWRITES_A_NODE, _INFERENCES_A_NODE = 50, 4
"""The most rewrites, and type inferences, a node: guards against rules and types that undo each other; not tuned."""


class NoFixpoint(RuntimeError):
    """Raised where rules keep undoing each other."""


def apply_rules(graph: Graph, rules: Sequence[Rule], made_by: str = "", context: Context | None = None) -> Counter[str]:
    """Apply rules, in the order given at each node, until none fires; returns how often each fired.

    Covers nested graphs. NoFixpoint after 50 rewrites a node.
    """
    context = context or Context()
    with nullcontext() if graph.model is None else context.watching(graph.model):
        return _to_fixpoint(graph, rules, made_by, context)


def _to_fixpoint(graph: Graph, rules: Sequence[Rule], made_by: str, context: Context) -> Counter[str]:
    fired: Counter[str] = Counter()
    nodes = list(graph.walk())
    present = {node.op for node in nodes}
    usable = [candidate for candidate in rules if candidate.unavailable(graph, context.target) is None]
    index = _index(usable, present)
    if not index:
        return fired
    queue = deque(node for node in nodes if node.op in index)
    queued = set(queue)
    depths = _depths(index)
    limit = _REWRITES_A_NODE * (len(queue) + 20)
    quantized = _Downstream() if present & QUANTIZERS else None
    edited: dict[Node, None] = {}
    with context.collecting() as touched:
        while queue:
            node = queue.popleft()
            queued.discard(node)
            for candidate, wanted in index.get(node.op, ()):
                if node.graph is None:
                    break
                if not may_match(wanted, node):
                    continue
                if candidate.rounding and quantized is not None and quantized.reached_from(node):
                    continue
                if candidate.apply(node, context, made_by) is not None:
                    continue
                fired[candidate.name] += 1
                if fired.total() > limit:
                    raise NoFixpoint(f"rules do not reach a fixpoint: {', '.join(sorted(fired))}")
                new = {near.op for near in touched if near.graph is not None} - present
                if new:  # rules that need an operator which the graph lacked may match now
                    present |= new
                    index = _index(usable, present)
                    depths = _depths(index)
                for near in _neighbourhood(touched, depths):
                    if near not in queued:
                        queued.add(near)
                        queue.append(near)
                edited.update(touched)
                touched.clear()
        touched.update(edited)
    return fired


class _Downstream:
    """Finds nodes with a quantization downstream, in the same graph or an enclosing one."""

    def __init__(self) -> None:
        self._known: dict[Node, bool] = {}

    def reached_from(self, start: Node) -> bool:
        """Whether a quantization reads the results of `start`, or values computed from them."""
        path, seen = [start], {start}
        reached = False
        while path and not reached:
            node = path.pop()
            if node.op in QUANTIZERS or self._known.get(node, False):
                reached = True
            elif node not in self._known:
                following = {use.node for value in node.outputs for use in value._uses}
                if node.op == RETURN and node.graph is not None and node.graph.owner is not None:
                    following.add(node.graph.owner)
                path.extend(following - seen)
                seen |= following
        self._known.update(dict.fromkeys((start,) if reached else seen, reached))
        return reached


def _index(rules: Sequence[Rule], present: set[str]) -> dict[str, list[tuple[Rule, OperandPrefilter]]]:
    """Rules by the operator at their root, without rules that need an operator absent from the graph."""
    index: dict[str, list[tuple[Rule, OperandPrefilter]]] = {}
    for candidate in rules:
        if candidate.needs <= present:
            wanted = operand_prefilter(candidate.pattern)
            for op in candidate.pattern.ops:
                index.setdefault(op, []).append((candidate, wanted))
    return index


def _depths(index: dict[str, list[tuple[Rule, OperandPrefilter]]]) -> dict[str, int]:
    """The depth of the deepest pattern for each root operator."""
    return {op: max(candidate.pattern.depth for candidate, _ in rules) for op, rules in index.items()}


def _neighbourhood(touched: dict[Node, None], depths: dict[str, int]) -> list[Node]:
    """Nodes where rules may newly match: touched nodes, and users of their results within the depth of the patterns."""
    front = [node for node in touched if node.graph is not None]
    seen = set(front)
    near = [node for node in front if node.op in depths]
    for distance in range(1, max(depths.values(), default=0)):
        following = []
        for node in front:
            if node.op == RETURN:
                continue
            for value in node.outputs:
                for use in value._uses:
                    if use.node not in seen and use.node.graph is not None:
                        seen.add(use.node)
                        following.append(use.node)
                        if depths.get(use.node.op, 0) > distance:
                            near.append(use.node)
        front = following
    return near


def retype(touched: Sequence[Node]) -> int:
    """Infer the types of `touched` nodes again, and of users of changed values; returns the number of changed nodes."""
    queue, changed = deque(n for n in touched if n.graph is not None and n.op != RETURN), 0
    seen: Counter[Node] = Counter()
    while queue:
        node = queue.popleft()
        seen[node] += 1
        if node.graph is None or seen[node] > _INFERENCES_A_NODE or not update_types(node):
            continue
        changed += 1
        for value in node.outputs:
            queue.extend(use.node for use in value._uses if use.node.op != RETURN)
    return changed
