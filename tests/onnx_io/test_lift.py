"""Lift and emit: what a file says comes back, and the IR in between is what passes expect."""

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper, numpy_helper

from graphopt.ir import Constant, DType, FunctionId, Graph, Model, Node, Port, TensorType, Value, verify
from graphopt.onnx_io import load, to_onnx, to_proto
from tests.passes.harness import lift

from .same import assert_same_model
from .spelled import execute, parse, round_trip

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
