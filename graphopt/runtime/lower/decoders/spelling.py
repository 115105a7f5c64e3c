"""Attention as kernels know it: of onnxruntime's own operators of decoders ONNX's, of masks of truth values numbers.

Files of onnxruntime-genai hold GroupQueryAttention and SkipSimplifiedLayerNormalization, those that `optimize` writes
for onnxruntime BranchwiseRMSNorm, too. GroupQueryAttention becomes
RotaryEmbedding of its queries and keys, and Attention by a mask; what all layers share, the mask and the angles of the
tokens' positions, is computed once. Exports of torch's scaled_dot_product_attention have masks of truth values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import Declined
from ....ir import Constant, DType, Graph, Model, Node, TensorType, Value, clone_model
from ....ops import attr, update_types
from ..operands import declared_shape, is_float32

GROUPED = "com.microsoft::GroupQueryAttention"
_ADDED_NORM = "com.microsoft::SkipSimplifiedLayerNormalization"
_BRANCHES = "com.microsoft::BranchwiseRMSNorm"
_FIRST, _WITH_ATTENTION = 18, 23
"""The least operator set of a file, and the first one with Attention and RotaryEmbedding. Revisions between them only
add element types, but for `_REVISED`."""
_REVISED = frozenset(("AveragePool", "DFT", "GroupNormalization", "MaxPool", "Resize"))
_USUAL = {"softcap": 0.0, "smooth_softmax": 0, "qk_output": 0, "sliding_window_cache": 0, "k_quant_type": "NONE"}
"""The only values of these attributes of GroupQueryAttention that the rewrite supports."""
_INPUTS = 9
"""Its operands; positions, biases and sinks that follow are not known."""
_MASK = 3
"""The operand of Attention that is its mask."""
_IR_VERSION = 11
"""The first IR version of `_WITH_ATTENTION`."""


@dataclass(frozen=True, slots=True)
class Spelled:
    """A rewritten model, and its nodes that are faster only on kernels."""

    model: Model
    only: frozenset[Node]


def spelled_for_kernels(model: Model) -> Spelled | None:
    """A copy of a model without GroupQueryAttention, norms of each head by onnxruntime's own operator and masks of
    truth values; None where it has none of these, or what kernels do not know.

    Its results are those of the model where the sequences of a batch are all as long as the mask of GroupQueryAttention
    (no padding). Where they are not, the mask that Attention reads is a column short, so that kernels refuse it.
    """
    is_grouped = any(node.op == GROUPED for node in model.graph)
    if is_grouped and not _FIRST <= model.opset <= _WITH_ATTENTION:
        return None
    if is_grouped and any(node.op in _REVISED for node in model.graph):
        return None
    if not any(node.op in (GROUPED, _BRANCHES) or _allowed(node) is not None for node in model.graph):
        return None
    copy = clone_model(model)
    try:
        only = _Speller(copy.graph).run()
    except Declined:
        return None
    copy.opsets = {**copy.opsets, "": max(model.opset, _WITH_ATTENTION)}
    copy.ir_version = max(copy.ir_version, _IR_VERSION)
    return Spelled(copy, frozenset(only))


class _Speller:
    """Rewrites a graph node by node. Declined where a node has an unsupported form."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.anchor = graph, next(iter(graph))
        self.shared: dict[tuple[Any, ...], Value] = {}
        self.past: Value | None = None  # the first cache: all layers' caches are equally long

    def run(self) -> list[Node]:
        """The nodes that take the place of GroupQueryAttention, and Attention by other masks than before."""
        made: list[Node] = []
        for node in list(self.graph):
            self.anchor = node
            if node.op == GROUPED:
                made += self._attention(node)
            elif node.op == _ADDED_NORM:
                self._norm(node)
            elif node.op == _BRANCHES:
                self._norm_of_heads(node)
            elif (allowed := _allowed(node)) is not None:
                self.graph.set_input(node, _MASK, self._once(self._numbers_of, allowed))
                made.append(node)
        return made

    def _emit(self, op: str, *inputs: Value | None, type: TensorType | None = None, **attrs: Any) -> Value:
        node = Node(op, inputs, attrs, [type])
        self.graph.insert_before(self.anchor, node)
        if type is None:
            update_types(node)
        return node.output

    def _norm(self, node: Node) -> None:
        """y, sum = SkipSimplifiedLayerNormalization(x, skip): sum = x + skip, y = SimplifiedLayerNormalization(sum)."""
        x, skip, scale, bias = (node.input(slot) for slot in range(4))
        if x is None or skip is None or scale is None or any(not v.is_unused for v in node.outputs[1:3]):
            return
        total = self._emit("Add", x, skip, type=_tensor(x))
        if bias is not None:
            total = self._emit("Add", total, bias, type=_tensor(x))
        epsilon = float(attr(node, "epsilon", 1e-12))
        y = self._emit(
            "SimplifiedLayerNormalization", total, scale, type=_tensor(x), axis=-1, epsilon=epsilon, stash_type=1
        )
        for old, new in zip(node.outputs[:1] + node.outputs[3:4], (y, total)):
            self.graph.replace_uses(old, new)
        self.graph.erase(node)

    def _norm_of_heads(self, node: Node) -> None:
        """BranchwiseRMSNorm(x [B,S,H D]) = SimplifiedLayerNormalization of x [B,S,H,D], for one gain an element."""
        x, gain, heads = node.inputs[0], node.input(1), attr(node, "num_branches", 0)
        shape = () if x is None else declared_shape(x)
        if x is None or gain is None or not heads or len(shape) != 3 or not isinstance(shape[2], int):
            return
        size = shape[2] // heads
        if declared_shape(gain) != (size,):
            return
        kind = TensorType(DType.FLOAT, (*shape[:2], heads, size))
        apart = self._emit("Reshape", x, _numbers([0, 0, heads, size]), type=kind)
        epsilon = float(attr(node, "epsilon", 1e-5))
        y = self._emit("SimplifiedLayerNormalization", apart, gain, type=kind, axis=-1, epsilon=epsilon, stash_type=1)
        y = self._emit("Reshape", y, _numbers([0, 0, shape[2]]), type=_tensor(x))
        self.graph.replace_uses(node.output, y)
        self.graph.erase(node)

    def _attention(self, node: Node) -> list[Node]:
        q, k, v, past_key, past_value, lengths, total, cos, sin = (node.input(slot) for slot in range(_INPUTS))
        heads, kv = int(attr(node, "num_heads", 0)), int(attr(node, "kv_num_heads", 0))
        if q is None or past_key is None or past_value is None or lengths is None or total is None:
            raise Declined("grouped attention without a cache")
        if any(attr(node, name, usual) != usual for name, usual in _USUAL.items()) or any(node.inputs[_INPUTS:]):
            raise Declined("grouped attention of another kind")
        if len(node.outputs) > 3 or not is_float32(q) or len(declared_shape(q)) != 3:
            raise Declined("grouped attention of other than float32 rows")
        size = declared_shape(past_key)[-1]
        if not isinstance(size, int):
            raise Declined("heads whose size is not known")
        self.past = self.past or past_key
        scale = float(attr(node, "scale", 0.0)) or size**-0.5
        rows = declared_shape(q)[:2]
        kinds = [TensorType(DType.FLOAT, (*rows, count * size)) for count in (heads, kv, kv)]
        if k is None or v is None:
            split = Node("Split", (q, _numbers([heads * size, kv * size, kv * size])), {"axis": 2}, list(kinds))
            self.graph.insert_before(self.anchor, split)
            q, k, v = split.outputs
        made = []
        if attr(node, "do_rotary", 0):
            if cos is None or sin is None:
                raise Declined("a rotary embedding without angles")
            angles = [self._once(self._angles, table, self.past, total) for table in (cos, sin)]
            pairs, interleaved = declared_shape(cos)[-1], int(attr(node, "rotary_interleaved", 0))
            turned = 0 if not isinstance(pairs, int) or 2 * pairs == size else 2 * pairs
            q, k = (
                self._emit(
                    "RotaryEmbedding",
                    x,
                    *angles,
                    type=kind,
                    num_heads=count,
                    interleaved=interleaved,
                    rotary_embedding_dim=turned,
                )
                for x, kind, count in ((q, kinds[0], heads), (k, kinds[1], kv))
            )
            made += [value.producer for value in (q, k) if value.producer is not None]
        mask = self._once(self._mask, self.past, lengths, total, int(attr(node, "local_window_size", -1)))
        attrs = {"q_num_heads": heads, "kv_num_heads": kv, "scale": scale}
        types = [kinds[0], *(value.type for value in node.outputs[1:])]
        new = Node("Attention", (q, k, v, mask, past_key, past_value), attrs, types, name=node.name)
        self.graph.insert_before(self.anchor, new)
        for old, value in zip(node.outputs, new.outputs):
            value.name = old.name
            self.graph.replace_uses(old, value)
        self.graph.erase(node)
        return [*made, new]

    def _once(self, make: Callable[..., Value], *given: Any) -> Value:
        """The value that `make` emits for these arguments, emitted once and shared."""
        key = (make.__name__, *given)
        if key not in self.shared:
            self.shared[key] = make(*given)
        return self.shared[key]

    def _now(self, total: Value) -> Value:
        """The number of tokens, new ones included, int64[]."""
        return self._emit("Reshape", self._emit("Cast", total, to=int(DType.INT64)), _numbers([]))

    def _size(self, past: Value, axis: int) -> Value:
        """The size of a cache along `axis`, int64[]: past tokens or batch."""
        return self._emit("Gather", self._emit("Shape", past), _numbers(axis), axis=0)

    def _angles(self, table: Value, past: Value, total: Value) -> Value:
        """Rows of a table [positions, pairs] for the new tokens, f32[batch, tokens, pairs]."""
        first, now = self._once(self._size, past, 2), self._once(self._now, total)
        ends = [self._emit("Unsqueeze", end, _numbers([0])) for end in (first, now)]
        rows = self._emit("Unsqueeze", self._emit("Slice", table, *ends, _numbers([0])), _numbers([0]))
        batch = self._emit("Unsqueeze", self._once(self._size, past, 0), _numbers([0]))
        sizes = self._emit("Concat", batch, _numbers([1, 1]), axis=0)
        kind = TensorType(DType.FLOAT, (None, None, declared_shape(table)[-1]))
        return self._emit("Expand", rows, sizes, type=kind)

    def _mask(self, past: Value, lengths: Value, total: Value, window: int) -> Value:
        """f32[tokens, keys]: 0 where a new token sees a key, its own or one of the `window` − 1 before (all for −1).

        The lowest float elsewhere. keys: total, or one less where `lengths`, int32[batch], are not all total − 1.
        """
        first, now = self._once(self._size, past, 2), self._once(self._now, total)
        one, zero = _numbers(1), _numbers(0)
        last = self._emit("Sub", now, one)
        is_whole = self._emit("Equal", self._emit("Cast", lengths, to=int(DType.INT64)), last)
        is_whole = self._emit("ReduceMin", self._emit("Cast", is_whole, to=int(DType.INT64)), keepdims=0)
        keys = self._emit("Range", zero, self._emit("Add", last, is_whole), one)
        rows = self._emit("Unsqueeze", self._emit("Range", first, now, one), _numbers([1]))
        seen = self._emit("LessOrEqual", keys, rows)
        if window >= 0:
            seen = self._emit("And", seen, self._emit("Greater", keys, self._emit("Sub", rows, _numbers(window))))
        seen.type = TensorType(DType.BOOL, (None, None))
        return self._numbers_of(seen)

    def _numbers_of(self, allowed: Value) -> Value:
        """0 where a mask of truth values allows a key, the lowest number elsewhere: rows that it leaves nothing are
        zeros by either mask."""
        ends = [Value(constant=Constant.of(np.float32(end))) for end in (0, np.finfo(np.float32).min)]
        return self._emit("Where", allowed, *ends, type=TensorType(DType.FLOAT, declared_shape(allowed)))


def _allowed(node: Node) -> Value | None:
    """The mask of truth values of an Attention; None where there is none."""
    mask = node.input(_MASK) if node.op == "Attention" else None
    return mask if mask is not None and isinstance(mask.type, TensorType) and mask.type.dtype is DType.BOOL else None


def _numbers(values: int | list[int]) -> Value:
    return Value(constant=Constant.of(np.asarray(values, np.int64)))


def _tensor(value: Value) -> TensorType:
    """The value's float32 tensor type. Declined for other types."""
    if not isinstance(value.type, TensorType) or not is_float32(value):
        raise Declined("rows of other than float32")
    return value.type
