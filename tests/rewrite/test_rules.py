"""Patterns, rules and the worklist, on graphs written by hand."""

import numpy as np
import pytest

from graphopt.ir import Constant, DType, Graph, Model, Node, TensorType, Value, clone_model, verify
from graphopt.rewrite import (
    Decline,
    Declined,
    Mismatch,
    any_value,
    apply_rules,
    constant,
    explain,
    match,
    op,
    rule,
    same,
)

F32 = TensorType(DType.FLOAT, ("N", 4))


def silu_model(opset: int = 17, swapped: bool = False) -> Model:
    x = Value(F32, "x")
    graph = Graph("silu", [x])
    s = graph.append(Node("Sigmoid", [x], {}, [F32], name="sig"))
    operands = [x, s.output] if swapped else [s.output, x]
    m = graph.append(Node("Mul", operands, {}, [F32], name="mul"))
    graph.set_outputs([m.output])
    model = Model(graph, {"": opset})
    for node in graph:
        node.origins = (node.name,)
    return model


@rule(op.Mul(op.Sigmoid(any_value("x")), same("x")), min_opset=24)
def fuse_silu(build, x):
    """x sigmoid(x) = swish(x)"""
    return build.Swish(x)


@pytest.mark.parametrize("swapped", [False, True])
def test_commuted_operands_match_and_provenance_is_kept(swapped):
    model = silu_model(24, swapped)
    assert apply_rules(model.graph, [fuse_silu], "fuse")["fuse_silu"] == 1
    verify(model)
    (node,) = model.graph
    assert (node.op, node.origins, node.made_by) == ("Swish", ("mul", "sig"), "fuse")
    assert node.output.type == F32


def test_rule_declines_below_its_opset():
    model = silu_model(17)
    assert not apply_rules(model.graph, [fuse_silu])
    assert len(model.graph) == 2
    assert "needs opset 24" in explain([fuse_silu], model.graph)[0].declined.reason


def test_builder_declines_what_the_opset_lacks():
    @rule(op.Mul(op.Sigmoid(any_value("x")), same("x")))
    def careless(build, x):
        return build.Swish(x)

    model = silu_model(17)
    assert not apply_rules(model.graph, [careless])
    assert explain([careless], model.graph)[0].declined.reason == "Swish is not in opset 17"


def test_inner_value_with_an_outside_user_is_refused():
    model = silu_model(24)
    graph = model.graph
    sigmoid = next(iter(graph))
    graph.set_outputs([*graph.outputs, sigmoid.output])
    assert not apply_rules(graph, [fuse_silu])
    assert "also used by" in explain([fuse_silu], graph)[0].declined.reason


def test_handler_is_told_apart_from_a_wrong_name():
    with pytest.raises(TypeError, match="binds no y"):

        @rule(op.Relu(any_value("x")))
        def wrong(build, y):
            return y


def test_chain_collapses_in_linear_work():
    x = Value(F32, "x")
    graph = Graph("chain", [x])
    value = x
    for _ in range(3000):
        value = graph.append(Node("Add", [value, Value(constant=Constant.of(np.float32(1)))], {}, [F32])).output
    graph.set_outputs([value])
    model = Model(graph, {"": 17})

    @rule(op.Add(op.Add(any_value("x"), constant("a")), constant("b")))
    def merge(build, x, a, b):
        """(x + a) + b = x + (a + b)"""
        return build.Add(x, a + b)

    assert apply_rules(graph, [merge]).total() == 2999
    verify(model)
    assert len(graph) == 1
    assert next(iter(graph)).constant(1).array() == 3000


def test_decline_with_a_reason_leaves_no_trace():
    model = silu_model()

    @rule(op.Mul(op.Sigmoid(any_value("x")), any_value("y")))
    def never(build, x, y):
        build.Add(x, y)
        return Decline("on principle")

    text = str(model)
    assert not apply_rules(model.graph, [never])
    assert str(model) == text
    assert explain([never], model.graph)[0].declined.reason == "on principle"
    verify(model)


@pytest.mark.parametrize("raises", [False, True])
def test_a_handler_returns_or_raises_its_reason(raises):
    model = silu_model()

    @rule(op.Mul(op.Sigmoid(any_value("x"), name="sigmoid"), any_value("y")))
    def never(build, x, y, sigmoid):
        declined = Declined("not this one", sigmoid)
        if raises:
            raise declined
        return declined

    assert not apply_rules(model.graph, [never])
    (tried,) = explain([never], model.graph)
    assert isinstance(tried.declined, Declined) and tried.fitted == 2
    assert (tried.declined.reason, tried.declined.place.op) == ("not this one", "Sigmoid")


def test_a_mismatch_names_its_place():
    model = silu_model()
    pattern = op.Mul(op.Sigmoid(op.Relu(any_value("x"))), any_value("y"))
    product = list(model.graph)[-1]
    miss = match(pattern, product)
    assert isinstance(miss, Mismatch) and miss.fitted == 2
    assert miss.place.op == "Sigmoid" and "not computed by Relu" in miss.reason


def test_nested_graphs_are_rewritten_and_captures_are_uses():
    x, flag = Value(F32, "x"), Value(TensorType(DType.BOOL, ()), "flag")
    graph = Graph("outer", [x, flag])
    outer = graph.append(Node("Identity", [x], {}, [F32]))
    branches = []
    for _ in range(2):
        branch = Graph("branch")
        inner = branch.append(Node("Identity", [outer.output], {}, [F32]))
        relu = branch.append(Node("Relu", [inner.output], {}, [F32]))
        branch.set_outputs([relu.output])
        branches.append(branch)
    node = graph.append(Node("If", [flag], {"then_branch": branches[0], "else_branch": branches[1]}, [F32]))
    graph.set_outputs([node.output])
    model = Model(graph, {"": 17})
    verify(model)

    @rule(op.Identity(any_value("x")))
    def drop(build, x):
        return x

    copy = clone_model(model)
    assert apply_rules(graph, [drop]).total() == 3
    verify(model)
    assert len(x.uses) == 2
    verify(copy)
    assert sum(n.op == "Identity" for n in copy.graph.walk()) == 3
    graph.set_outputs([x])
    graph.erase_unused(node)
    verify(model)
    assert len(graph) == 0
