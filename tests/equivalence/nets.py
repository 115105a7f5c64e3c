"""Small models that show one clause of the definition of equality each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Spec = tuple[str, int, Sequence[int | str | None] | None]


def model(
    nodes: list[onnx.NodeProto], inputs: list[Spec], outputs: list[Spec], weights: dict[str, Any] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(*i) for i in inputs], [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=9
    )


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def f32(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def cnn(epsilon: float = 1e-5) -> onnx.ModelProto:
    """Three Conv, BatchNormalization, Relu blocks and a softmax classifier on images of any size."""
    nodes, weights, x, channels = [], {}, "x", 3
    for i, width in enumerate((16, 32, 32)):
        rng = np.random.default_rng(i)
        weights[f"w{i}"] = f32(width, channels, 3, 3, seed=i, scale=float(np.sqrt(2 / (9 * channels))))
        weights[f"scale{i}"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        weights[f"bias{i}"] = f32(width, seed=i + 10, scale=0.2)
        weights[f"mean{i}"] = f32(width, seed=i + 20, scale=0.2)
        weights[f"var{i}"] = rng.uniform(0.3, 1.5, width).astype(np.float32)
        nodes += [
            node("Conv", f"{x} w{i}", f"c{i}", pads=[1] * 4, strides=[2, 2]),
            node("BatchNormalization", f"c{i} scale{i} bias{i} mean{i} var{i}", f"n{i}", epsilon=epsilon),
            node("Relu", f"n{i}", f"r{i}"),
        ]
        x, channels = f"r{i}", width
    weights["head"] = f32(channels, 10, seed=9)
    nodes += [
        node("GlobalAveragePool", x, "p"), node("Flatten", "p", "f"),
        node("MatMul", "f head", "logits"), node("Softmax", "logits", "y"),
    ]  # fmt: skip
    return model(nodes, [("x", T.FLOAT, ["N", 3, "H", "W"])], [("y", T.FLOAT, ["N", 10])], weights)


def dense(op: str, out: int = T.FLOAT, *, weight: np.ndarray[Any, Any] | None = None, **attrs: Any) -> onnx.ModelProto:
    """y = op(x W), with x: f32[N,8] and W: f32[8,6]."""
    nodes = [node("MatMul", "x w", "h"), node(op, "h", "y", **attrs)]
    w = f32(8, 6) if weight is None else weight
    return model(nodes, [("x", T.FLOAT, ["N", 8])], [("y", out, None)], {"w": w})
