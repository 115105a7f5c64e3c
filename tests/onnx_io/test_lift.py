"""Lift and emit: what a file says comes back, and the IR in between is what passes expect."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from graphopt.ir import (
    Constant,
    DType,
    FunctionId,
    Graph,
    Model,
    Node,
    Opaque,
    Port,
    SequenceType,
    TensorType,
    Value,
    verify,
)
from graphopt.onnx_io import infer_types, load, to_onnx, to_proto
from graphopt.onnx_io.emit import Emitter
from tests.passes.harness import lift

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


IF = """g (float[N] x, bool c) => (float[N] y) {
    y = If(c) <then_branch = a () => (float[N] t) { k = Constant<value = float {2.0}>() t = Mul(h, k) },
               else_branch = b () => (float[N] e) { e = Neg(h) }>
    h = Relu(x)
}"""


def test_captures_are_ordinary_uses_and_nodes_are_sorted():
    model, emitted = round_trip(parse(IF))
    relu, branch = model.graph
    assert (relu.op, branch.op) == ("Relu", "If")
    assert {use.node.op for use in relu.output.uses} == {"Mul", "Neg"}
    assert relu.output.type == TensorType(DType.FLOAT, ("N",))
    mul = next(iter(next(g for g in branch.subgraphs if g.name == "a")))
    assert mul.constant(1).array() == 2 and mul.output.type == TensorType(DType.FLOAT, ("N",))
    x = np.array([-1, 3], np.float32)
    np.testing.assert_array_equal(execute(emitted, x=x, c=np.array(True))[0], [0, 6])


def test_nested_graphs_are_sorted_too():
    text = IF.replace("{ e = Neg(h) }", "{ e = Neg(m) m = Exp(h) }")
    _, emitted = round_trip(parse(text))
    assert execute(emitted, x=np.zeros(1, np.float32), c=np.array(False))[0] == -1


def test_sorting_keeps_the_order_of_the_file():
    model = load(parse("g (float[2] x) => (float[2] y) { y = Add(b, a) a = Neg(x) c = Exp(x) b = Abs(x) }"))
    assert [node.op for node in model.graph] == ["Neg", "Exp", "Abs", "Add"]


def test_shadowed_and_sibling_names_become_unique():
    proto = parse("""g (float[2] x, bool c) => (float[2] y, float[2] z) {
        y = If(c) <then_branch = a () => (float[2] t) { t = Neg(x) }, else_branch = b () => (float[2] t) { t = Abs(x) }>
        z = Exp(x)
    }""")
    _, emitted = round_trip(proto)
    branch = emitted.graph.node[0]
    names = [n.output[0] for a in branch.attribute for n in a.g.node] + ["y", "z", "x", "c"]
    assert len(set(names)) == 6
    assert len(branch.attribute) == 2
    assert all(a.g.output[0].name == a.g.node[0].output[0] for a in branch.attribute)


LOOP = """g (float[2] x, int64 n) => (float[2] y) {
    c = Constant<value = bool {1}>()
    y = Loop(n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool go, float[2] o) { o = Neg(v) }>
}"""


def test_loop_may_return_its_input():
    _, emitted = round_trip(parse(LOOP))
    assert len(emitted.graph.node[0].attribute[0].g.node) == 1
    assert execute(emitted, x=np.ones(2, np.float32), n=np.array(3))[0][0] == -1


def branches() -> tuple[Model, Graph, Value, Value]:
    model = load(parse(IF))
    relu, branch = model.graph
    return model, branch.attrs["then_branch"], relu.output, model.graph.inputs[0]


@pytest.mark.parametrize("what", ["captured", "input of the model", "constant", "shared constant"])
def test_a_branch_may_return_anything(what):
    model, then, hidden, x = branches()
    constant = Value(constant=Constant.of(np.array([5, 5], np.float32)), name="five")
    node = next(iter(then))
    result = {"captured": hidden, "input of the model": x}.get(what, constant)
    if what == "shared constant":
        model.graph.set_input(next(iter(model.graph.snapshot()[-1].attrs["else_branch"])), 0, constant)
    then.set_outputs([result])
    then.erase(node)
    verify(model)
    got = execute(to_proto(model), x=np.array([-1, 3], np.float32), c=np.array(True))[0]
    expected = {"captured": [0, 3], "input of the model": [-1, 3]}.get(what, [5, 5])
    np.testing.assert_array_equal(got, expected)


def test_root_results_may_repeat_pass_through_or_be_constant():
    proto = parse("""g (float[2] x) => (float[2] a, float[2] b, float[2] c, float[2] d) {
        a = Identity(x) b = Neg(x) c = Neg(x) d = Neg(x)
    }""")
    model = load(proto)
    b = model.graph.snapshot()[1]
    x = model.graph.inputs[0]
    constant = Value(constant=Constant.of(np.array([7, 7], np.float32)))
    model.graph.set_outputs([x, b.output, b.output, constant])
    got = execute(to_proto(model), x=np.array([1, 2], np.float32))
    np.testing.assert_array_equal(got, [[1, 2], [-1, -2], [-1, -2], [7, 7]])


@pytest.mark.parametrize("text", [
    "g (float[2] x) => (float[2] x) { y = Relu(x) }",
    "g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }",
    "g (float[2] x) => (float[2] y, float[2] y) { y = Relu(x) }",
])  # fmt: skip
def test_legal_direct_results_stay_direct(text):
    _, emitted = round_trip(parse(text))
    assert len(emitted.graph.node) == 1
    execute(emitted, x=np.ones(2, np.float32))


def test_swapped_results_keep_the_ports_names():
    model = load(parse("g (float[2] x) => (float[2] a, float[2] b) { a = Neg(x) b = Exp(x) }"))
    model.graph.set_outputs(list(reversed(model.graph.outputs)))
    a, b = execute(to_proto(model), x=np.zeros(2, np.float32))
    assert a[0] == 1 and b[0] == 0


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


def test_texts_and_sections():
    proto = parse("g (float[2] x) => (float[2] y) <float s = {0.5}, int8 z = {3}, float w = {2.0}> { y = Mul(x, w) }")
    proto.producer_name, proto.producer_version, proto.domain = "someone", "1.2", "org.example"
    proto.model_version, proto.doc_string = 7, "a model"
    proto.graph.doc_string = "a graph"
    proto.graph.input[0].doc_string, proto.graph.output[0].doc_string = "an input", "an output"
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    for owner in (proto, proto.graph, proto.graph.node[0], proto.graph.input[0], proto.graph.output[0]):
        owner.metadata_props.add(key="k", value="v")
    annotation = proto.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    annotation.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="z")
    proto.configuration.add(name="two", num_devices=2)
    device = proto.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    device.sharding_spec.add(tensor_name="x", device=[0, 1])
    training = proto.training_info.add()
    training.algorithm.CopyFrom(parse("t () => (float n) { n = Constant<value = float {1.0}>() }").graph)
    training.update_binding.add(key="w", value="n")
    model, emitted = round_trip(proto)
    assert {t.name for t in emitted.graph.initializer} == {"s", "z", "w"}
    assert model.graph.ports[0].doc == "an output" and model.graph.inputs[0].metadata == {"k": "v"}


def test_open_sizes_are_not_equal_because_they_look_alike():
    proto = parse("g (float[N, M] x) => (y) { y = Transpose(x) }")
    first, second = proto.graph.input[0].type.tensor_type.shape.dim
    first.dim_param = second.dim_param = "?"
    model, _ = round_trip(proto)
    assert model.graph.inputs[0].type == TensorType(DType.FLOAT, (None, None))
    second.dim_value = -1
    round_trip(proto)


def test_texts_of_inner_values_survive():
    proto = parse("g (float[2] x) => (float[2] y) { h = Neg(x) y = Neg(h) }")
    info = proto.graph.value_info.add(name="h", doc_string="hidden")
    info.metadata_props.add(key="k", value="v")
    _, emitted = round_trip(proto)
    (kept,) = emitted.graph.value_info
    assert (kept.name, kept.doc_string, kept.metadata_props[0].value) == ("h", "hidden", "v")


def test_inputs_with_defaults_are_not_constant():
    proto = parse("g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    model, emitted = round_trip(proto)
    w = model.graph.inputs[1]
    assert w.constant is None and w.default.array().tolist() == [1, 1]
    x = np.zeros(2, np.float32)
    assert execute(emitted, x=x)[0][0] == 1 and execute(emitted, x=x, w=x)[0][0] == 0


def test_before_ir_version_4_initializers_are_constants_listed_as_inputs():
    proto = parse(
        """g (float[2] w, float[2] x) => (float[2] y) {
            k = Constant<value = float {3.0}>() a = Add(x, w) y = Mul(a, k)
        }""",
        '<ir_version: 3, opset_import: ["" : 7]>\n',
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    model = load(proto)
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert next(iter(model.graph)).constant(1).array().tolist() == [1, 1]
    emitted = to_proto(model)
    assert [v.name for v in emitted.graph.input] == ["w", "x"]
    assert [n.op_type for n in emitted.graph.node] == ["Constant", "Add", "Mul"]
    assert execute(emitted, x=np.zeros(2, np.float32))[0].tolist() == [3, 3]
    assert_same_model(proto, emitted)


def test_without_opset_import_before_ir_version_3():
    proto = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }", '<ir_version: 8, opset_import: ["" : 7]>\n')
    proto.ir_version = 1
    del proto.opset_import[:]
    assert load(proto).opset == 1


def test_of_opsets_imported_twice_the_last_counts():
    proto = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.opset_import.insert(0, helper.make_opsetid("", 13))
    assert load(proto).opset == 21


FUNCTION = """g (float[2] x) => (float[2] y) { y = own.scale<by = 3.0>(x) }
<domain: "own", opset_import: ["" : 21]>
scale <by: float = 2.0> (a) => (b) {
    k = Constant<value_float: float = @by>()
    one = Constant<value_float = 1.0>()
    m = Mul(a, k)
    b = Add(m, one)
}"""


def test_functions_are_small_models():
    proto = parse(FUNCTION, '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n')
    proto.functions[0].doc_string = "scales"
    proto.functions[0].metadata_props.add(key="k", value="v")
    model, emitted = round_trip(proto)
    body = model.functions[FunctionId("own", "scale")].body
    assert [n.op for n in body.graph] == ["Constant", "Mul", "Add"]
    assert body.graph.snapshot()[-1].constant(1).array() == 1
    assert next(iter(model.graph)).output.type == TensorType(DType.FLOAT, (2,))
    assert execute(emitted, x=np.ones(2, np.float32))[0].tolist() == [4, 4]


def test_functions_by_overload():
    proto = parse(FUNCTION, '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n')
    proto.functions.add().CopyFrom(proto.functions[0])
    proto.functions[1].overload = "again"
    model, _ = round_trip(proto)
    assert set(model.functions) == {FunctionId("own", "scale"), FunctionId("own", "scale", "again")}


def test_sequences_optionals_and_maps():
    proto = parse("g (seq(float[N]) s, int64 i) => (float[N] y) { y = SequenceAt(s, i) }")
    proto.graph.input.append(
        helper.make_value_info("m", onnx.TypeProto(map_type={"key_type": 7, "value_type": proto.graph.output[0].type}))
    )
    proto.graph.input.append(helper.make_value_info("o", helper.make_optional_type_proto(proto.graph.input[0].type)))
    proto.graph.input.append(helper.make_value_info("p", helper.make_sparse_tensor_type_proto(1, [2])))
    model, _ = round_trip(proto)
    assert model.graph.inputs[0].type == SequenceType(TensorType(DType.FLOAT, ("N",)))
    assert next(iter(model.graph)).output.type == TensorType(DType.FLOAT, ("N",))


def test_declared_types_count_only_where_onnx_knows_nothing():
    proto = parse("g (float[2, 3] x) => (y) { a = own.Op(x) b = Transpose(a) h = Relu(x) y = Exp(h) }",
                  '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n')  # fmt: skip
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.INT32, [4, 5]))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.DOUBLE, [9]))
    model, emitted = round_trip(proto)
    types = {v.name: v.type for n in model.graph for v in n.outputs}
    assert types["a"] == TensorType(DType.INT32, (4, 5)) and types["b"] == TensorType(DType.INT32, (5, 4))
    assert types["h"] == types["y"] == TensorType(DType.FLOAT, (2, 3))
    assert [info.name for info in emitted.graph.value_info] == ["a"]


def test_inference_sees_no_weights():
    weight = numpy_helper.from_array(np.zeros((2000, 500), np.float32), "w")
    proto = parse("g (float[N, 2000] x) => (y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(weight)
    model = load(proto)
    assert next(iter(model.graph)).output.type == TensorType(DType.FLOAT, ("N", 500))
    assert Emitter(model, skeleton=True).model().ByteSize() < 500


def test_shapes_flow_through_small_constants():
    proto = parse("""g (float[2, 4, 6] x) => (y) {
        s = Shape(x) i = Constant<value_ints = [0]>() n = Gather(s, i) m = Constant<value_ints = [-1]>()
        t = Concat<axis = 0>(n, m) y = Reshape(x, t)
    }""")
    model = load(proto)
    assert model.graph.outputs[0].type == TensorType(DType.FLOAT, (2, 24))


def test_a_model_that_inference_refuses_still_gets_types():
    proto = parse("g (float[2] x) => (y, z) { h = Reshape(x, s) y = Relu(x) z = Exp(y) }")
    proto.graph.initializer.append(helper.make_tensor("s", TensorProto.INT64, [2], [0, 0]))
    model = load(proto)
    infer_types(model)
    assert model.graph.outputs[1].type == TensorType(DType.FLOAT, (2,))


def test_names_of_nodes_may_repeat_or_miss():
    proto = parse("g (float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) c = Exp(b) y = Exp(c) }")
    proto.graph.node[0].name = proto.graph.node[1].name = "same"
    model, _ = round_trip(proto)
    origins = [node.origins for node in model.graph]
    assert origins == [("same",), ("same_1",), ("Exp_2",), ("Exp_3",)]


def test_missing_outputs_and_inputs_keep_their_places():
    proto = parse("""g (float[1, 1, 2] x, float[1, 12, 2] w, float[1, 12, 3] r) => (float[1, 1, 3] h) {
        n, h = LSTM<hidden_size = 3>(x, w, r)
    }""")
    proto.graph.node[0].output[0] = ""
    proto.graph.node[0].input.extend(["", "", ""])
    _, emitted = round_trip(proto)
    assert list(emitted.graph.node[0].output) == ["", "h"] and len(emitted.graph.node[0].input) == 6


def test_new_nodes_get_fresh_names_that_take_nobodys():
    model = load(parse("g (float[2] x) => (float[2] y) { neg_1 = Exp(x) y = Relu(neg_1) }"))
    relu = model.graph.snapshot()[1]
    made = [model.graph.insert_before(relu, Node("Neg", [relu.inputs[0]])) for _ in range(2)]
    model.graph.set_input(relu, 0, made[0].output)
    emitted = to_proto(model)
    assert [n.output[0] for n in emitted.graph.node] == ["neg_1", "neg_2", "neg_3", "y"]
    made[1].outputs[0].name = "neg_1"
    assert len({n.output[0] for n in to_proto(model).graph.node}) == 4


def test_onnx_ir_both_ways():
    proto = parse(IF)
    through = to_onnx(load(onnx_ir.serde.deserialize_model(proto)))
    assert isinstance(through, onnx_ir.Model)
    assert_same_model(proto, onnx_ir.serde.serialize_model(through))


def test_bfloat16_reads_as_ml_dtypes():
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [2], np.array([1, 2], ml_dtypes.bfloat16))
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [2]))
    assert next(iter(load(helper.make_model(graph)).graph)).constant(0).array().dtype == ml_dtypes.bfloat16


def test_a_dead_node_without_names_is_still_valid():
    graph = Graph("dead", [Value(TensorType(DType.FLOAT, (2,)), "x")])
    graph.append(Node("Neg", [graph.inputs[0]], None, [graph.inputs[0].type]))
    kept = graph.append(Node("Relu", [graph.inputs[0]], None, [graph.inputs[0].type]))
    graph.set_outputs([kept.output], [Port("y", kept.output.type)])
    proto = to_proto(Model(graph, {"": 17}, ir_version=8))
    onnx.checker.check_model(proto)
    assert [node.op_type for node in proto.graph.node] == ["Neg", "Relu"]
    assert all(node.output[0] for node in proto.graph.node)


def test_a_part_that_nobody_reads_has_a_name():
    model = lift("g (float[2,6] x) => (float[a,b] y) { a, b = Split<axis = 1>(x)\n y = Exp(b) }")
    next(iter(model.graph)).outputs[0].name = ""
    (split, _) = to_proto(model).graph.node
    assert all(split.output) and len(set(split.output)) == 2  # onnxruntime crashes without
