"""`graphopt.optimize` end to end: real models stay equal, custom passes run in place, wrong ones are rolled back."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import graphopt
from graphopt.errors import InputError
from graphopt.ir import Constant
from graphopt.rewrite import any_value, constant, op
from tests import zoo


def conv_bn_model() -> onnx.ModelProto:
    """Three Conv-BatchNormalization-Relu blocks with small variances, so that epsilon matters."""
    rng = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "x", 3
    for i in range(3):
        arrays = {
            "w": rng.uniform(0.2, 0.5, (8, channels, 3, 3)) * rng.choice([-1, 1], (8, channels, 3, 3)),
            "scale": rng.uniform(0.5, 1.5, 8),
            "bias": rng.uniform(0.5, 1, 8),
            "mean": rng.uniform(0.5, 1, 8),
            "var": rng.uniform(0.05, 0.2, 8),
        }
        weights += [numpy_helper.from_array(a.astype(np.float32), f"{k}{i}") for k, a in arrays.items()]
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1], name=f"conv{i}"))
        nodes.append(
            helper.make_node(
                "BatchNormalization",
                [f"c{i}", *(f"{k}{i}" for k in ("scale", "bias", "mean", "var"))],
                [f"b{i}"],
                epsilon=1e-5,
                name=f"bn{i}",
            )
        )
        nodes.append(helper.make_node("Relu", [f"b{i}"], [f"r{i}"], name=f"relu{i}"))
        last, channels = f"r{i}", 8
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 8, 12, 12])
    graph = helper.make_graph(nodes, "blocks", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.zoo
@zoo.parametrize()
def test_zoo_model_stays_equal(name):
    path = zoo.path(name)
    result = graphopt.optimize(path)
    report = result.report
    assert report.status == "equal", f"{report.status}: {report.reason}"
    assert not report.rolled_back, report.rolled_back
    assert report.after.nodes <= report.before.nodes
    assert report.after.file_bytes <= report.before.file_bytes * 1.01 + 4096
    onnx.checker.check_model(result.model)
    given = [zoo.feeds(name, seed=variant, variant=variant) for variant in zoo.variants(name)]
    comparison = graphopt.compare(path, result.model, given, power=False, intermediates=False)
    assert comparison.status == "equal" and comparison.samples == len(given), comparison.reason
    assert len({str(shapes) for shapes in comparison.shapes}) == len(given)  # as many input shapes


def test_same_input_gives_the_same_bytes():
    first, second = (graphopt.optimize(conv_bn_model()).model.SerializeToString() for _ in range(2))
    assert first == second


def test_optimised_twice_is_optimised_once():
    once = graphopt.optimize(conv_bn_model()).model
    twice = graphopt.optimize(once)
    assert twice.report.after.nodes == twice.report.before.nodes


def test_every_kind_of_source_gives_the_same(tmp_path):
    import onnx_ir

    proto = conv_bn_model()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    sources = (path, str(path), proto.SerializeToString(), proto, onnx_ir.from_proto(proto))
    results = {graphopt.optimize(source, validate=False).model.SerializeToString() for source in sources}
    assert len(results) == 1


def test_registered_passes_run_at_their_place():
    seen = []
    with graphopt.Registry() as registry:

        @graphopt.register_pass("watch", after="fold-batchnorm")
        def watch(graph):
            seen.append([node.op for node in graph])
            return 0

        @graphopt.rule(op.Relu(op.Conv(any_value(), any_value(), any_value(), name="conv")), before="watch")
        def mark_conv(build, conv):
            """relu(conv) = max(conv, 0)"""
            return build.Max(conv.output, np.float32(0))

        names = [p.name for p in registry.schedule()]
        assert names.index("mark-conv") == names.index("watch") - 1
        result = graphopt.optimize(conv_bn_model())
    assert result.report.status == "equal"
    assert seen == [["Conv", "Max"] * 3]
    assert {e.name: e.changes for e in result.report.effects}["mark-conv"] == 3


@pytest.mark.parametrize("policy", ["end", "each"])
def test_wrong_rule_is_caught_named_and_taken_back(policy):
    model = conv_bn_model()
    comparison = graphopt.compare(model, model)
    assert comparison.status == "equal" and comparison.power >= 0.9
    pattern = op.BatchNormalization(
        any_value("x"), constant("scale"), constant("bias"), constant("mean"), constant("var"), name="norm"
    )
    with graphopt.Registry():

        @graphopt.rule(pattern, before="fold-constants")
        def loosen_epsilon(build, x, scale, bias, mean, var, norm):
            """epsilon 1e-5 -> 1e-1, which is wrong"""
            if norm.attrs["epsilon"] > 0.01:
                return None
            return build.BatchNormalization(x, scale, bias, mean, var, epsilon=0.1)

        result = graphopt.optimize(model, check=policy)
    taken = result.report.rolled_back
    assert [(t.what, t.rewrite) for t in taken] == [("loosen-epsilon", "loosen_epsilon")]
    assert taken[0].nodes == ("bn0",)
    assert result.report.status == "equal"
    assert graphopt.compare(model, result.model).status == "equal"
    assert result.report.after.operators == {"Conv": 3, "Relu": 3}


def test_a_result_that_is_the_original_again_is_equal_whatever_was_rolled_back():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) {y = Sigmoid(x)}'
    )
    for policy in ("end", "each"):
        with graphopt.Registry():

            @graphopt.rule(op.Sigmoid(any_value("x")))
            def straighten(build, x):
                """sigmoid(x) = tanh(x), which is wrong"""
                return build.Tanh(x)

            report = graphopt.optimize(model, check=policy).report
        assert [t.rewrite for t in report.rolled_back] == ["straighten"]
        assert (report.status, report.reason) == ("equal", "nothing was changed: all was rolled back")
        assert not report.is_unverified and report.comparison is None


WIDE = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y)
<float low = {-1e6}, float high = {1e6}> { c = Clip(x, low, high) y = Abs(c) }"""


def test_given_samples_validate_exact_passes_beside_made_up_ones():
    """The wrong rule shows only beyond a million, where no made-up input lies, but the caller's do."""
    model, usual = parser.parse_model(WIDE), np.random.default_rng(0).standard_normal((6, 1, 4)).astype(np.float32)
    for samples, rolled_back in ((None, []), (usual, []), (usual * np.float32(1e7), ["loosen"])):
        with graphopt.Registry():

            @graphopt.rule(op.Abs(op.Clip(any_value("x"), any_value(), any_value())))
            def loosen(build, x):
                """|clip(x)| = |x|, which is wrong"""
                return build.Abs(x)

            data = None if samples is None else [{"x": sample} for sample in samples]
            report = graphopt.optimize(model, calibration=data).report
        assert [t.rewrite for t in report.rolled_back] == rolled_back and report.status == "equal"
        if not rolled_back:
            assert report.reason.startswith("on 4 samples, " if data is None else "on 4 samples and on 4 given, ")


def test_samples_that_do_not_fit_are_told_where_nothing_is_lossy():
    with pytest.raises(InputError, match="z"):
        graphopt.optimize(parser.parse_model(WIDE), calibration=[{"z": np.zeros((1, 4), np.float32)}])


def test_a_large_weight_that_would_overflow_is_not_scaled():
    proto = conv_bn_model()
    huge = {"w2": np.full((8192, 8, 3, 3), 1e30), "var2": np.full(8192, 1e-30)}
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("2"):
            old = numpy_helper.to_array(tensor)
            new = huge.get(tensor.name, np.resize(old, (8192, *old.shape[1:]))).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    proto.graph.node[-2].attribute[0].f = 0.0
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8192
    result = graphopt.optimize(proto, validate=False)
    assert [t.rewrite for t in result.report.rolled_back] == ["fold_norm_into_conv"]
    assert "leaves the range" in result.report.rolled_back[0].reason
    assert result.report.after.operators["BatchNormalization"] == 3


def test_what_cannot_be_written_is_taken_back_unvalidated_too():
    def fail():
        raise OSError("the disk is gone")

    with graphopt.Registry():

        @graphopt.register_pass("lose-weights", after="fold-batchnorm")
        def lose_weights(graph):
            for value in [v for node in graph for v in node.inputs if v is not None and v.constant is not None]:
                value.constant = Constant(value.constant.dtype, value.constant.shape, fail)
            return 1

        result = graphopt.optimize(conv_bn_model(), validate=False)
    assert [t.what for t in result.report.rolled_back] == ["lose-weights"]
    assert "the disk is gone" in result.report.rolled_back[0].reason
    assert graphopt.compare(conv_bn_model(), result.model).status == "equal"


def test_input_shapes_specialise_the_model():
    result = graphopt.optimize(conv_bn_model(), input_shapes={"x": (2, -1, 12, None)})
    (x,) = result.model.graph.input
    assert [d.dim_value for d in x.type.tensor_type.shape.dim] == [2, 3, 12, 12]
    assert result.report.status == "equal"


def test_a_model_that_cannot_run_is_unverified_and_kept():
    proto = conv_bn_model()
    proto.graph.node.insert(0, helper.make_node("Mystery", [proto.graph.input[0].name], ["mystery"], domain="my.own"))
    proto.graph.node[1].input[0] = "mystery"
    proto.graph.node.append(helper.make_node("Mystery", ["r2"], ["z"], domain="my.own"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    proto.opset_import.append(helper.make_opsetid("my.own", 1))
    result = graphopt.optimize(proto)
    assert result.report.status == "unverified"
    assert [n.op_type for n in result.model.graph.node].count("BatchNormalization") == 3
    unchecked = graphopt.optimize(proto, validate=False)
    assert [n.op_type for n in unchecked.model.graph.node].count("BatchNormalization") == 0
    assert [n.op_type for n in unchecked.model.graph.node].count("Mystery") == 2
