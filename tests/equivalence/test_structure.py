"""Equality by structure: what makes no difference, and each thing that does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import graphopt
from graphopt.equivalence.comparison import is_same_computation
from graphopt.equivalence.runnable import open_runnable
from graphopt.ir import Constant, Value
from graphopt.onnx_io.lend import WeightPool, with_lent
from graphopt.pipeline import Pass
from graphopt.validation import SAME_COMPUTATION
from tests import zoo
from tests.equivalence.nets import cnn, f32, model, node

X, Y = [("x", T.FLOAT, ["N", 8])], [("y", T.FLOAT, ["N", 8])]


def net(nodes, weights=None, opset=17):
    made = model(nodes, X, Y, {"w": f32(8, 8), **(weights or {})})
    made.opset_import[0].version = opset
    return made


def same(a, b):
    pool = WeightPool()
    a, b = (open_runnable(m).with_weights_lent(pool) for m in (a, b))
    return is_same_computation(a, b)


PLAIN = net([node("MatMul", "x w", "h"), node("Relu", "h", "y")])


@pytest.mark.parametrize(
    "other",
    [
        net([node("MatMul", "x w", "other"), node("Relu", "other", "y")]),
        net([node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Identity", "r", "y")]),
        net([node("MatMul", "x w", "h"), node("Dropout", "h", "d"), node("Relu", "d", "y")], opset=17),
        net(
            [node("MatMul", "x w", "h"), node("Dropout", "h r t", "d"), node("Relu", "d", "y")],
            {"r": np.float32(0.5), "t": np.bool_(False)},
        ),
        net([node("MatMul", "x w", "h"), node("Abs", "h", "unread"), node("Relu", "h", "y")]),
        net([node("MatMul", "x v", "h"), node("Relu", "h", "y")], {"v": f32(8, 8)}),
        net([node("Constant", "", "v", value=numpy_helper.from_array(f32(8, 8))), node("MatMul", "x v", "h"),
             node("Relu", "h", "y")]),
    ],
)  # fmt: skip
def test_names_copies_and_what_nothing_reads_make_no_difference(other):
    assert same(PLAIN, other) and same(other, PLAIN)


@pytest.mark.parametrize(
    "other",
    [
        net([node("MatMul", "x w", "h"), node("Abs", "h", "y")]),
        net([node("MatMul", "h w", "y"), node("Relu", "x", "h")][::-1]),
        net([node("MatMul", "x v", "h"), node("Relu", "h", "y")], {"v": f32(8, 8) * np.float32(1.01)}),
        net([node("MatMul", "x w", "h"), node("Relu", "h", "y")], opset=16),
        net(
            [node("MatMul", "x w", "h"), node("Dropout", "h r t", "d"), node("Relu", "d", "y")],
            {"r": np.float32(0.5), "t": np.bool_(True)},
        ),
    ],
)
def test_another_operator_order_weight_version_or_training_does(other):
    assert not same(PLAIN, other) and not same(other, PLAIN)


def test_attributes_and_the_number_of_outputs_are_part_of_an_expression():
    def leaky(alpha):
        return net([node("LeakyRelu", "x", "y", alpha=alpha)])

    def split(outputs):
        return model([node("Split", "x", outputs, axis=1)], X, [("a", T.FLOAT, None)], {})

    assert same(leaky(0.1), leaky(0.1)) and not same(leaky(0.1), leaky(0.2))
    assert same(split("a b"), split("a c")) and not same(split("a b"), split("a b c d"))


def test_operands_that_are_equal_are_told_from_operands_that_are_not():
    """x - x is another expression than x - relu(x), though both have the same operators."""
    first = net([node("Relu", "x", "r"), node("Sub", "x x", "y")])
    assert same(first, net([node("Sub", "x x", "y")]))
    assert not same(first, net([node("Relu", "x", "r"), node("Sub", "x r", "y")]))
    assert not same(net([node("Sub", "x w", "y")]), net([node("Sub", "w x", "y")]))


def test_repeated_nodes_are_one_unless_they_draw():
    twice = net([node("Relu", "x", "a"), node("Relu", "x", "b"), node("Add", "a b", "y")])
    assert same(twice, net([node("Relu", "x", "a"), node("Add", "a a", "y")]))
    shape = {"shape": [1, 8]}
    drawn = [node("RandomNormal", "", "a", **shape), node("RandomNormal", "", "b", **shape)]
    two = net([*drawn, node("Sub", "a b", "d"), node("Add", "x d", "y")])
    one = net([drawn[0], node("Sub", "a a", "d"), node("Add", "x d", "y")])
    assert same(two, two) and not same(two, one)


def _branches(inside: str, other: str, captured: str = "x"):
    def branch(name, op):
        out = [helper.make_tensor_value_info(name, T.FLOAT, None)]
        return helper.make_graph([helper.make_node(op, [captured], [name])], name, [], out)

    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch("t", inside), else_branch=branch("e", other))
    nodes = [node("Neg", "x", "n"), node("ReduceSum", "x", "s", keepdims=0), node("Cast", "s", "c", to=T.BOOL), chosen]
    return net(nodes)


def test_nested_graphs_are_compared_with_what_they_capture():
    assert same(_branches("Relu", "Abs"), _branches("Relu", "Abs"))
    assert not same(_branches("Relu", "Abs"), _branches("Abs", "Relu"))
    assert not same(_branches("Relu", "Abs"), _branches("Relu", "Abs", "n"))


def test_functions_are_compared_by_their_body():
    def calling(op):
        made = net([helper.make_node("f", ["x"], ["y"], domain="mine")])
        made.opset_import.append(helper.make_opsetid("mine", 1))
        body = helper.make_node(op, ["a"], ["b"])
        made.functions.append(helper.make_function("mine", "f", ["a"], ["b"], [body], [helper.make_opsetid("", 17)]))
        return made

    assert same(calling("Relu"), calling("Relu")) and not same(calling("Relu"), calling("Abs"))


def test_outputs_keep_their_places_and_defaults_their_values():
    two = [("a", T.FLOAT, None), ("b", T.FLOAT, None)]
    straight = model([node("Relu", "x", "a"), node("Abs", "x", "b")], X, two)
    crossed = model([node("Relu", "x", "b"), node("Abs", "x", "a")], X, two)
    assert not same(straight, crossed)

    def default(value):
        made = net([node("Add", "x d", "y")], {"d": np.float32(value)})
        made.graph.input.append(helper.make_tensor_value_info("d", T.FLOAT, []))
        return made

    assert same(default(1), default(1)) and not same(default(1), default(2))
    assert not same(default(1), net([node("Add", "x d", "y")], {"d": np.float32(1)}))


def _wide(weight, opset=17, nodes=None):
    made = model(
        nodes or [node("MatMul", "x w", "h"), node("Dropout", "h", "d"), node("Relu", "d", "y")],
        [("x", T.FLOAT, ["N", 512])], [("y", T.FLOAT, ["N", 640])], {"w": weight},
    )  # fmt: skip
    made.opset_import[0].version = opset
    return made


def test_large_weights_are_lent_once_and_told_apart():
    weight = f32(512, 640)
    pool = WeightPool()
    a, b = (open_runnable(_wide(weight)).with_weights_lent(pool) for _ in range(2))
    assert a.lent["w"] is b.lent["w"] and a.proto.ByteSize() < 2000
    assert np.array_equal(a.lent["w"], weight) and with_lent(a.proto, a.lent) == _wide(weight)
    other = weight.copy()
    other[311, 77] *= np.float32(1.01)
    assert same(_wide(weight), _wide(weight)) and not same(_wide(weight), _wide(other))


def test_what_is_the_same_by_structure_is_loaded_and_run_but_not_compared(monkeypatch):
    import graphopt.equivalence as equivalence

    def compared(*_, **__):
        raise AssertionError("a comparison of samples was run")

    monkeypatch.setattr(equivalence, "compare", compared)
    for wide in (_wide(f32(512, 640)), net([node("Identity", "x", "h"), node("Relu", "h", "y")])):
        result = graphopt.optimize(wide)
        assert (result.report.status, result.report.reason) == ("equal", SAME_COMPUTATION)
        assert result.report.after.nodes < result.report.before.nodes


def test_an_emission_that_does_not_load_is_not_accepted_by_structure(monkeypatch):
    import graphopt.equivalence.comparison as comparison

    monkeypatch.setattr(comparison, "runs", lambda *_: False)
    result = graphopt.optimize(net([node("Identity", "x", "h"), node("Relu", "h", "y")]))
    assert result.report.comparison is not None and result.report.comparison.samples == 4


def test_a_pass_that_changes_a_weight_is_compared_and_rolled_back():
    def spoil(graph, context):
        for used in graph.snapshot():
            if used.op == "MatMul" and context.commit("spoil", used):
                array = used.inputs[1].constant.array() * np.float32(1.05)
                graph.set_input(used, 1, Value(name="bent", constant=Constant.of(array)))
                return 1
        return 0

    result = graphopt.optimize(_wide(f32(512, 640)), passes=["drop-identities", Pass("spoil", spoil)])
    assert [item.what for item in result.report.rolled_back] == ["spoil"]
    assert result.report.status == "equal" and result.report.reason.startswith(SAME_COMPUTATION)
    assert "Dropout" not in [n.op_type for n in result.model.graph.node]


def test_large_weights_serve_all_sessions_of_a_comparison():
    """Power overrides lent weights: it is measured as before."""
    weight = f32(512, 640, scale=0.05)
    found = graphopt.compare(_wide(weight), _wide(weight))
    assert found.status == "equal" and found.power is not None and found.perturbations >= 8 and found.power > 0.5
    bent = graphopt.compare(_wide(weight), _wide(weight * np.float32(1.001)))
    assert bent.status == "different"


def test_a_result_is_written_as_it_was_checked(tmp_path):
    result = graphopt.optimize(cnn(), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == result.model
    result.save(tmp_path / "apart.onnx", external=True)
    assert onnx.load(tmp_path / "apart.onnx").graph.node == result.model.graph.node


@zoo.parametrize("silero-default", "romanizer-arabic-decoder", "magika")
def test_real_models_equal_themselves_lifted_and_emitted(name):
    path = zoo.path(name)
    emitted = graphopt.onnx_io.to_proto(graphopt.onnx_io.load(path))
    assert same(path, emitted)
