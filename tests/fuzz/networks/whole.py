"""Whole networks of random layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from . import images, tokens
from .net import Net

CONTRIB = "com.microsoft"


def network(seed: int) -> onnx.ModelProto:
    """The float network of a seed, of 2 to 9 layers over images or tokens."""
    rng = np.random.default_rng(seed)
    s = Net(rng, int(rng.choice([13, 14, 17, 17, 18, 20, 21, 21, 22, 23, 23, 24])))
    image = s.chance(0.55)
    if image:
        channels, size = s.one(3, 4, 8), s.one(8, 9, 6)
        wide = s.chance(0.25)
        s.shape = (channels, None, None) if wide else (channels, size, s.one(size, 7))
        shape: list[Any] = ["N", channels, *(("H", "W") if wide else s.shape[1:])]
    else:
        s.shape = (None, s.one(8, 16, 12))
        shape = ["N", "S", s.shape[1]]
    s.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    layers = images.LAYERS if image else tokens.LAYERS
    s.one(*layers[:3])(s)
    for _ in range(int(rng.integers(1, 9))):
        s.one(*layers)(s)
    if image:
        images.head(s)
    else:
        s.give(s.last, rank=3)
    graph = helper.make_graph(s.nodes, "network", s.inputs, s.outputs, s.weights)
    imports = [helper.make_opsetid("", s.opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)
