"""Which results of a model hold scores of classes, so that the largest of a row is what the model decided."""

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
"""Words in the names of results that are numbers, whatever makes them."""


def classifications(model: Model) -> Mapping[int, str]:
    """The results that hold scores of classes along their last axis, by index, with the operator that makes them.

    These are probabilities (Softmax), and the products at the end of a model: of rank 2, or of rank 3 where a model
    reads whole numbers, as language models do; beside boxes [N, queries, 4] the products of rank 3 are a detector's,
    most of whose rows are background.
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
    """A constant, perhaps transposed, as where embeddings are the last layer's weights, too."""
    while value is not None and value.producer is not None and value.producer.op in PASSED | {"Transpose"}:
        value = value.producer.inputs[0]
    return value is not None and value.constant is not None


def _maker(value: Value) -> Node | None:
    """The node that makes a result, behind a bias, a factor and changes of shape."""
    node = value.producer
    while node is not None and node.op in PASSED | SCALED:
        read = [v for v in node.inputs[: 1 if node.op in PASSED else 2] if v is not None and v.constant is None]
        node = read[0].producer if len(read) == 1 else None
    return node
