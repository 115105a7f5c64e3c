"""A proto written tensor by tensor is the file that protobuf writes, byte for byte."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from graphopt.errors import OutputError
from graphopt.onnx_io import save
from graphopt.onnx_io.parts.stream import write_proto
from tests import zoo
from tests.generators import chain


def _made(*tensors):
    nodes = [helper.make_node("Identity", [t.name], [f"{t.name}_out"]) for t in tensors]
    results = [helper.make_tensor_value_info(f"{t.name}_out", t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph(nodes, "g", [], results, list(tensors), doc_string="a graph")
    made = helper.make_model(graph, producer_name="someone", doc_string="a model")
    helper.set_model_props(made, {"a": "1", "b": "2"})
    made.graph.metadata_props.add(key="k", value="v")
    made.graph.value_info.add(name="inner")
    return made


def _written(proto):
    file = io.BytesIO()
    write_proto(proto, file)
    return file.getvalue()


def _tensor(name, array, **more):
    tensor = numpy_helper.from_array(array, name)
    for key, value in more.items():
        setattr(tensor, key, value)
    return tensor


RNG = np.random.default_rng(0)
BIG = RNG.standard_normal((512, 300)).astype(np.float32)


@pytest.mark.parametrize(
    "proto",
    [
        _made(_tensor("w", BIG, doc_string="weights"), _tensor("s", np.ones(3, np.int64)), _tensor("v", BIG + 1)),
        _made(_tensor("w", BIG.astype(np.float16)), _tensor("u", np.zeros((256, 256), np.uint8))),
        _made(_tensor("s", np.ones(3, np.int64))),
        chain(200),
    ],
)
def test_the_bytes_are_those_of_protobuf(proto):
    assert _written(proto) == proto.SerializeToString(deterministic=True)


def test_data_that_is_no_raw_data_and_fields_nobody_knows_are_kept():
    typed = onnx.TensorProto(name="t", data_type=T.FLOAT, dims=[20000], float_data=[1.5] * 20000)
    proto = _made(_tensor("w", BIG), typed)
    assert _written(proto) == proto.SerializeToString(deterministic=True)
    unknown = onnx.ModelProto.FromString(proto.SerializeToString() + b"\xfa\x3e\x03abc")  # field 1007 of 3 bytes
    assert b"abc" in unknown.SerializeToString() and _written(unknown) == unknown.SerializeToString(deterministic=True)


def test_a_tensor_whose_data_is_too_short_is_not_written(tmp_path):
    wrong = _tensor("w", BIG)
    wrong.raw_data = wrong.raw_data[:-4]
    with pytest.raises(OutputError):
        save(_made(wrong), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@zoo.parametrize("silero-default", "rapidocr-det")
def test_real_models(name):
    proto = onnx.load(zoo.path(name))
    assert _written(proto) == proto.SerializeToString(deterministic=True)
