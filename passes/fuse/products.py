"""Products that share their left operand become one: queries, keys and values; the two halves of a gated unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import Declined
from ...ir import DType, Graph, Node, TensorType, Value
from ...pipeline.passes import graph_pass
from ...rewrite import QUANTIZERS, Builder, Context
from .stored_products import merge_stored

_ROWS = 16
"""Rows of a weight from which one product saves more than the Split of its result costs: the product does 16
multiplications for each element that Split copies. `python -m tests.bench.fusion` shows the gain on whole models."""

LARGEST = 1 << 26
"""Bytes of a merged weight; larger ones stay in their file, and are not copied into memory."""


@dataclass(frozen=True, slots=True)
class Branch:
    """x W, or x W + b if `sum` is not None."""

    product: Node
    sum: Node | None
    bias: Value | None

    @property
    def weight(self) -> Value:
        """W f32[K,N]."""
        w = self.product.inputs[1]
        assert w is not None
        return w

    @property
    def result(self) -> Value:
        """The value with users outside of the branch."""
        return self.product.output if self.sum is None else self.sum.output

    @property
    def columns(self) -> int:
        """The number of columns, N."""
        assert self.weight.constant is not None
        return self.weight.constant.shape[1]


@graph_pass("merge-products")
def merge_products(graph: Graph, context: Context) -> int:
    """x W1 + b1, x W2 + b2, … = split(x [W1 W2 …] + [b1 b2 …]), and three or more MatMulNBits alike"""
    merged = merge_stored(graph, context)
    nodes = list(graph.walk())
    if any(node.op in QUANTIZERS for node in nodes):
        return merged
    groups: dict[tuple[Value, Graph | None, bool], list[Branch]] = {}
    for node in nodes:
        branch = read_branch(node) if node.op == "MatMul" else None
        if branch is not None and node.inputs[0] is not None:
            groups.setdefault((node.inputs[0], node.graph, branch.sum is None), []).append(branch)
    return merged + sum(_merge(x, branches, context) for (x, _, _), branches in groups.items() if len(branches) > 1)


def read_branch(product: Node) -> Branch | None:
    """A product with a constant matrix that has no other users, and the sum with a bias after it; None for others."""
    x, w = product.inputs
    if x is None or w is None or w.constant is None or not w.has_one_use or w.constant.dtype is not DType.FLOAT:
        return None
    if len(w.constant.shape) != 2 or w.constant.shape[0] < _ROWS or not isinstance(x.type, TensorType):
        return None
    if x.type.rank is None or x.type.rank < 2:
        return None
    sum = product.output.users[0] if product.output.has_one_use else None
    if sum is not None and sum.op == "Add" and sum.graph is product.graph:
        bias = sum.inputs[1] if sum.inputs[0] is product.output else sum.inputs[0]
        if bias is not None and bias.constant is not None and bias.constant.shape == w.constant.shape[1:]:
            return Branch(product, sum, bias)
    return Branch(product, None, None)


def _merge(x: Value, branches: list[Branch], context: Context) -> int:
    first = branches[0].product
    owner = first.graph
    constants = [b.weight.constant for b in branches]
    total = sum(c.nbytes for c in constants if c is not None)
    if owner is None or total > LARGEST:
        return 0
    build = Builder(owner, context)
    merged = np.concatenate([c.array() for c in constants if c is not None], axis=1)
    biases = [b.bias.constant.array() for b in branches if b.bias is not None and b.bias.constant is not None]
    try:
        product = build.MatMul(x, merged)
        if biases:
            product = build.Add(product, np.concatenate(biases))
        parts = split_columns(build, product, [b.columns for b in branches])
    except Declined:
        return 0
    if not context.commit("merge-products", first):
        return 0
    build.insert_before(first, [n for b in branches for n in (b.product, b.sum) if n is not None])
    for branch, part in zip(branches, parts):
        owner.replace_uses(branch.result, part)
        owner.erase_unused(branch.product if branch.sum is None else branch.sum)
    return 1


def split_columns(build: Builder, value: Value, sizes: list[int]) -> tuple[Value, ...]:
    """Split the last axis of a value of known rank into parts of these sizes."""
    assert isinstance(value.type, TensorType) and value.type.rank is not None
    axis, count = value.type.rank - 1, len(sizes)
    if build.opset < 13:
        return build.node("Split", value, outputs=count, axis=axis, split=tuple(sizes))
    return build.node("Split", value, np.array(sizes, np.int64), outputs=count, axis=axis)
