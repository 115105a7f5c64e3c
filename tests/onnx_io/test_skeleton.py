"""Skeletons of models as they were lifted: equal to those written node by node, and where these must be written."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.onnx_io import emit, infer_types, load
from graphopt.onnx_io.emit import skeleton_as_lifted, skeleton_of

from .spelled import parse

CODES = """g (float[N, 1200] x) => (y, l) {
    s = Constant<value = float {0.5}>() z = Constant<value = uint8 {3}>()
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = MatMul(d, w)
    i = Constant<value_ints = [-1, 2]>() r = Reshape<allowzero = 0>(m, i) y = Relu(r) l = own.Op(r)
}"""
OWN = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n'


def model_of(text: str, head: str = OWN) -> onnx.ModelProto:
    proto = parse(text, head)
    for node in proto.graph.node:
        if not node.domain:
            node.ClearField("domain")  # which the parser of texts sets
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1200, 4), np.float32), "w"))
    return proto


def test_nodes_are_copied_as_they_would_be_written(monkeypatch):
    proto = model_of(CODES)
    model = load(proto, infer=False)
    wanted = skeleton_of(model)
    monkeypatch.setattr(emit, "skeleton_of", lambda model: pytest.fail("written node by node"))
    found = skeleton_as_lifted(model)
    assert found.proto.SerializeToString(deterministic=True) == wanted.proto.SerializeToString(deterministic=True)
    assert found.values == wanted.values
    assert "w" in [given.name for given in found.proto.graph.input]  # without its elements


def test_texts_are_left_out_and_declared_types_kept():
    proto = model_of(CODES.replace("l = own.Op(r)", "o = own.Op(r) l = Relu(o)"))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, ["M", 7]))
    for node in proto.graph.node:
        node.doc_string = "a stack trace"
        node.metadata_props.add(key="scope", value="layer")
    model = load(proto, infer=False)
    found = skeleton_as_lifted(model)
    assert not any(node.doc_string or node.metadata_props for node in found.proto.graph.node)
    assert infer_types(model, found)
    assert str(model.graph.outputs[1].type) == "f32[M,7]"
    assert all(node.doc_string for node in proto.graph.node)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y = Relu(r)", "y = Split<num_outputs = 1>(r)"),
        ("(y, l)", "(y, x, l)"),
        ("(y, l)", "(y, r, l, s)"),
        ("y = Relu(r)", "k, mask = Dropout(r) y = Relu(k)"),
        ("y = Relu(r)", "c = Constant<value = bool {1}>() y = If<then_branch = a () => (t) { t = Relu(r) }, "
                        "else_branch = b () => (e) { e = Exp(r) }>(c)"),
        ("y = Relu(r)", "y = ai.onnx.Relu(r)"),
    ],
)  # fmt: skip
def test_other_forms_give_the_same_skeleton(old, new):
    proto = model_of(CODES.replace(old, new))
    for node in proto.graph.node:  # an optional result without a name
        node.output[:] = [name if name != "mask" else "" for name in node.output]
    model = load(proto, infer=False)
    found, wanted = skeleton_as_lifted(model), skeleton_of(model)
    assert found.proto.SerializeToString(deterministic=True) == wanted.proto.SerializeToString(deterministic=True)
    assert found.values == wanted.values


def test_nodes_out_of_order_are_written_in_order():
    proto = model_of(CODES)
    proto.graph.node.insert(0, proto.graph.node.pop())
    model = load(proto, infer=False)
    assert skeleton_as_lifted(model).proto == skeleton_of(model).proto
