"""The IR keeps its invariants: exact uses, order, scope, ownership; it prints and copies what it holds."""

import numpy as np
import pytest

from graphopt.ir import (
    Constant,
    DType,
    Graph,
    IRError,
    Model,
    Node,
    TensorType,
    Value,
    VerifyError,
    captures,
    clone_model,
    refine,
    to_text,
    verify,
)

F32 = TensorType(DType.FLOAT, ("N", 4))
FLAG = TensorType(DType.BOOL, ())


def diamond() -> tuple[Model, dict[str, Node]]:
    """x -> a -> (b, c) -> d, with a weight on c."""
    x = Value(F32, "x")
    graph = Graph("diamond", [x])
    a = graph.append(Node("Relu", [x], {}, [F32], name="a"))
    b = graph.append(Node("Neg", [a.output], {}, [F32], name="b"))
    weight = Value(constant=Constant.of(np.arange(4, dtype=np.float32)), name="w")
    c = graph.append(Node("Mul", [a.output, weight], {}, [F32], name="c"))
    d = graph.append(Node("Add", [b.output, c.output], {}, [F32], name="d"))
    graph.set_outputs([d.output])
    return Model(graph, {"": 17}), {"a": a, "b": b, "c": c, "d": d}


def nested() -> Model:
    """An If whose branches capture an outer value."""
    x, flag = Value(F32, "x"), Value(FLAG, "flag")
    graph = Graph("outer", [x, flag])
    outer = graph.append(Node("Relu", [x], {}, [F32], name="outer"))
    branches = {}
    for which, op in (("then_branch", "Neg"), ("else_branch", "Abs")):
        branch = Graph(which)
        inner = branch.append(Node(op, [outer.output], {}, [F32], name=op))
        branch.set_outputs([inner.output])
        branches[which] = branch
    node = graph.append(Node("If", [flag], branches, [F32], name="if"))
    graph.set_outputs([node.output])
    return Model(graph, {"": 17})


def test_golden_text():
    model, _ = diamond()
    assert to_text(model.graph, constants=True) == (
        "graph diamond(%x: f32[N,4]) {\n"
        "  %1 = Relu(%x) : f32[N,4]\n"
        "  %2 = Neg(%1) : f32[N,4]\n"
        "  %4 = Mul(%1, @w=f32[4](0, 1, 2, 3)) : f32[N,4]\n"
        "  %5 = Add(%2, %4) : f32[N,4]\n"
        "  return %5\n"
        "}\n"
    )


def test_golden_text_of_nested_graphs():
    assert to_text(nested().graph) == (
        "graph outer(%x: f32[N,4], %flag: b8[]) {\n"
        "  %2 = Relu(%x) : f32[N,4]\n"
        "  %3 = If(%flag) : f32[N,4]\n"
        "    else_branch() {\n"
        "      %4 = Abs(%2) : f32[N,4]\n"
        "      return %4\n"
        "    }\n"
        "    then_branch() {\n"
        "      %5 = Neg(%2) : f32[N,4]\n"
        "      return %5\n"
        "    }\n"
        "  return %3\n"
        "}\n"
    )


def test_uses_follow_every_edit():
    model, nodes = diamond()
    graph = model.graph
    assert [(u.node.name, u.slot) for u in nodes["a"].output.uses] == [("b", 0), ("c", 0)]
    graph.set_input(nodes["d"], 0, nodes["a"].output)
    verify(model)
    assert nodes["b"].output.is_unused
    assert graph.erase_unused(nodes["b"]) == 1
    graph.replace_uses(nodes["a"].output, graph.inputs[0])
    assert graph.erase_unused(nodes["a"]) == 1
    verify(model)
    assert [n.name for n in graph] == ["c", "d"]
    assert [n.name for n in graph.inputs[0].users] == ["c", "d"]
    assert not graph.inputs[0].is_result and nodes["d"].output.is_result


def test_a_node_that_was_built_and_dropped_leaves_no_trace():
    model, nodes = diamond()
    Node("Neg", [nodes["a"].output])
    assert len(nodes["a"].output.uses) == 2
    verify(model)


def test_iteration_survives_erasure_and_insertion():
    model, nodes = diamond()
    seen = []
    for node in model.graph:
        seen.append(node.name)
        if node.name == "a":
            model.graph.insert_after(node, Node("Identity", [node.output], {}, [F32], name="new"))
            model.graph.replace_uses(nodes["b"].output, nodes["a"].output)
            model.graph.erase(nodes["b"])
    assert seen == ["a", "c", "d"]
    assert [n.name for n in model.graph] == ["a", "new", "c", "d"]
    assert [n.name for n in reversed(model.graph)] == ["d", "c", "new", "a"]


def test_a_used_node_cannot_be_erased():
    model, nodes = diamond()
    with pytest.raises(IRError, match="Relu output 0 is still used by Neg"):
        model.graph.erase(nodes["a"])


def test_erasing_the_owner_frees_what_its_graphs_captured():
    model = nested()
    graph = model.graph
    relu, node = graph
    assert list(captures(node)) == [relu.output]
    assert len(relu.output.uses) == 2
    graph.set_outputs([graph.inputs[0]])
    assert graph.erase_unused(node) == 2
    verify(model)
    assert len(graph) == 0


def test_replacing_a_graph_attribute_moves_its_uses():
    model = nested()
    relu, node = model.graph
    branch = Graph("empty")
    branch.set_outputs([relu.output])
    model.graph.set_attr(node, "then_branch", branch)
    verify(model)
    assert len(relu.output.uses) == 2
    assert branch.owner is node and branch.model is model


def test_a_copy_shares_constants_and_nothing_else():
    for model in (diamond()[0], nested()):
        copy = clone_model(model)
        verify(copy)
        assert str(copy) == str(model)
        assert not set(copy.graph.walk()) & set(model.graph.walk())
        for node in copy.graph.walk():
            copy.graph.set_attr(node, "axis", 1)
        assert str(copy) != str(model)
        verify(model)


def corrupt_uses(model, nodes):
    nodes["a"].output._uses.clear()


def corrupt_inputs(model, nodes):
    nodes["d"].inputs = (nodes["b"].output, nodes["b"].output)


def corrupt_producer(model, nodes):
    nodes["c"].output.producer = nodes["a"]


def corrupt_ports(model, nodes):
    model.graph.ports = ()


def corrupt_order(model, nodes):
    model.graph.set_input(nodes["b"], 0, nodes["d"].output)


@pytest.mark.parametrize("corrupt", [corrupt_uses, corrupt_inputs, corrupt_producer, corrupt_ports, corrupt_order])
def test_the_verifier_notices(corrupt):
    model, nodes = diamond()
    verify(model)
    corrupt(model, nodes)
    with pytest.raises(VerifyError):
        verify(model)


def test_values_of_an_inner_graph_are_not_visible_outside():
    model = nested()
    _, node = model.graph
    inner = next(iter(node.subgraphs[0]))
    model.graph.set_outputs([inner.output])
    with pytest.raises(VerifyError, match="used before it is defined"):
        verify(model)


def test_types_refine_each_other():
    a, b = TensorType(DType.FLOAT, (None, "M", 3)), TensorType(DType.FLOAT, ("N", 7, 4))
    assert refine(a, b) == TensorType(DType.FLOAT, ("N", 7, 3))
    assert refine(None, a) is a and refine(a, None) is a
    assert refine(TensorType(DType.FLOAT), b) == b
    assert str(a) == "f32[?,M,3]" and a.size is None and TensorType(DType.INT4, (2, 3)).size == 6


@pytest.mark.parametrize("dtype", [t for t in DType if t not in (DType.UNDEFINED, DType.STRING)])
def test_every_element_type_has_its_numpy_form(dtype):
    assert DType.of(dtype.numpy) is dtype
    assert Constant(dtype, (3, 5), lambda: np.zeros((3, 5), dtype.numpy)).nbytes == (15 * dtype.bits + 7) // 8


def test_large_constants_are_read_when_asked_and_not_kept():
    reads = []

    def read():
        reads.append(1)
        return np.zeros(10_000, np.float32)

    constant = Constant(DType.FLOAT, (10_000,), read)
    assert constant.nbytes == 40_000 and not reads
    constant.array()
    constant.array()
    assert len(reads) == 2


def test_a_snapshot_is_the_callers_own_and_is_current_after_each_edit():
    graph = Graph(inputs=[x := Value(name="x")])
    first, second, third = (Node("Relu", [x]) for _ in range(3))
    assert graph.snapshot() == []
    graph.append(first)
    graph.append(third)
    graph.snapshot().clear()
    assert graph.snapshot() == [first, third]
    graph.insert_before(third, second)
    assert graph.snapshot() == [first, second, third]
    graph.erase(second)
    assert graph.snapshot() == [first, third]
    other = Graph()
    other.append(fourth := Node("Exp", [None]))
    graph.replace_contents(other)
    assert graph.snapshot() == [fourth]
