"""Unique names for emission: a value keeps its own name if that is free, else it gets a fresh one."""

from __future__ import annotations

from ..ir import Graph, Node, Value


class Names:
    """The names of one scope: a model's root graph with all nested in it, or a function's body.

    Inputs and results of the outermost graph keep theirs. Every name is unique, nested graphs included.
    """

    def __init__(self, root: Graph) -> None:
        self.of: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._wishes: set[str] = set()
        self._counts: dict[str, int] = {}
        self._nodes: set[str] = set()
        for value in root.inputs:
            self._taken.add(value.name)
            self.of[value] = value.name
        self._taken.update(port.name for port in root.ports)
        for graph in root.graphs():
            self._wishes.update(port.name for port in graph.ports)
            self._wishes.update(value.name for value in graph.inputs)
            for node in graph.snapshot():
                self._wishes.update(value.name for value in (*node.inputs, *node.outputs) if value is not None)
                if not node.made_by:
                    self._nodes.add(node.name)

    def settle(self, value: Value, name: str) -> None:
        """Give a value exactly this name, which must be free."""
        self._taken.add(name)
        self.of[value] = name

    def define(self, value: Value, wish: str = "") -> str:
        """The name of a value that is defined here; an unused output without a name has none."""
        known = self.of.get(value)
        if known is not None:
            return known
        wish = wish or value.name
        if not wish and not value._uses:
            return ""
        name = self.fresh(wish or _stem(value), bool(wish))
        self.of[value] = name
        return name

    def of_node(self, node: Node) -> str:
        """The name of a node: its own if it stems from the original model, a unique one if a pass created it."""
        if not node.made_by or not node.name:
            return node.name
        name, n = node.name, 0
        while name in self._nodes:
            n += 1
            name = f"{node.name}_{n}"
        self._nodes.add(name)
        return name

    def fresh(self, wish: str, exact: bool = True) -> str:
        """A free name: `wish` itself if `exact` and free, else `wish` with a number."""
        taken = self._taken
        if exact and wish not in taken:
            taken.add(wish)
            return wish
        n = self._counts.get(wish, 0)
        while True:
            n += 1
            name = f"{wish}_{n}"
            if name not in taken and name not in self._wishes:
                self._counts[wish] = n
                taken.add(name)
                return name


def _stem(value: Value) -> str:
    if value.constant is not None:
        return "constant"
    return "input" if value.producer is None else value.producer.op_type.lower()
