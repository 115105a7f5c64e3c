"""From a wrong result to the rewrite that made it, and to a few nodes that show it."""

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.ir import to_text
from graphopt.pipeline import graph_pass, rule_pass, run_pass
from graphopt.pipeline.shrink import extract, name_values, neighbours, shrink
from graphopt.rewrite import any_value, constant, op, rule
from tests.generators import chain, external_model
from tests.passes.harness import lift


@rule(op.Mul(any_value("x"), op.Sigmoid(any_value("x"))))
def swish_by_tanh(build, x):
    """x sigmoid(x) = x tanh(x), which is wrong"""
    return build.Mul(x, build.Tanh(x))


@rule(op.Add(any_value("x"), constant("c", equals=1e-5)))
def forget_epsilon(build, x):
    """x + 1e-5 = x, which is wrong where x is small"""
    return x


WRONG = rule_pass("wrong-swish", swish_by_tanh)


def test_the_guilty_rewrite_is_named_and_shown_in_few_nodes():
    model = chain(150)
    found = graphopt.bisect(model, passes=["drop-identities", WRONG, "fold-batchnorm"])
    assert [(f.guilty, f.rewrite) for f in found.findings] == [("wrong-swish", "swish_by_tanh")]
    repro = found.findings[0].repro
    assert repro.nodes == 2
    assert found.report.status == "equal"
    fixed = graphopt.optimize(repro.model, passes=[WRONG], validate=False).model
    assert graphopt.compare(repro.model, repro.model, list(repro.feeds)).status == "equal"
    assert graphopt.compare(repro.model, fixed, list(repro.feeds)).status == "different"


def test_a_pass_that_raises_is_shown_too():
    @graph_pass("trips-on-softmax")
    def trips(graph):
        for node in graph.walk():
            if node.op == "Tanh":
                raise ValueError("no Tanh, please")

    found = graphopt.bisect(chain(90), passes=[trips])
    (finding,) = found.findings
    assert (finding.guilty, finding.rewrite) == ("trips-on-softmax", "")
    assert "no Tanh" in finding.reason
    assert [n.op_type for n in finding.repro.model.graph.node] == ["Tanh"]


def test_all_is_well():
    found = graphopt.bisect(chain(60))
    assert not found and found.report.status == "equal"


def test_take_back_leaves_repros(tmp_path):
    result = graphopt.optimize(chain(60), passes=[WRONG, "drop-identities"], repros=tmp_path)
    (taken,) = result.report.rolled_back
    assert taken.repro == str(tmp_path / "01-wrong-swish.onnx")
    model = onnx.load(taken.repro)
    data = dict(np.load(tmp_path / "01-wrong-swish.npz"))
    assert len(model.graph.node) == 2 and {v.name for v in model.graph.input} == set(data)


def test_pieces_keep_names_and_results():
    model = lift("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(a) c = Tanh(b) y = Add(c, a) }")
    name_values(model)
    nodes = {n.op: n for n in model.graph}
    piece = extract(model, [nodes["Neg"], nodes["Tanh"]])
    assert to_text(piece.graph) == (
        "graph g(%a: f32[N,4]) {\n  %b = Neg(%a) : f32[N,4]\n  %c = Tanh(%b) : f32[N,4]\n  return %c\n}\n"
    )
    assert [n.op for n in neighbours(model, [nodes["Neg"]], 1)] == ["Relu", "Neg", "Tanh"]


def test_captures_of_nested_graphs_become_inputs():
    model = lift(
        "g (float[2] x, bool c) => (float[2] y) { h = Relu(x) t = If(c) <then_branch = a () => (float[2] p) "
        "{ p = Neg(h) }, else_branch = b () => (float[2] q) { q = Identity(h) }> y = Tanh(t) }"
    )
    name_values(model)
    piece = extract(model, [n for n in model.graph if n.op == "If"])
    assert [v.name for v in piece.graph.inputs] == ["c", "h"]
    onnx.checker.check_model(onnx_io.to_proto(piece))


@pytest.mark.parametrize("wanted", [{"Tanh"}, {"Relu", "Tanh"}, {"Conv", "Erf"}])
def test_shrinking_is_minimal(wanted):
    model = onnx_io.load(chain(100))
    name_values(model)
    present = {n.op for n in model.graph} & wanted
    small = shrink(model, lambda piece: present <= {n.op for n in piece.graph})
    assert sorted(n.op for n in small.graph) == sorted(present)


def test_repro_of_a_rule_that_needs_its_surroundings():
    found = graphopt.bisect(chain(60), passes=[rule_pass("forget", forget_epsilon)])
    for finding in found.findings:
        assert finding.repro.nodes <= 10
    assert run_pass(onnx_io.load(chain(60)), rule_pass("forget", forget_epsilon)).changes == 2


def test_command_line(tmp_path):
    from typer.testing import CliRunner

    from graphopt.cli import app

    onnx.save(chain(60), tmp_path / "m.onnx")
    runner = CliRunner()
    with graphopt.Registry():
        graphopt.register_pass(WRONG, before="drop-identities")
        done = runner.invoke(app, ["bisect", str(tmp_path / "m.onnx"), "--repros", str(tmp_path / "r")])
    assert done.exit_code == 1, done.output
    assert "guilty wrong-swish (swish_by_tanh)" in done.output and "repro of 2 nodes" in done.output
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["01-wrong-swish.npz", "01-wrong-swish.onnx"]
    done = runner.invoke(app, ["bisect", str(tmp_path / "m.onnx")])
    assert done.exit_code == 0 and "no rewrite is guilty" in done.output


def test_a_result_that_cannot_be_written_is_taken_back():
    @graph_pass("misname")
    def misname(graph, context):
        for node in graph:
            if node.op == "Tanh" and context.commit("misname-tanh", node):
                node.output.name = ["no", "text"]
                return 1

    result = graphopt.optimize(chain(60), passes=[misname, "drop-identities"])
    assert [t.rewrite for t in result.report.rolled_back] == ["misname-tanh"]
    assert "cannot be written" in result.report.rolled_back[0].reason


def test_weights_outside_of_the_file_come_into_the_repro(tmp_path):
    path = external_model(tmp_path / "big.onnx", gigabytes=0.002, side=128)

    @rule(op.MatMul(any_value("x"), constant("w")))
    def lose_a_sign(build, x, w):
        """x w = -x w, which is wrong"""
        return build.MatMul(build.Neg(x), w) if x.producer is None else None

    found = graphopt.bisect(path, passes=[rule_pass("lose-sign", lose_a_sign)])
    (finding,) = found.findings
    repro = onnx.load(finding.repro.save(tmp_path / "elsewhere" / "r"))
    assert [n.op_type for n in repro.graph.node] == ["MatMul"]
    assert repro.graph.initializer[0].raw_data and not repro.graph.initializer[0].external_data
