"""Detection of results that hold class scores, whose largest element in a row is the model's decision."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..ir import Model, Node, TensorType, Value

NORMALISED = frozenset(("Softmax", "LogSoftmax"))
CLASSIFIERS = frozenset(f"ai.onnx.ml::{kind}Classifier" for kind in ("Linear", "SVM", "TreeEnsemble"))
PRODUCTS = frozenset(("MatMul", "Gemm"))
PASSED = frozenset(("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"))
SCALED = frozenset(("Add", "Sub", "Mul", "Div"))
_NUMBERS = re.compile(r"box|coord|regress|embed|hidden|feature|pose|landmark|anchor", re.IGNORECASE)
"""Words in the names of results that are regressed numbers, not class scores, whatever operator computes them."""


def classifications(model: Model) -> Mapping[int, str]:
    """The results with class scores along their last axis, by index, with the operator that computes them.

    These are probabilities (Softmax), and products at the end of a model: of rank 2, or of rank 3 in a model with
    integer inputs, such as a language model, unless it is a detector with boxes [N, queries, 4], most of whose rows are
    background.
    """
    reads_tokens = any(isinstance(v.type, TensorType) and v.type.dtype.is_integer for v in model.graph.inputs)
    detects = any(_sizes(value)[2:] == (4,) for value in model.graph.outputs)
    found: dict[int, str] = {}
    for index, value in enumerate(model.graph.outputs):
        maker, rank = _maker(value), len(_sizes(value))
        if maker is None or _NUMBERS.search(value.name):
            continue
        is_head = (
            maker.op in PRODUCTS
            and _is_weight(maker.inputs[1])
            and (rank == 2 or (rank == 3 and reads_tokens and not detects))
        )
        if maker.op in CLASSIFIERS or is_head or (maker.op in NORMALISED and rank in (2, 3)):
            found[index] = maker.op
    return found


def _sizes(value: Value) -> tuple[int | str | None, ...]:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return () if shape is None else tuple(shape)


def _is_weight(value: Value | None) -> bool:
    """Whether a value is a constant, optionally transposed, such as embeddings tied to the last layer."""
    while value is not None and value.producer is not None and value.producer.op in PASSED | {"Transpose"}:
        value = value.producer.inputs[0]
    return value is not None and value.constant is not None


def _maker(value: Value) -> Node | None:
    """The node that computes a result, before a bias, a factor and changes of shape."""
    node = value.producer
    while node is not None and node.op in PASSED | SCALED:
        read = [v for v in node.inputs[: 1 if node.op in PASSED else 2] if v is not None and v.constant is None]
        node = read[0].producer if len(read) == 1 else None
    return node
