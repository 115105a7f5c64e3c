"""Caches of keys and values that grow in place: earlier and present ones may be bound to one buffer.

ONNX's Attention copies all earlier keys and values in each step. onnxruntime's GroupQueryAttention writes the new rows
behind the earlier ones where both are one buffer, as long as the longest text; how many rows count is told by the
length of `attention_mask`. Without such a buffer it is the slower of the two, so that this pass runs on demand.
`python -m tests.bench.shared_caches FILE` shows the gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...analysis.evaluation import evaluate
from ...analysis.operands import shape_of, tensor_of
from ...errors import Declined
from ...ir import RETURN, Array, Constant, Dim, DType, Graph, Node, TensorType, Value, clone_model, model_of
from ...ops import attr
from ...pipeline.passes import graph_pass
from ...rewrite import Builder, Context
from .added_norms import add_in_norms
from .rotary_tables import Tables, following
from .windows import as_bias, has_no_window

_MASK = "attention_mask"
"""The input whose length counts the tokens, earlier and new ones, in the exports of every tool."""
_PASTS, _PRESENTS = (4, 5), (1, 2)
"""The operands and results of ONNX's Attention that are caches."""
_KNOWN = frozenset(("scale", "q_num_heads", "kv_num_heads", "is_causal"))
_UNUSED = {"softcap": 0, "qk_matmul_output_mode": 0}
"""Attributes that torch's exporter writes with their defaults, which change nothing."""
_MASKED = -1e4
"""A bias from which on a key has no weight."""
_SIZES = ((2, 3, 4), (1, 5, 0), (2, 1, 6))
"""Batch, new and earlier tokens for which masks are compared."""
_SPARE = 5
"""Rows of a shared buffer beyond the present tokens, in that comparison."""


@graph_pass("share-caches")
def share_caches(graph: Graph, context: Context) -> int:
    """attention(q, k, v, mask, past) = grouped_attention(q, k, v, past, length, mask), on one buffer for all tokens

    Every Attention with a cache, or none. The mask has a column for each token, earlier and new ones. Results of rows
    that may attend to nothing, as those of padding before a prompt, are not defined by the operator and may change; no
    other row reads them. Sums before norms become SkipSimplifiedLayerNormalization, which is faster for one token.
    """
    model = model_of(graph)
    if context.target != "onnxruntime" or model is None or graph.parent is not None:
        return 0
    for plain in (True, False):
        trial = clone_model(model)
        try:
            caches = _Caches(graph)
            copied = _Caches(trial.graph)
            _Rewrite(copied, Context(target=context.target), plain).run()
            for node, other in zip(caches.nodes, copied.made):
                caches.check_mask(node, copied, other)
        except Declined:
            continue
        if not context.commit("share-caches", caches.nodes[0]):
            return 0
        return _Rewrite(caches, context, plain).run() + add_in_norms(graph, context)
    return 0


class _Caches:
    """The attention nodes of a graph whose caches are its inputs and outputs, and the inputs that give its sizes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = [node for node in graph if node.op == "Attention" and node.input(_PASTS[0]) is not None]
        self.made: list[Node] = []
        if not self.nodes:
            raise Declined("no attention has a cache")
        for node in self.nodes:
            self._check(node)
        self.pasts = [
            past for node in self.nodes for past in (node.inputs[slot] for slot in _PASTS) if past is not None
        ]
        queries = self._dims(self.nodes[0].inputs[0], 3)
        mask = next((v for v in graph.inputs if v.name == _MASK), None)
        if mask is None or len(shape_of(mask) or ()) != 2:
            raise Declined(f"no input {_MASK} counts the tokens")
        self.mask = mask
        others = [v for v in graph.inputs if v is not mask and v not in self.pasts]
        tokens = next((v for v in others if (shape_of(v) or ())[:2] == queries[:2]), None)
        if tokens is None or None in queries[:2]:
            raise Declined("no input has the size of the tokens")
        self.tokens = tokens

    @staticmethod
    def _dims(value: Value | None, rank: int) -> tuple[Dim, ...]:
        shape = None if value is None else shape_of(value)
        if shape is None or len(shape) != rank:
            raise Declined("the shapes are not known")
        return shape

    def _check(self, node: Node) -> None:
        """Declined unless the node computes what GroupQueryAttention does, in single precision."""
        others = set(node.attrs) - _KNOWN
        if any(name not in _UNUSED or node.attrs[name] != _UNUSED[name] for name in others):
            raise Declined("attention with other attributes")
        if node.graph is not self.graph or len(node.outputs) > 3 or any(node.inputs[6:]):
            raise Declined("attention of another kind")
        if any((tensor_of(v) or TensorType(DType.UNDEFINED)).dtype is not DType.FLOAT for v in node.inputs[:3]):
            raise Declined("not in single precision")
        for slot in range(3):
            self._dims(node.inputs[slot], 3)
        sizes = [self._dims(node.input(slot), 4) for slot in _PASTS]
        size = sizes[0][3]
        if sizes[0][1] != sizes[1][1] or sizes[1][3] != size or not isinstance(size, int) or size % 8:
            raise Declined("heads of a size that the operator does not take")
        for slot, result in zip(_PASTS, _PRESENTS):
            past = node.inputs[slot]
            assert past is not None
            if past.producer is not None or past.constant is not None:
                raise Declined("the cache is computed")
            if any(user not in (node, self.graph.return_node) and user.op != "Shape" for user in past.users):
                raise Declined("the cache has other users")
            if any(user.op not in (RETURN, "Shape") for user in node.outputs[result].users):
                raise Declined("the present cache has other users")

    def check_mask(self, node: Node, copied: _Caches, made: Node) -> None:
        """Declined unless the mask of `made`, on a longer buffer, is that of `node`, and no key follows its query."""
        mask, bias = node.input(3), made.input(10)
        if mask is None:
            return
        for batch, rows, earlier in _SIZES:
            total = earlier + rows
            later = np.arange(total) > earlier + np.arange(rows)[:, None]
            given = np.ones((batch, total), np.int64)
            given[0, total // 2] = 0
            before = as_bias(self._evaluate(mask, given, rows, earlier))
            after = copied._evaluate(bias, given, rows, total + _SPARE)
            if before.shape[-2:] != (rows, total) or after.shape[-2:] != (rows, total):
                raise Declined("the mask has another shape")
            same = np.maximum(before, _MASKED) == np.maximum(after, _MASKED)
            if not same[..., ~later].all():
                raise Declined("the mask depends on the size of the cache otherwise")
            if not attr(node, "is_causal", 0) and (before[..., later] > _MASKED).any():
                raise Declined("keys that follow a query are not masked")

    def _evaluate(self, value: Value | None, mask: Array, rows: int, earlier: int) -> Array:
        """A value that depends on sizes, the mask and positions alone."""
        assert value is not None
        batch, total = mask.shape
        ends = dict.fromkeys(self.pasts, (batch, 0, earlier, 0))
        ends |= {self.mask: (batch, total, 0, 0), self.tokens: (batch, rows, 0, 0)}
        sizes = {name: size for end, bound in ends.items() for name, size in zip(shape_of(end) or (), bound)}
        known = dict[Value, Constant]()
        for given in self.graph.inputs:
            type = tensor_of(given)
            if type is None or type.shape is None:
                continue
            shape = [size if isinstance(size, int) else sizes.get(size, -1) for size in type.shape]
            if given is self.mask:
                known[given] = Constant.of(mask.astype(type.dtype.numpy))
            elif -1 not in shape and given in self.pasts:
                known[given] = Constant.of(np.zeros(shape, type.dtype.numpy))
            elif -1 not in shape and len(shape) == 2:
                places = np.arange(rows) + total - rows
                known[given] = Constant.of(np.broadcast_to(places, shape).astype(type.dtype.numpy))
        nodes = list(self._before(value, known, sizes))
        found = evaluate(self.graph, [(nodes, [value])], known).get(value)
        if found is None:
            raise Declined("the mask depends on values")
        return found

    def _before(self, value: Value, known: dict[Value, Constant], sizes: Mapping[Dim, int]) -> Iterator[Node]:
        """The nodes that compute a value, in order; shapes of values within the model become known by their names."""
        wanted, nodes = [value], set[Node]()
        while wanted:
            node = wanted.pop().producer
            if node is None or node in nodes or node.output in known:
                continue
            shape = shape_of(node.inputs[0]) if node.op == "Shape" and node.inputs[0] not in known else None
            if shape is not None:
                part = shape[slice(attr(node, "start", 0), attr(node, "end", None))]
                bound = [size if isinstance(size, int) else sizes.get(size, -1) for size in part]
                if -1 in bound:
                    raise Declined("the mask depends on other sizes")
                known[node.output] = Constant.of(np.array(bound, np.int64))
                continue
            nodes.add(node)
            wanted += [v for v in node.inputs if v is not None and v.constant is None and v not in known]
        return (node for node in self.graph if node in nodes)


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Tokens, by the mask, by a cache, new and earlier ones int64[1]; operands: of keys less one, of queries int32[B];
    int32[1]."""

    marked: Value
    total: Value
    rows: Value
    earlier: Value
    keys: Value
    queries: Value
    longest: Value


class _Rewrite:
    """GroupQueryAttention in place of each Attention of a graph; where Declined, the graph is left half done."""

    def __init__(self, caches: _Caches, context: Context, plain: bool) -> None:
        self.caches, self.graph, self.context, self.plain = caches, caches.graph, context, plain
        self.biases: dict[Value, Value] = {}
        self.padding: Value | None = None

    def run(self) -> int:
        """Rewrite; returns the number of nodes replaced."""
        lengths = self._lengths()
        tables = Tables(self.caches.tokens, lengths.marked, lengths.longest, self.context)
        for past in dict.fromkeys(self.caches.pasts):
            self._replace_size(past, lengths.earlier)
        for node in self.caches.nodes:
            for slot in _PRESENTS:
                self._replace_size(node.outputs[slot], lengths.total)
        for node in self.caches.nodes:
            self.caches.made.append(self._grouped(node, lengths, tables))
        return len(self.caches.nodes)

    def _lengths(self) -> _Lengths:
        """As many tokens as the mask counts: fewer than rows of a shared buffer, else the earlier and the new ones."""
        build = Builder(self.graph, self.context)
        batch, rows = (build.Shape(self.caches.tokens, start=axis, end=axis + 1) for axis in (0, 1))
        past = build.Shape(self.caches.pasts[0], start=2, end=3)
        self.sizes = build.nodes[2]
        marked = build.Shape(self.caches.mask, start=1, end=2)
        total = build.Min(build.Add(past, rows), marked)
        earlier = build.Sub(total, rows)
        longest = build.Cast(total, to=int(DType.INT32))
        keys = build.Expand(build.Sub(longest, np.array([1], np.int32)), batch)
        queries = build.Expand(build.Cast(rows, to=int(DType.INT32)), batch)
        build.insert_before(next(iter(self.graph)), self.caches.nodes[:1])
        return _Lengths(marked, total, rows, earlier, keys, queries, longest)

    def _replace_size(self, cache: Value, length: Value) -> None:
        """Let everything that reads the number of rows of a cache read `length`, int64[1]."""
        for shape in cache.users:
            if shape.op != "Shape" or shape is self.sizes:
                continue
            start, end = attr(shape, "start", 0) % 4, attr(shape, "end", 4)
            if (start, end) == (2, 3):
                self.graph.replace_uses(shape.output, length)
                continue
            if start > 2 or end <= 2:
                continue
            for user in shape.output.users:
                index = user.constant(1)
                if user.op != "Gather" or index is None or index.size != 1:
                    raise Declined("the shape of a cache is read as a whole")
                if int(index.array().item()) % (end - start) + start != 2:
                    continue
                build = Builder(self.graph, self.context)
                size = length if index.array().ndim else build.Squeeze(length, np.array([0], np.int64))
                build.insert_before(user, [user])
                self.graph.replace_uses(user.output, size)
                self.graph.erase(user)

    def _grouped(self, node: Node, lengths: _Lengths, tables: Tables) -> Node:
        q, k, v = node.inputs[:3]
        assert q is not None and k is not None and v is not None
        heads, kv = (int(attr(node, name, 0)) for name in ("q_num_heads", "kv_num_heads"))
        bias = self._bias(node, lengths)
        q, k, angles, turned = _unturned(node, q, k, tables)
        packed = _packed(q, k, v)
        operands = (q, k, v) if packed is None else (packed, None, None)
        build = Builder(self.graph, self.context)
        attrs = {"num_heads": heads, "kv_num_heads": kv, "scale": attr(node, "scale", None), **turned}
        pasts = [node.inputs[slot] for slot in _PASTS]
        last = (bias, None, None, None, None, None, lengths.queries)
        made = build.node(
            "com.microsoft::GroupQueryAttention", *operands, *pasts, lengths.keys, lengths.longest, *angles, *last,
            outputs=3, attrs=attrs,
        )  # fmt: skip
        for old, new in zip(node.outputs, made):
            new.type = old.type
        build.nodes[-1].name = node.name
        build.insert_before(node, [node])
        for old, new in zip(node.outputs, made):
            self.graph.replace_uses(old, new)
        self.graph.erase_unused(node)
        return build.nodes[-1]

    def _bias(self, node: Node, lengths: _Lengths) -> Value | None:
        """The mask as numbers added to the scores, f32[B,H,S,T], B and H possibly 1."""
        mask = node.input(3)
        if mask is None:
            if not attr(node, "is_causal", 0):
                raise Declined("keys that follow a query are not masked")
            return None
        if self.plain:
            if not has_no_window(mask):
                raise Declined("the mask may be a window")
            self.biases[mask] = self._padding(lengths)
        if mask not in self.biases:
            build, type = Builder(self.graph, self.context), tensor_of(mask)
            if type is None or type.shape is None or not 2 <= len(type.shape) <= 4 or mask.producer is None:
                raise Declined("the shape of the mask is not known")
            bias = mask
            if type.dtype is DType.BOOL:
                bias = build.Where(mask, np.float32(0), np.finfo(np.float32).min)
            if len(type.shape) < 4:
                bias = build.Unsqueeze(bias, np.arange(4 - len(type.shape)))
            if build.nodes:
                build.insert_before(following(mask), [mask.producer])
            self.biases[mask] = bias
        return self.biases[mask]

    def _padding(self, lengths: _Lengths) -> Value:
        """The bias f32[B,1,S,T] of the input mask alone: the operator itself masks keys that follow a query."""
        if self.padding is None:
            build, one = Builder(self.graph, self.context), np.array([1], np.int64)
            kept = build.Slice(self.caches.mask, np.array([0], np.int64), lengths.total, one)
            bias = build.Where(build.Cast(kept, to=int(DType.BOOL)), np.float32(0), np.finfo(np.float32).min)
            whole = build.Concat(np.array([1, 1], np.int64), lengths.rows, one, axis=0)
            self.padding = build.Expand(build.Unsqueeze(bias, np.array([1, 2])), whole)
            build.insert_before(following(lengths.longest), self.caches.nodes[:1])
        return self.padding


def _unturned(
    node: Node, q: Value, k: Value, tables: Tables
) -> tuple[Value, Value, tuple[Value | None, ...], dict[str, int]]:
    """Queries and keys before their rotary embeddings, and the tables and attributes with which the operator turns
    both itself; as given where it cannot."""
    turns = [value.producer for value in (q, k)]
    first, second = turns
    none = (q, k, (None, None, None), dict[str, int]())
    if first is None or second is None or not (q.has_one_use and k.has_one_use):
        return none
    if any(turn.op != "RotaryEmbedding" or len(turn.inputs) != 3 for turn in (first, second)):
        return none
    cos, sin = first.inputs[1:]
    x, y = first.inputs[0], second.inputs[0]
    if second.inputs[1:] != first.inputs[1:] or cos is None or sin is None or x is None or y is None:
        return none
    if any(len(shape_of(value) or ()) != 3 for value in (x, y, cos, sin)) or not (cos.producer and sin.producer):
        return none
    size, half = (shape_of(node.inputs[_PASTS[0]]) or (0,))[-1], (shape_of(cos) or (0,))[-1]
    interleaved = [int(attr(turn, "interleaved", 0)) for turn in (first, second)]
    dims = {int(attr(turn, "rotary_embedding_dim", 0)) for turn in (first, second)}
    if not isinstance(size, int) or not isinstance(half, int) or size % 16 or half % 8 or 2 * half > size:
        return none
    if interleaved[0] != interleaved[1] or not dims <= {0, 2 * half} or (0 in dims and 2 * half != size):
        return none
    return x, y, tables.of(cos, sin, half), {"do_rotary": 1, "rotary_interleaved": interleaved[0]}


def _packed(q: Value, k: Value, v: Value) -> Value | None:
    """The value f32[B,S,(H+2G)D] of which queries, keys and values are the parts, in this order; None where none is."""
    split = q.producer
    if split is None or split.op != "Split" or split.outputs != (q, k, v) or attr(split, "axis", 0) not in (2, -1):
        return None
    return split.inputs[0]
