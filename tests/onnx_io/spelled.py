"""Models as text, and what must hold of each that is lifted and emitted again."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import parser

from graphopt.ir import (
    Model,
    verify,
)
from graphopt.onnx_io import load, to_proto

from .same import assert_same_model

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parse(text: str, head: str = HEAD) -> onnx.ModelProto:
    return parser.parse_model(head + text)


def round_trip(proto: onnx.ModelProto) -> tuple[Model, onnx.ModelProto]:
    before = proto.SerializeToString(deterministic=True)
    model = load(proto)
    verify(model)
    emitted = to_proto(model)
    assert_same_model(proto, emitted)
    assert proto.SerializeToString(deterministic=True) == before
    assert to_proto(load(before)).SerializeToString() == emitted.SerializeToString()
    return model, emitted


def execute(proto: onnx.ModelProto, **feeds) -> list[np.ndarray]:
    onnx.checker.check_model(proto, full_check=True)
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
