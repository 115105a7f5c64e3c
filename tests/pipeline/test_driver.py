"""The driver: order, roll-back by bisection, passes that fail, registries."""

import numpy as np
import pytest

from graphopt.ir import Constant, DType, Graph, Model, Node, TensorType, Value, verify
from graphopt.pipeline import Pass, Registry, Verdict, as_pass, graph_pass, register_pass, rule_pass, run
from graphopt.rewrite import any_value, constant, op, rule

F32 = TensorType(DType.FLOAT, (4,))


def adds(count: int) -> Model:
    x = Value(F32, "x")
    graph = Graph("adds", [x])
    value = x
    for i in range(count):
        node = graph.append(Node("Add", [value, Value(constant=Constant.of(np.float32(i)))], {}, [F32], name=f"add{i}"))
        node.origins = (f"add{i}",)
        value = node.output
    graph.set_outputs([value])
    return Model(graph, {"": 17})


def total(model: Model) -> float:
    return sum(float(n.constant(1).array()) * (1 if n.op == "Add" else -1) for n in model.graph)


@rule(op.Add(any_value("x"), constant("c", equals=0)))
def drop_zero(build, x):
    """x + 0 = x"""
    return x


@rule(op.Add(any_value("x"), constant("c", equals=7)))
def drop_seven(build, x):
    """x + 7 = x, which is wrong"""
    return x


def same_total(original: Model):
    wanted = total(original)

    def check(candidate: Model) -> Verdict:
        got = total(candidate)
        return Verdict(got == wanted, f"total is {got}, not {wanted}", abs(got - wanted))

    return check


def test_guilty_rule_is_found_and_taken_back():
    model = adds(10)
    schedule = [rule_pass("clean", drop_zero, drop_seven)]
    outcome = run(model, schedule, check=same_total(model))
    assert outcome.verdict.ok
    assert [(t.what, t.rewrite, t.nodes) for t in outcome.rolled_back] == [("clean", "drop_seven", ("add7",))]
    assert len(outcome.model.graph) == 9
    assert len(model.graph) == 10
    verify(outcome.model)


def test_whole_graph_pass_is_taken_back_whole():
    model = adds(5)

    @graph_pass("ruin")
    def ruin(graph):
        last = graph.outputs[0].producer
        graph.set_outputs([last.inputs[0]])
        return graph.erase_unused(last)

    outcome = run(model, [rule_pass("clean", drop_zero), ruin], check=same_total(model))
    assert [t.what for t in outcome.rolled_back] == ["ruin"]
    assert [e.name for e in outcome.effects] == ["clean"]
    assert len(outcome.model.graph) == 4


def drop_all(graph, commit):
    """Drop every Add of a constant; only `drop_zero` would be right."""
    changes = 0
    for node in graph:
        if commit(node):
            graph.replace_uses(node.output, node.inputs[0])
            changes += graph.erase_unused(node)
    return changes


def test_pass_without_context_is_one_rewrite():
    @graph_pass("without")
    def without(graph):
        return drop_all(graph, lambda node: True)

    model = adds(3)
    assert [(effect.name, effect.changes) for effect in run(model, [without]).effects] == [("without", 3)]
    assert run(model, [without]).log.entries == [("without", "without", ())]
    outcome = run(model, [without], check=same_total(model))
    assert [(r.what, r.rewrite) for r in outcome.rolled_back] == [("without", "without")]
    assert len(outcome.model.graph) == 3


def test_pass_with_context_commits_each_rewrite():
    @graph_pass("within")
    def within(graph, context):
        assert context.target == "onnxruntime"
        return drop_all(graph, lambda node: context.commit(f"drop {node.name}", node))

    model = adds(3)
    outcome = run(model, [within], target="onnxruntime", check=same_total(model))
    assert [(r.rewrite, r.nodes) for r in outcome.rolled_back] == [("drop add1", ("add1",)), ("drop add2", ("add2",))]
    assert [node.name for node in outcome.model.graph] == ["add1", "add2"]
    assert outcome.log.entries == [("within", "drop add0", ("add0",))]


def test_pass_that_raises_is_left_out_and_named():
    model = adds(3)

    @graph_pass("boom")
    def boom(graph):
        graph.set_outputs([graph.inputs[0]])
        raise RuntimeError("no")

    outcome = run(model, [boom, rule_pass("clean", drop_zero)])
    assert [t.what for t in outcome.rolled_back] == ["boom"]
    assert "RuntimeError: no" in outcome.rolled_back[0].reason
    assert len(outcome.model.graph) == 2


def test_pass_that_breaks_the_graph_is_left_out():
    model = adds(3)

    @graph_pass("tear")
    def tear(graph):
        node = next(iter(graph))
        node.inputs = (None, None)
        return 1

    outcome = run(model, [tear])
    assert "use" in outcome.rolled_back[0].reason
    verify(outcome.model)


def test_each_policy_records_errors_and_still_takes_back():
    model = adds(10)
    outcome = run(
        model, [rule_pass("clean", drop_zero), rule_pass("bad", drop_seven)], check=same_total(model), policy="each"
    )
    assert [t.what for t in outcome.rolled_back] == ["bad"]
    assert outcome.effects[0].error == 0


def test_scoped_registry_places_passes_and_forgets_them():
    def nothing(graph):
        return 0

    with Registry() as registry:
        register_pass("one")(nothing)
        register_pass("three", after="one")(nothing)
        register_pass("two", before="three")(nothing)
        names = [p.name for p in registry.schedule()]
        assert names[-3:] == ["one", "two", "three"]
        with pytest.raises(ValueError, match="already registered"):
            register_pass("one")(nothing)
        with pytest.raises(ValueError, match="not registered"):
            register_pass("four", after="nowhere")(nothing)
        with Registry() as inner:
            assert "one" in inner
            assert [p.name for p in inner.schedule()][-3:] == ["one", "two", "three"]
    with Registry() as registry:
        assert "one" not in registry


def test_as_pass_takes_passes_and_rules_only():
    assert as_pass(drop_zero).name == "drop-zero"
    assert isinstance(as_pass(rule_pass("p", drop_zero)), Pass)
    with pytest.raises(TypeError, match="int is not a pass"):
        as_pass(3)
