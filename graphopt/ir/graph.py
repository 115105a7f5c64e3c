"""The graph IR: typed SSA values, nodes and graphs, with use-lists kept exact by construction.

    Model  owns the root Graph, functions, opsets and metadata
    Graph  owns Nodes in execution order; its last node is `Return`, so that a result is an ordinary use
    Node   op, inputs, attributes, outputs; an attribute may be a nested Graph
    Value  a graph input, the output of a node, or a constant; a nested graph captures outer values by using them

Identity, not names: values and nodes compare with `is`. A name is a preference: printing and emission use it if it is
free.
Only `Graph` edits. A node that no graph owns is not a user of its operands: a dropped node leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from .carried import Port
from .constant import Constant
from .types import Type, refine

RETURN = "Return"


class IRError(Exception):
    """Raised for an edit or a graph that breaks an invariant of the IR."""


class Listener(Protocol):
    """Is notified of the edits of a model's graphs."""

    touched: dict[Node, None]
    """Every edited node is added here."""

    def erased(self, node: Node) -> None:
        """Called right before `node` is erased."""


class Owner(Protocol):
    """The part of a model that its graphs depend on."""

    opsets: dict[str, int]
    listener: Listener | None


class Use(NamedTuple):
    """Input `slot` of `node`."""

    node: Node
    slot: int


def _use(node: Node, slot: int, new: Callable[..., Use] = tuple.__new__) -> Use:
    """`Use(node, slot)` at half the cost, as every edit creates uses."""
    return new(Use, (node, slot))


class Value:
    """One tensor (or sequence, or optional): the output of `producer`, an input of `owner`, or a `constant`.

    A constant with an `owner` is an initializer that is also an input: callers may override it, so passes must not
    treat it as constant; then `constant` is None and `default` holds the tensor.
    """

    __slots__ = ("_uses", "constant", "default", "doc", "index", "metadata", "name", "owner", "producer", "type")

    def __init__(self, type: Type | None = None, name: str = "", *, constant: Constant | None = None) -> None:
        self.type = constant.type if constant is not None and type is None else type
        self.name = name
        self.constant = constant
        self.default: Constant | None = None
        self.producer: Node | None = None
        self.index = 0
        self.owner: Graph | None = None
        self.doc = ""
        self.metadata: dict[str, str] | None = None
        self._uses: dict[Use, None] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every use, oldest first, uses by any graph's `Return` included."""
        return tuple(self._uses)

    @property
    def has_one_use(self) -> bool:
        """Exactly one input of one node reads this value."""
        return len(self._uses) == 1

    @property
    def is_unused(self) -> bool:
        """Nothing reads this value."""
        return not self._uses

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read this value, each once."""
        return tuple({use.node: None for use in self._uses})

    @property
    def is_result(self) -> bool:
        """A graph returns this value."""
        return any(use.node.op == RETURN for use in self._uses)

    @property
    def graph(self) -> Graph | None:
        """The graph that defines this value; None for a constant or a detached node's output."""
        return self.owner if self.producer is None else self.producer.graph

    def __repr__(self) -> str:
        kind = "@" if self.constant is not None else "%"
        return f"<{kind}{self.name or hex(id(self))[-5:]}: {self.type}>"


class Node:
    """One operation. `op` is the operator's name, qualified by its domain unless that is ONNX's own: `ns::Name`.

    A missing optional input is None. Inputs and attributes change only through the graph that owns the node.
    """

    __slots__ = (
        "_nested", "_next", "_prev", "attrs", "doc", "domain", "graph", "inputs", "made_by", "metadata", "name", "op",
        "op_type", "origins", "outputs", "overload", "raw",
    )  # fmt: skip

    def __init__(
        self, op: str, inputs: Sequence[Value | None] = (), attrs: Mapping[str, Any] | None = None,
        outputs: int | Sequence[Type | None] | Sequence[Value] = 1, *, name: str = "", overload: str = "",
    ) -> None:  # fmt: skip
        self.op, self.inputs, self.attrs = op, tuple(inputs), dict(attrs or {})
        self.domain, _, self.op_type = op.rpartition("::")  # the domain "" is ONNX's own
        self.name, self.overload, self.doc = name, overload, ""
        self._nested = _holds_graph(self.attrs)  # cached: passes ask every node, and few have a nested graph
        self.metadata: dict[str, str] | None = None
        self.raw: Any = None  # fields of the file that only onnx_io reads
        self.origins: tuple[str, ...] = ()  # names of the original nodes that the node stems from
        self.made_by = ""  # the pass that created the node; "" for a node of the original model
        self.graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None
        types: Sequence[Any] = (None,) * outputs if isinstance(outputs, int) else outputs
        self.outputs = tuple(t if isinstance(t, Value) else Value(t) for t in types)
        for i, value in enumerate(self.outputs):
            value.producer, value.index = self, i

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        """The nested graphs among the attributes, in the order of the attributes."""
        return tuple(g for value in self.attrs.values() for g in graphs_in(value)) if self._nested else ()

    def input(self, slot: int) -> Value | None:
        """Input `slot`, None where it is missing or beyond the last one."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def constant(self, slot: int) -> Constant | None:
        """The constant at input `slot`, if it is there and constant."""
        value = self.input(slot)
        return None if value is None else value.constant

    def __repr__(self) -> str:
        return f"<{self.op}{' ' + self.name if self.name else ''}>"


class Graph:
    """Nodes in execution order, with the edits that keep uses exact.

    `owner` is the node whose attribute a nested graph is; `model` is set on every graph of a model.
    Iteration walks a snapshot and skips nodes erased meanwhile, so editing while iterating is safe.
    """

    text: ClassVar[Callable[[Graph], str]] = repr
    """Prints a graph; set by the printer."""

    def __init__(self, name: str = "", inputs: Iterable[Value] = ()) -> None:
        self.name, self.doc = name, ""
        self.metadata: dict[str, str] = {}
        self.raw: Any = None
        self.owner: Node | None = None
        self.model: Owner | None = None
        self.ports: tuple[Port, ...] = ()
        self.inputs: tuple[Value, ...] = ()
        self._return = Node(RETURN, (), None, 0)
        self._return.graph = self
        self._first: Node = self._return
        self._size = 0
        self._listed: list[Node] | None = None  # the nodes in order; None after an edit
        for value in inputs:
            self.add_input(value)

    # -- reading

    def __iter__(self) -> Iterator[Node]:
        for node in self.snapshot():
            if node.graph is self:
                yield node

    def __reversed__(self) -> Iterator[Node]:
        for node in reversed(self.snapshot()):
            if node.graph is self:
                yield node

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def snapshot(self) -> list[Node]:
        """The nodes in order, without Return."""
        nodes = self._listed
        if nodes is None:
            nodes, node, end = [], self._first, self._return
            while node is not end:
                nodes.append(node)
                node = node._next  # type: ignore[assignment]  # only Return has none
            self._listed = nodes
        return nodes.copy()

    def walk(self) -> Iterator[Node]:
        """Every node; nodes of nested graphs come right after the node that owns their graph."""
        for node in self.snapshot():
            if node.graph is not self:
                continue
            yield node
            if node._nested:
                for nested in node.subgraphs:
                    yield from nested.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and every graph nested in it."""
        yield self
        for node in self.snapshot():
            if node._nested and node.graph is self:
                for nested in node.subgraphs:
                    yield from nested.graphs()

    @property
    def return_node(self) -> Node:
        """The node whose inputs are the results."""
        return self._return

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The results. A result may be any visible value, also an input, a constant, or the same one twice."""
        return self._return.inputs  # type: ignore[return-value]

    @property
    def opsets(self) -> dict[str, int]:
        """The versions of the imported operator sets, by domain."""
        return {} if self.model is None else self.model.opsets

    @property
    def parent(self) -> Graph | None:
        """The enclosing graph; None for a root graph."""
        return None if self.owner is None else self.owner.graph

    # -- editing

    def add_input(self, value: Value) -> Value:
        """Add an input after the last."""
        value.owner = self
        self.inputs = (*self.inputs, value)
        return value

    def set_outputs(self, values: Sequence[Value], ports: Sequence[Port] | None = None) -> None:
        """Set the results. `ports` describe them; by default the ports stay, or are replaced if the count differs."""
        self.set_inputs(self._return, values)
        if ports is not None:
            self.ports = tuple(ports)
        elif len(self.ports) != len(values):
            self.ports = tuple(Port(v.name, v.type) for v in values)

    def append(self, node: Node) -> Node:
        """Insert a detached node at the end."""
        return self.insert_before(self._return, node)

    def insert_before(self, anchor: Node, node: Node) -> Node:
        """Insert a detached node before `anchor` (in anchor's own graph, this one or one nested in it)."""
        graph = anchor.graph
        if graph is None or node.graph is not None:
            raise IRError(f"{node.op}: insert a detached node before one that is in a graph")
        before = anchor._prev
        node._prev, node._next, node.graph = before, anchor, graph
        anchor._prev = node
        if before is None:
            graph._first = node
        else:
            before._next = node
        graph._size += 1
        graph._listed = None
        self._attach(node)
        return node

    def insert_after(self, anchor: Node, node: Node) -> Node:
        """Insert a detached node right after `anchor`."""
        if anchor._next is None:
            raise IRError("nothing follows Return")
        return self.insert_before(anchor._next, node)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Point every use of `old` at `new`, which takes the more precise of both types and, if unnamed, the name."""
        if old is new:
            return
        for use in old.uses:
            node, slot = use
            node.inputs = (*node.inputs[:slot], new, *node.inputs[slot + 1 :])
            new._uses[use] = None
            self._touch(node)
        old._uses.clear()
        new.type = refine(new.type, old.type)
        new.name = new.name or old.name

    def set_input(self, node: Node, slot: int, value: Value | None) -> None:
        """Replace one input."""
        self.set_inputs(node, (*node.inputs[:slot], value, *node.inputs[slot + 1 :]))

    def set_inputs(self, node: Node, values: Sequence[Value | None]) -> None:
        """Replace all inputs."""
        if node.graph is None:
            node.inputs = tuple(values)
            return
        for slot, old in enumerate(node.inputs):
            if old is not None:
                del old._uses[_use(node, slot)]
        node.inputs = tuple(values)
        for slot, new in enumerate(node.inputs):
            if new is not None:
                new._uses[_use(node, slot)] = None
        self._touch(node)

    def set_attr(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute, or remove it with None. A nested graph becomes owned by the node."""
        for nested in graphs_in(node.attrs.pop(name, None)):
            if node.graph is not None:
                self._detach_graph(nested)
            nested.owner = None
        if value is not None:
            node.attrs[name] = value
            for nested in graphs_in(value):
                nested.owner = node
                if node.graph is not None:
                    self._attach_graph(nested)
        node._nested = _holds_graph(node.attrs)
        self._touch(node)

    def erase(self, node: Node) -> None:
        """Remove a node without users, and everything nested in it."""
        if node.graph is None:
            raise IRError(f"{node.op} is in no graph")
        for out in node.outputs:
            if out._uses:
                raise IRError(f"{node.op} output {out.index} is still used by {next(iter(out._uses)).node.op}")
        graph = node.graph
        for value in node.inputs:
            if value is not None and value.producer is not None:
                self._touch(value.producer)
        if self.model is not None and self.model.listener is not None:
            self.model.listener.erased(node)
        self._detach(node)
        graph._unlink(node)

    def erase_unused(self, node: Node) -> int:
        """Erase `node` if nothing uses it, then producers that became unused; returns the number of erased nodes."""
        gone, queue = 0, [node]
        while queue:
            node = queue.pop()
            if node.graph is None or node.op == RETURN or any(out._uses for out in node.outputs):
                continue
            producers = list(producers_of(node))
            self.erase(node)
            gone += 1
            queue.extend(producers)
        return gone

    def replace_contents(self, other: Graph) -> None:
        """Move the nodes, inputs and results of `other`, a root graph without other references, to this graph."""
        if self.model is not None and self.model.listener is not None:
            for node in self:
                self.model.listener.erased(node)
        self.name, self.doc, self.metadata, self.raw = other.name, other.doc, other.metadata, other.raw
        self.inputs, self.ports = other.inputs, other.ports
        self._first, self._return, self._size, self._listed = other._first, other._return, other._size, None
        for value in self.inputs:
            value.owner = self
        for node in (*self.snapshot(), self._return):
            node.graph = self
            self._touch(node)
        for graph in self.graphs():
            graph.model = self.model

    # -- bookkeeping

    def _unlink(self, node: Node) -> None:
        before, after = node._prev, node._next
        assert after is not None
        after._prev = before
        if before is None:
            self._first = after
        else:
            before._next = after
        node._prev = node._next = node.graph = None
        self._size -= 1
        self._listed = None

    def _attach(self, node: Node) -> None:
        for slot, value in enumerate(node.inputs):
            if value is not None:
                value._uses[_use(node, slot)] = None
        if node._nested:
            for nested in node.subgraphs:
                nested.owner = node
                self._attach_graph(nested)
        self._touch(node)

    def _attach_graph(self, nested: Graph) -> None:
        for graph in nested.graphs():
            graph.model = self.model
        for value, use in _uses_in(nested):
            value._uses[use] = None

    def _detach(self, node: Node) -> None:
        for slot, value in enumerate(node.inputs):
            if value is not None:
                del value._uses[_use(node, slot)]
        for nested in node.subgraphs:
            self._detach_graph(nested)

    def _detach_graph(self, nested: Graph) -> None:
        for value, use in _uses_in(nested):
            value._uses.pop(use, None)

    def _touch(self, node: Node) -> None:
        listener = None if self.model is None else self.model.listener
        if listener is not None:
            listener.touched[node] = None

    def __repr__(self) -> str:
        return f"<graph {self.name}: {self._size} nodes>"

    def __str__(self) -> str:
        return type(self).text(self)


def _uses_in(nested: Graph) -> Iterator[tuple[Value, Use]]:
    """Every use by the nodes of a graph and of all nested in it."""
    for graph in nested.graphs():
        for node in (*graph, graph._return):
            for slot, value in enumerate(node.inputs):
                if value is not None:
                    yield value, _use(node, slot)


def captures(node: Node) -> Iterator[Value]:
    """The outer values that graphs nested in `node` read, each once."""
    seen: set[Value] = set()
    for nested in node.subgraphs:
        yield from outer_values(nested, seen)


def outer_values(nested: Graph, seen: set[Value] | None = None) -> Iterator[Value]:
    """The values that a graph, and all nested in it, read from outside, each once; `seen` is skipped and extended."""
    seen = set() if seen is None else seen
    inside = set(nested.graphs())
    for graph in nested.graphs():
        for inner in (*graph, graph.return_node):
            for value in inner.inputs:
                if value is None or value.constant is not None or value in seen or value.graph in inside:
                    continue
                seen.add(value)
                yield value


def producers_of(node: Node) -> Iterator[Node]:
    """The nodes that compute what `node` reads, through its inputs and the captures of its nested graphs."""
    for value in node.inputs:
        if value is not None and value.producer is not None:
            yield value.producer
    for value in captures(node):
        if value.producer is not None:
            yield value.producer


def _holds_graph(attrs: Mapping[str, Any]) -> bool:
    """Whether an attribute is a graph or a list of graphs."""
    for value in attrs.values():  # a loop, as it runs for every new node
        if isinstance(value, Graph) or (isinstance(value, tuple) and value and isinstance(value[0], Graph)):
            return True
    return False


def graphs_in(value: Any) -> tuple[Graph, ...]:
    """The graphs in an attribute's value: a graph, or a list of graphs."""
    if isinstance(value, Graph):
        return (value,)
    return value if isinstance(value, tuple) and value and isinstance(value[0], Graph) else ()
