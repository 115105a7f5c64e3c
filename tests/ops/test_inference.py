"""Types of one node: the answer is remembered, and everything it depends on is part of the question."""

import numpy as np
import pytest

from graphopt.ir import Constant, DType, Node, TensorType, Value
from graphopt.ops import infer

F32 = DType.FLOAT


def shape_of(op, operand, constants=(), opset=17, **attrs):
    inputs = [Value(TensorType(F32, operand)), *(Value(constant=Constant.of(np.asarray(c))) for c in constants)]
    (type,) = infer(Node(op, inputs, attrs), {"": opset})
    return type.shape if type is not None else None


@pytest.mark.parametrize("again", range(2))
def test_constants_attributes_types_and_opsets_decide(again):
    assert shape_of("Reshape", (2, 6), [np.array([3, 4])]) == (3, 4)
    assert shape_of("Reshape", (2, 6), [np.array([4, 3])]) == (4, 3)
    assert shape_of("Reshape", (2, 6), [np.array([0, -1, 2])]) == (2, 3, 2)
    assert shape_of("Reshape", ("N", 6), [np.array([0, -1, 2])]) == ("N", 3, 2)
    assert shape_of("Transpose", (2, 6), perm=(1, 0)) == (6, 2)
    assert shape_of("Transpose", (2, 6), perm=(0, 1)) == (2, 6)
    assert shape_of("Resize", (1, 1, 2, 2), [np.zeros(0, np.float32), np.array([1, 1, 2, 3], np.float32)]) == (
        1,
        1,
        4,
        6,
    )
    assert shape_of("Resize", (1, 1, 2, 2), [np.zeros(0, np.float32), np.array([1, 1, 3, 2], np.float32)]) == (
        1,
        1,
        6,
        4,
    )
    assert shape_of("Squeeze", (1, 6), opset=11, axes=(0,)) == (6,)
    assert shape_of("Squeeze", (1, 6), [np.array([0])], opset=13) == (6,)


def test_what_inference_rejects_keeps_what_was_known():
    node = Node("Reshape", [Value(TensorType(F32, (2, 6))), Value(constant=Constant.of(np.array([5, 5])))])
    node.output.type = TensorType(F32, (5, 5))
    assert infer(node, {"": 17}) == (TensorType(F32, (5, 5)),)
    assert shape_of("Transpose", (2, 6), perm=[1, 0]) is None  # a list is no attribute


@pytest.mark.parametrize("op, dtype", [("Scaler", F32), ("Normalizer", F32), ("Imputer", DType.INT64)])
def test_operators_that_onnx_leaves_untyped_keep_the_shape(op, dtype):
    node = Node(f"ai.onnx.ml::{op}", [Value(TensorType(DType.INT64, ("N", 30)))])
    assert infer(node, {"": 17, "ai.onnx.ml": 1}) == (TensorType(dtype, ("N", 30)),)
