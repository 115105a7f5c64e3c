"""Lift and emit constants of every type and attributes of every kind."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import Constant, Opaque, Value
from graphopt.onnx_io import load, to_proto
from graphopt.onnx_io.parts.tensors import ProtoSource

from .spelled import parse, round_trip

CONSTANTS = {
    "value_float = 1.5": (np.float32, 1.5),
    "value_floats = [1.5, 2.5]": (np.float32, [1.5, 2.5]),
    "value_int = 3": (np.int64, 3),
    "value_ints = [3, 4]": (np.int64, [3, 4]),
    "value = int32[2] {5, 6}": (np.int32, [5, 6]),
    'value_string = "a"': (object, "a"),
    'value_strings = ["a", "b"]': (object, ["a", "b"]),
}


@pytest.mark.parametrize("form", CONSTANTS)
def test_constant_nodes_become_constants(form):
    dtype, values = CONSTANTS[form]
    model, emitted = round_trip(parse(f"g (float[2] x) => (y) {{ c = Constant<{form}>() y = Identity(c) }}"))
    (node,) = model.graph
    array = node.constant(0).array()
    assert array.shape == np.shape(values) and array.tolist() == values and array.dtype == np.dtype(dtype)
    assert len(emitted.graph.initializer) == 1 and len(emitted.graph.node) == 1


def test_sparse_constant_and_initializer_are_kept():
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 4])
    sparse = helper.make_sparse_tensor(values, indices, [2, 3])
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=sparse),
        helper.make_node("Add", ["s", "c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", 1, [2, 3])])
    graph.sparse_initializer.add().CopyFrom(sparse)
    model, emitted = round_trip(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]))
    assert [node.op for node in model.graph] == ["Constant", "Add"]
    assert len(emitted.graph.sparse_initializer) == 1
    add = model.graph.snapshot()[1]
    np.testing.assert_array_equal(add.constant(0).array(), [[0, 1, 0], [0, 2, 0]])


KINDS = [k for k in TensorProto.DataType.values() if k not in (TensorProto.UNDEFINED,)]


@pytest.mark.parametrize("kind", KINDS, ids=[TensorProto.DataType.Name(k).lower() for k in KINDS])
@pytest.mark.parametrize("raw", [False, True])
def test_every_dtype(kind, raw):
    values = np.array([1, 2, 4] if kind == TensorProto.FLOAT8E8M0 else [0, 1, 1], np.float32)
    if kind == TensorProto.STRING:
        tensor = TensorProto(name="w", data_type=kind, dims=[3], string_data=[b"a", "é".encode(), b""])
    else:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        tensor = numpy_helper.from_array(values.astype(dtype), "w")
        if not raw:
            tensor = helper.make_tensor("w", kind, [3], values.astype(dtype))
    assert tensor.data_type == kind
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor])
    graph.output.append(helper.make_tensor_value_info("y", kind, [3]))
    model = load(helper.make_model(graph, ir_version=13))
    constant = next(iter(model.graph)).constant(0)
    assert constant.dtype == kind and constant.shape == (3,)
    expected = ["a", "é", ""] if kind == TensorProto.STRING else numpy_helper.to_array(tensor).tolist()
    assert constant.array().tolist() == expected
    assert to_proto(model).graph.initializer[0] == tensor
    fresh = Value(constant=Constant.of(constant.array(), constant.dtype), name="w")
    model.graph.set_input(next(iter(model.graph)), 0, fresh)
    again = next(iter(load(to_proto(model)).graph)).constant(0)
    assert again.dtype == kind and again.array().tolist() == expected


def test_strings_that_are_not_utf8_stay_bytes():
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.STRING, [1]))
    constant = next(iter(load(helper.make_model(graph)).graph)).constant(0)
    assert constant.array().tolist() == [b"\xff"] and constant.nbytes == 1


def test_bfloat16_reads_as_ml_dtypes():
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [2], np.array([1, 2], ml_dtypes.bfloat16))
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [2]))
    assert next(iter(load(helper.make_model(graph)).graph)).constant(0).array().dtype == ml_dtypes.bfloat16


def odd_attributes() -> onnx.ModelProto:
    node = helper.make_node("Foo", ["x", "", ""], ["y", ""], domain="own", name="odd", overload="v2")
    node.doc_string = "a node"
    for name, value in (
        ("i", 3), ("f", 0.1), ("s", "text"), ("is", [1, 2]), ("fs", [0.5, 1.0]), ("ss", ["a", "b"]), ("bytes", b"\xff"),
        ("t", helper.make_tensor("", 1, [1], [1.0])), ("tp", helper.make_tensor_type_proto(1, [2])),
    ):  # fmt: skip
        node.attribute.append(helper.make_attribute(name, value))
    node.attribute.append(helper.make_attribute("none", [], attr_type=onnx.AttributeProto.FLOATS))
    node.attribute.append(helper.make_attribute("bytes list", [b"\xff", b"a"]))
    node.attribute.append(helper.make_attribute("documented", 1, doc_string="why"))
    node.attribute.append(
        helper.make_attribute("graphs", [helper.make_graph([], "g1", [], []), helper.make_graph([], "g2", [], [])])
    )
    node.metadata_props.add(key="k", value="v")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, [2])], [])
    graph.output.append(helper.make_tensor_value_info("y", 1, [2]))
    opsets = [helper.make_opsetid("ai.onnx", 21), helper.make_opsetid("own", 7), helper.make_opsetid("unused", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_attributes_of_every_kind():
    model, _ = round_trip(odd_attributes())
    (node,) = model.graph
    assert node.op == "own::Foo" and node.overload == "v2" and len(node.inputs) == 3 and node.inputs[1] is None
    attrs = node.attrs
    assert (attrs["i"], attrs["s"], attrs["is"], attrs["ss"]) == (3, "text", (1, 2), ("a", "b"))
    assert attrs["f"] == np.float32(0.1) and attrs["fs"] == (0.5, 1.0) and attrs["documented"] == 1
    assert attrs["t"].array() == 1 and [g.name for g in attrs["graphs"]] == ["g1", "g2"]
    assert all(isinstance(attrs[name], Opaque) for name in ("bytes", "bytes list", "tp", "none"))
    assert node.doc == "a node" and node.metadata == {"k": "v"}
    assert model.opsets == {"": 21, "own": 7, "unused": 2}


def test_an_operator_name_may_contain_colons():
    proto = odd_attributes()
    proto.graph.node[0].op_type = "aten::relu"
    round_trip(proto)


def test_an_empty_list_is_plain_where_the_schema_knows_it():
    proto = parse("g (float[2] x) => (float y) { y = ReduceMean(x) }", '<ir_version: 8, opset_import: ["" : 13]>\n')
    proto.graph.node[0].attribute.append(helper.make_attribute("axes", [], attr_type=onnx.AttributeProto.INTS))
    model, _ = round_trip(proto)
    assert next(iter(model.graph)).attrs["axes"] == ()


def test_numbers_take_the_type_their_schema_asks_for():
    model = load(parse("g (float[2] x) => (float[2] y) { y = LeakyRelu<alpha = 0.5>(x) }"))
    model.graph.set_attr(next(iter(model.graph)), "alpha", 1)
    assert to_proto(model).graph.node[0].attribute[0].type == onnx.AttributeProto.FLOAT


@pytest.mark.parametrize("count", [1, 3, 200])
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "INT32", "INT64", "INT8", "UINT8"])
def test_elements_in_lists(kind, count):
    """Scalars, few and many elements of the types whose lists are read by their field."""
    elem = TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    values = np.random.default_rng(5).integers(0 if kind == "UINT8" else -128, 128, count).astype(dtype)
    shape = [] if count == 1 else [count]
    array = ProtoSource(helper.make_tensor("x", elem, shape, values.tolist())).array()
    assert array.dtype == dtype and array.shape == tuple(shape)
    np.testing.assert_array_equal(array, values.reshape(shape))
    with pytest.raises(ValueError):
        ProtoSource(helper.make_tensor("x", elem, [count], values.tolist() * 2 if count > 1 else [1, 2])).array()
