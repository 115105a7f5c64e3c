"""Where the time goes: onnxruntime's operators with the nodes that they compute, of two models side by side."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.bench import beside, profile_models
from graphopt.equivalence import synthesise
from graphopt.measure import kernel_times
from graphopt.provenance import read
from tests.test_cli import ROOT
from tests.test_optimize import conv_bn_model

MODELS = ROOT / "models"


def profiled(*paths):
    models = [onnx_io.load(path) for path in paths]
    return models, kernel_times(models, synthesise(paths[0], 1)[0], runs=3)


@pytest.mark.parametrize("name", ["fashion_cnn", "transformer_block", "fashion_qdq"])
def test_every_node_that_costs_belongs_to_one_operator(name):
    (model,), (kernels,) = profiled(MODELS / f"{name}.onnx")
    assert kernels and all(kernel.seconds > 0 for kernel in kernels)
    owned = [node for kernel in kernels for node in kernel.nodes]
    assert len(owned) == len(set(owned)), "a node belongs to one operator"
    heavy = [node for node in model.graph if node.op in ("Conv", "Gemm", "MatMul", "Softmax")]
    assert heavy and set(heavy) <= set(owned)
    for kernel in kernels:
        if kernel.op in ("Conv", "QLinearConv", "FusedMatMul", "MatMul"):
            assert kernel.node is not None and kernel.node in kernel.nodes and kernel.op.endswith(kernel.node.op)


def test_fused_nodes_are_told():
    (_,), (kernels,) = profiled(MODELS / "transformer_block.onnx")
    norm = next(kernel for kernel in kernels if kernel.op == "LayerNormalization")
    assert {"ReduceMean", "Sqrt", "Div"} <= {node.op for node in norm.nodes}
    gelu = next(kernel for kernel in kernels if kernel.op == "BiasGelu")
    assert "Erf" in {node.op for node in gelu.nodes}


def test_names_of_the_model_stay_as_they_are():
    (model,), _ = profiled(MODELS / "fashion_cnn.onnx")
    assert not any(node.name.startswith("n0_") for node in model.graph)


def test_nested_nodes_count_once():
    x = onnx.helper.make_tensor_value_info("x", 1, [2])
    y = onnx.helper.make_tensor_value_info("y", 1, [2])
    flag = onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])

    def body(op):
        out = onnx.helper.make_tensor_value_info("r", 1, [2])
        nodes = [onnx.helper.make_node(op, [given], [made], name=op + given) for given, made in ("xs", "sr")]
        return onnx.helper.make_graph(nodes, op, [], [out])

    def model(condition, *first):
        branch = onnx.helper.make_node("If", [condition], ["z"], then_branch=body("Exp"), else_branch=body("Abs"))
        nodes = [*first, branch, onnx.helper.make_node("Neg", ["z"], ["y"], name="neg")]
        graph = onnx.helper.make_graph(nodes, "g", [flag, x], [y])
        opset = [onnx.helper.make_opsetid("", 17)]
        return onnx_io.load(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))

    feeds = {"flag": np.array(True), "x": np.ones(2, np.float32)}
    (kernels,) = kernel_times([model("flag")], feeds, runs=3)
    assert sorted(kernel.op for kernel in kernels) == ["If", "Neg"]
    (apart,) = kernel_times([model("flag")], feeds, runs=3, nested=True)
    assert sorted(kernel.op for kernel in apart) == ["Exp", "Exp", "If", "Neg"]
    assert {kernel.node.op for kernel in apart} == {"Exp", "If", "Neg"} and all(k.seconds >= 0 for k in apart)
    known = onnx.helper.make_node("Constant", [], ["yes"], value_int=1)
    lifted = onnx.helper.make_node("Cast", ["yes"], ["known"], to=onnx.TensorProto.BOOL)
    (kernels,) = kernel_times([model("known", known, lifted)], feeds, runs=3)  # onnxruntime takes the branch in
    assert "Neg" in {kernel.op for kernel in kernels} and "If" not in {kernel.op for kernel in kernels}


def test_two_models_stand_side_by_side(tmp_path):
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(conv_bn_model(), before)
    graphopt.optimize(before, after, provenance=True, validate=False)
    models, (ours, theirs) = profiled(before, after)
    for origins in (read(after, models[1].metadata), None):
        rows = beside(ours, theirs, origins)
        assert sum(len(a) for a, _ in rows) == len(ours) and sum(len(b) for _, b in rows) == len(theirs)
        pairs = [(a[0].op, b[0].op) for a, b in rows if a and b and "Conv" in b[0].op]
        assert pairs == [("Conv", "Conv")] * 3, rows


def test_tables(tmp_path):
    from rich.console import Console

    def shown(*paths):
        console = Console(width=300)
        with console.capture() as capture:
            for table in profile_models(paths, inputs=None).tables():
                console.print(table)
        return capture.get()

    onnx.save(conv_bn_model(), tmp_path / "a.onnx")
    alone = shown(tmp_path / "a.onnx")
    assert ("runs as" in alone and "c0" in alone) or "conv0" in alone
    both = shown(tmp_path / "a.onnx", tmp_path / "a.onnx")
    assert "in all" in both and both.count("1.00×") + both.count("×") > 3
