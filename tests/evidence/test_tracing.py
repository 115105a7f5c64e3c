"""Where a rule almost matched, and the condition that failed."""

import onnx
import pytest

import graphopt
from graphopt.report.tracing import trace_rule
from tests.command import ROOT, cli
from tests.test_cli import one_line
from tests.test_optimize import conv_bn_model


def shared_conv() -> onnx.ModelProto:
    """The first block's Conv is read by a second node, so its BatchNormalization cannot move into it."""
    proto = conv_bn_model()
    proto.graph.node.append(onnx.helper.make_node("Relu", ["c0"], ["again"], name="second"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("again", onnx.TensorProto.FLOAT, None))
    return proto


def test_a_near_miss_names_the_condition_that_failed():
    found = trace_rule(shared_conv(), "fold_norm_into_conv")
    assert found.by == "fold-batchnorm" and found.fired == {"fold_norm_into_conv": 2}
    nearest = found.misses[0]
    assert (nearest.node, nearest.fitted, nearest.wanted) == ("BatchNormalization bn0", 2, 2)
    assert "also used by" in nearest.reason and nearest.place == "Relu second"


def test_a_pass_traces_all_its_rules_nearest_first():
    found = trace_rule(shared_conv(), "fold-batchnorm")
    gaps = [miss.wanted - miss.fitted for miss in found.misses]
    assert gaps == sorted(gaps) and len({miss.rule for miss in found.misses}) > 1


def test_the_attempt_that_got_furthest_tells_the_reason():
    """Either order of Mul's operands is tried; the one that reached the Sigmoid says more than the other."""
    from graphopt.rewrite import any_value, op

    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    z = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2])
    nodes = [
        onnx.helper.make_node("Tanh", ["x"], ["t"]),
        onnx.helper.make_node("Sigmoid", ["t"], ["s"]),
        onnx.helper.make_node("Mul", ["s", "x"], ["z"], name="product"),
    ]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [z]), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    with graphopt.Registry():

        @graphopt.rule(op.Mul(op.Sigmoid(op.Relu(any_value("x"))), any_value("y")))
        def never(build, x, y):
            """nothing"""
            return None

        (miss,) = trace_rule(proto, "never").misses
    assert (
        (miss.fitted, miss.wanted) == (2, 3)
        and "Tanh" in miss.reason
        and "Relu" in miss.reason
        and miss.place.startswith("Tanh")
    )


def test_on_the_command_line(tmp_path):
    onnx.save(shared_conv(), tmp_path / "m.onnx")
    done = cli("passes", tmp_path / "m.onnx", "--trace", "fold_norm_into_conv")
    assert done.returncode == 0 and "also used" in done.stdout and "fold_norm_into_conv ×2" in done.stdout
    one_line(cli("passes", tmp_path / "m.onnx", "--trace", "no_such_rule"), "no_such_rule", "fold_norm_into_conv")
    one_line(cli("passes", tmp_path / "m.onnx", "--trace", "fold-constants"), "whole graphs")
    one_line(cli("passes", "--trace", "fold_norm_into_conv"), "MODEL")


@pytest.mark.parametrize(
    ("name", "model"),
    [("fold-batchnorm", "fashion_cnn"), ("fold-affine", "transformer_block"), ("join-steps", "transformer_block")],
)
def test_a_real_model(name, model):
    found = trace_rule(ROOT / "models" / f"{model}.onnx", name)
    assert found.misses
    assert all(miss.reason and 0 <= miss.fitted <= miss.wanted and miss.wanted for miss in found.misses)
