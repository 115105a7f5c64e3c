"""Other operator sets: the converted model is valid there, loses nothing, and computes the same."""

import numpy as np
import onnx
import pytest
from onnx import helper, parser

import graphopt
from graphopt import onnx_io
from graphopt.errors import OptionError
from tests.surgery.nets import X, net, run


@pytest.mark.parametrize("version", [11, 9, 17])
def test_a_model_goes_to_another_operator_set(version):
    edited = graphopt.edit(net(), opset=version)
    model = edited.model
    assert {o.domain: o.version for o in model.opset_import} == {"": version} and edited.status == "equal"
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, {"x": X})["scores"], run(net(), {"x": X})["scores"], rtol=1e-5)
    assert [p.key for p in model.metadata_props] == ["author"]
    assert (model.graph.node[0].name, model.graph.node[0].doc_string) == ("conv", "first")
    if version < 13:
        assert model.ir_version < net().ir_version


def test_what_has_no_older_form_is_one_line():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[2,3] z)
    <float[3] s = {1.0, 1.0, 1.0}> { y, m = LayerNormalization(x, s) z = Add(y, m) }""")
    with pytest.raises(OptionError, match=r"^opset 16: .*LayerNormalization") as caught:
        graphopt.edit(model, opset=16)
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="down to 7"):
        graphopt.edit(model, opset=0)
    with pytest.raises(OptionError, match="opset 99"):
        graphopt.edit(model, opset=99)


def test_functions_go_down_with_the_model():
    function = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N,3] x) => (float[N] y) { y = own.f(x) }
    <domain: "own", opset_import: ["": 17]> f (a) => (b) { b = Identity(a) }""")
    del function.functions[0].node[:]
    function.functions[0].node.extend(
        parser.parse_graph("""
    f (float[N,3] a) => (float[N] b) { i = Constant <value = int64[1] {1}> () c = ReduceSum(a, i) k = Neg(c)
     b = Squeeze(k, i) }""").node
    )
    edited = graphopt.edit(function, opset=12)
    assert edited.model.functions[0].opset_import[0].version == 12
    assert [list(a.ints) for n in edited.model.functions[0].node for a in n.attribute if a.name == "axes"] == [[1], [1]]


FORMS = [
    ("y = ReduceMean <keepdims = 0> (x, one)", 17, "int64[1] one = {1}"),
    ("y = Clip(x, low)", 10, "float low = {0.25}"),
    ("y = Pad(x, pads, low)", 10, "int64[4] pads = {0, 1, 1, 0}, float low = {0.25}"),
    ("y = Slice(x, one, two, one)", 9, "int64[1] one = {1}, int64[1] two = {2}"),
    ("y = Softmax(x)", 12, ""),
    ("y, z = Split <axis = 1, num_outputs = 2> (x)", 12, ""),
    ("y, z = Split <axis = 1> (x, sizes)", 11, "int64[2] sizes = {3, 1}"),
    ("y, z = TopK(x, two)", 9, "int64[1] two = {2}"),
    ("y = Dropout(x, low)", 11, "float low = {0.25}"),
    ("y = Unsqueeze(x, one)", 12, "int64[1] one = {1}"),
    ("y = Flatten(x)", 9, ""),
    ("y = LayerNormalization <axis = -1> (x, scale, scale)", 11, "float[4] scale = {1.0, 2.0, 3.0, -1.0}"),
    ("y = LayerNormalization <axis = 0> (x, low)", 15, "float low = {0.25}"),
    (
        "c = GreaterOrEqual(x, low) d = LessOrEqual(x, low) e = Xor(c, d) y = Cast <to = 1> (e)",
        11,
        "float low = {0.25}",
    ),
    (
        "s = Shape <start = 1> (x) t = Shape <start = -2, end = 1> (x) r = Concat <axis = 0> (s, t) y = Reshape(x, r)",
        12,
        "",
    ),
    ("y = Reshape <allowzero = 1> (x, sizes)", 13, "int64[2] sizes = {4, 2}"),
    ("y = HardSwish(x)", 12, ""),
    ("y = ArgMax <axis = 1, select_last_index = 0> (x)", 11, ""),
    ("y = Reshape <allowzero = 0> (x, sizes)", 13, "int64[2] sizes = {4, 2}"),
]


@pytest.mark.parametrize(("node", "version", "constants"), FORMS)
def test_operators_take_their_earlier_form(node, version, constants):
    kind = "int64" if "ArgMax" in node else "float"
    model = parser.parse_model(f"""
    <ir_version: 9, opset_import: ["": 18]> g (float[2,4] x) => ({kind}[] y) <{constants}> {{ {node} }}""")
    model.graph.output[0].type.Clear()
    model = onnx_io.to_proto(onnx_io.load(model))
    edited = graphopt.edit(model, opset=version)
    onnx.checker.check_model(edited.model, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_allclose(run(edited.model, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-5)


@pytest.mark.parametrize(
    ("node", "version", "words"),
    [("y = Softmax <axis = 0> (x)", 12, "over axis 0"),
     ("y = ArgMax <select_last_index = 1> (x)", 11, "no select_last_index"),
     ("s = Shape(x) i2 = Slice(s, i, j) y = ReduceSum(x, i2)", 12, "computed while"),
     ("y = Add(h, h)", 12, "has no i16")],
)  # fmt: skip
def test_forms_that_were_not_there_are_named(node, version, words):
    model = parser.parse_model(f"""
    <ir_version: 9, opset_import: ["": 18]> g (float[2,4] x, int16[2] h) => (float[] y)
    <int64[1] i = {{0}}, int64[1] j = {{1}}> {{ {node} }}""")
    model.graph.output[0].type.Clear()
    model = onnx_io.to_proto(onnx_io.load(model))
    with pytest.raises(OptionError, match=f"^opset {version}: a node .*{words}"):
        graphopt.edit(model, opset=version)


@pytest.mark.parametrize("version", [12, 11, 10])
def test_an_enlarging_resize_goes_down(version):
    model = parser.parse_model("""
    <ir_version: 9, opset_import: ["": 18]> g (float[1,1,2,3] x) => (float[1,1,4,6] y)
    <float[4] scales = {1.0, 1.0, 2.0, 2.0}> { y = Resize <mode = "nearest",
     coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , scales) }""")
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    edited = graphopt.edit(model, opset=version)
    onnx.checker.check_model(edited.model, full_check=True)
    np.testing.assert_array_equal(run(edited.model, {"x": x})["y"], x.repeat(2, 2).repeat(2, 3))


def test_lowered_and_renamed_in_one_go():
    edited = graphopt.edit(net(), opset=11, rename={"x": "image"}, strip=["names"], dims={"N": 2})
    assert edited.status == "equal" and edited.ir.graph.inputs[0].type.shape == (2, 3, 8, 8)
    assert helper.printable_type(edited.model.graph.input[0].type).startswith("FLOAT")
