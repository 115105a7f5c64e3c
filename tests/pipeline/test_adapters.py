"""Passes of onnx_ir and rules of onnxscript run in place, by explicit schedule and from the registry."""

import onnx_ir
import onnx_ir.passes.common as common
import pytest
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

import graphopt
from graphopt.ir import verify
from graphopt.pipeline import Registry, current
from tests.test_optimize import conv_bn_model


def relu_twice(op, x):
    return op.Relu(op.Relu(x))


def relu_once(op, x):
    return op.Relu(x)


def doubled():
    model = conv_bn_model()
    relu = model.graph.node[2]
    model.graph.node.insert(3, type(relu).FromString(relu.SerializeToString()))
    model.graph.node[3].input[0], model.graph.node[3].output[0] = relu.output[0], "again"
    model.graph.node[3].name = "relu_again"
    model.graph.node[4].input[0] = "again"
    return model


def test_onnx_ir_pass_runs_in_an_explicit_schedule():
    result = graphopt.optimize(doubled(), passes=[common.RemoveUnusedNodesPass(), "fold-batchnorm"])
    assert result.report.status == "equal"
    assert [e.name for e in result.report.effects] == ["RemoveUnusedNodesPass", "fold-batchnorm"]
    assert result.report.after.operators == {"Relu": 4, "Conv": 3}


@pytest.mark.parametrize("as_set", [False, True])
def test_onnxscript_rule_rewrites_and_keeps_histories(as_set):
    rule = RewriteRule(relu_twice, relu_once, name="merge_relu")
    result = graphopt.optimize(doubled(), passes=[RewriteRuleSet([rule]) if as_set else rule])
    assert result.report.status == "equal"
    assert result.report.after.operators["Relu"] == 3
    assert result.report.effects[0].changes == 1
    verify(result.ir)
    assert next(iter(result.ir.graph)).origins == ("conv0",)


def test_a_wrong_foreign_pass_is_taken_back():
    class Ruin(onnx_ir.passes.InPlacePass):
        def call(self, model):
            for node in model.graph:
                if node.op_type == "BatchNormalization":
                    node.attributes["epsilon"] = onnx_ir.AttrFloat32("epsilon", 0.5)
            return onnx_ir.passes.PassResult(model, True)

    result = graphopt.optimize(conv_bn_model(), passes=[Ruin(), "fold-batchnorm"])
    assert [t.what for t in result.report.rolled_back] == ["Ruin"]
    assert result.report.status == "equal"
    assert result.report.after.operators == {"Conv": 3, "Relu": 3}


def test_a_foreign_pass_can_be_registered_at_a_place():
    with Registry():
        graphopt.register_pass(RewriteRule(relu_twice, relu_once, name="merge_relu"), before="fold-batchnorm")
        names = [p.name for p in current().schedule()]
        assert names.index("merge_relu") == names.index("fold-batchnorm") - 1
        assert graphopt.optimize(doubled()).report.after.operators == {"Conv": 3, "Relu": 3}


def test_what_is_no_pass_is_refused_in_one_line():
    with pytest.raises(graphopt.OptionError, match="is not a pass"):
        graphopt.optimize(conv_bn_model(), passes=[lambda graph: 0])
