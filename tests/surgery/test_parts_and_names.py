"""Edits of names and extent: the new model computes the old one's values, by onnxruntime's own runs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

import graphopt
from graphopt.errors import ModelError, OptionError, OutputError
from graphopt.surgery import NotValidated
from graphopt.surgery import edit as module_edit
from graphopt.surgery.parts import DropOutputs
from tests.surgery.nets import X, net, ops, run

LOOP = parser.parse_model("""
<ir_version: 8, opset_import: ["": 17]>
g (float[N] x, bool go, int64 n) => (float[N] y, float[N] z)
{
    t = Neg(x)
    u = Exp(x)
    y = Loop(n, go, t) <body = b (int64 i, bool c, float[N] a) => (bool d, float[N] e) {
        d = Identity(c)
        inner = Mul(a, u)
        e = Tanh(inner)
    }>
    z = Abs(t)
}
""")


def test_inputs_and_outputs_get_other_names():
    edited = graphopt.edit(net(), rename={"x": "image", "scores": "r"})
    assert edited.status == "equal"
    ours, theirs = run(edited.model, {"image": X}), run(net(), {"x": X})
    assert list(ours) == ["mean", "r"]
    np.testing.assert_array_equal(ours["r"], theirs["scores"])
    swapped = graphopt.edit(net(), rename={"mean": "scores", "scores": "mean"}).model
    np.testing.assert_array_equal(run(swapped, {"x": X})["mean"], theirs["scores"])


def test_an_input_that_is_returned_keeps_one_name():
    model = net()
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8]))
    edited = graphopt.edit(model, rename={"x": "image"})
    np.testing.assert_array_equal(run(edited.model, {"image": X})["image"], X)


@pytest.mark.parametrize(
    ("names", "words"),
    [({"scores": "mean"}, "twice"), ({"imag": "z"}, "no input or output"), ({"score": "z"}, "did you mean scores"),
     ({"x": ""}, "empty"), ({"x": "scores"}, "twice")],
)  # fmt: skip
def test_bad_names_are_refused(names, words):
    with pytest.raises(OptionError, match=words):
        graphopt.edit(net(), rename=names)


def test_an_output_goes_with_the_nodes_that_only_it_needs():
    edited = graphopt.edit(net(), drop_outputs=["sco*"])
    assert ops(edited.model) == ["Conv", "Relu", "ReduceMean"] and edited.status == "equal"
    np.testing.assert_array_equal(run(edited.model, {"x": X})["mean"], run(net(), {"x": X})["mean"])
    with pytest.raises(OptionError, match="no output would be left"):
        graphopt.edit(net(), drop_outputs=["*"])
    with pytest.raises(OptionError, match=r"no output 'presnt\.\*'"):
        graphopt.edit(net(), drop_outputs=["presnt.*"])


def test_a_part_between_inner_values_computes_the_same_values():
    edited = graphopt.edit(net(), inputs=["c"], outputs=["mean"])
    assert ops(edited.model) == ["Relu", "ReduceMean"] and edited.status == "equal"
    c = np.random.default_rng(2).standard_normal((1, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(edited.model, {"c": c})["mean"], np.maximum(c, 0).mean((2, 3)), rtol=1e-5)
    assert not edited.model.graph.initializer


def test_a_part_is_compared_on_the_callers_own_inputs_and_then_renamed():
    edited = graphopt.edit(net(), inputs=["r"], outputs=["scores"], rename={"r": "features"}, feeds={"x": X})
    assert [c.status for c in edited.comparisons] == ["equal", "equal"]
    assert edited.comparisons[1].shapes == ({"features": (2, 4, 8, 8)},)
    r = np.random.default_rng(2).random((1, 4, 8, 8), np.float32)
    m = onnx.numpy_helper.to_array(net().graph.initializer[1])
    np.testing.assert_allclose(run(edited.model, {"features": r})["scores"], r.mean((2, 3)) @ m, rtol=1e-5, atol=1e-5)


def test_inputs_that_a_part_does_not_need_go():
    edited = graphopt.edit(LOOP, outputs=["z"])
    assert [i.name for i in edited.model.graph.input] == ["x"] and ops(edited.model) == ["Neg", "Abs"]


def test_what_a_loop_captures_becomes_an_input():
    edited = graphopt.edit(LOOP, inputs=["t", "u", "go", "n"], outputs=["y"])
    assert ops(edited.model) == ["Loop"] and edited.status == "equal"
    feeds = {"t": np.ones(3, np.float32), "u": np.full(3, 0.5, np.float32)}
    y = run(edited.model, {**feeds, "go": np.array(True), "n": np.array(2)})["y"]
    np.testing.assert_allclose(y, np.tanh(np.tanh(0.5) * 0.5) * np.ones(3), rtol=1e-6)
    with pytest.raises(OptionError, match="also reads the input 'x'"):
        graphopt.edit(LOOP, inputs=["t", "go", "n"], outputs=["y"])
    with pytest.raises(OptionError, match="body of an If, Loop or Scan"):
        graphopt.edit(LOOP, outputs=["inner"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [({"outputs": ["score"]}, "did you mean scores"), ({"outputs": ["w"]}, "is a constant"),
     ({"outputs": ["x"]}, "not computed"), ({"inputs": ["mean"], "outputs": ["c"]}, "none of c is computed"),
     ({"inputs": ["c"], "outputs": ["c"]}, "both"), ({"outputs": "scores"}, "a list of names")],
)  # fmt: skip
def test_parts_that_are_none_are_refused(words, reason):
    with pytest.raises(OptionError, match=reason):
        graphopt.edit(net(), **words)


def test_functions_that_nothing_calls_any_more_go():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[N] x) => (float[N] y, float[N] z) { y = own.f(x) z = own.h(x) }
    <domain: "own", opset_import: ["": 17]> f (a) => (b) { b = Relu(a) }
    <domain: "own", opset_import: ["": 17, "own": 1]> h (a) => (b) { c = own.k(a) b = Neg(c) }
    <domain: "own", opset_import: ["": 17]> k (a) => (b) { b = Exp(a) }
    """)
    assert {f.name for f in graphopt.edit(model, outputs=["z"]).model.functions} == {"h", "k"}
    assert {f.name for f in graphopt.edit(model, drop_outputs=["z"]).model.functions} == {"f"}


def test_names_texts_and_metadata_go_one_by_one():
    kept = graphopt.edit(net(), strip=["metadata"]).model
    assert not kept.metadata_props and kept.graph.node[0].doc_string == "first" and kept.graph.node[0].name == "conv"
    kept = graphopt.edit(net(), strip=["docs"]).model
    assert kept.metadata_props and not kept.graph.node[0].doc_string
    bare = graphopt.edit(net(), strip=["names"]).model
    assert not any(n.name for n in bare.graph.node)
    assert {"c", "r", "w", "conv"}.isdisjoint(str(bare).replace('"', " ").split())
    assert [o.name for o in bare.graph.output] == ["mean", "scores"]
    with pytest.raises(OptionError, match="did you mean names"):
        graphopt.edit(net(), strip=["name"])


def test_bodies_lose_their_names_too():
    bare = graphopt.edit(LOOP, strip=["names"])
    assert bare.status == "equal" and '"inner"' not in str(bare.model)


def test_a_wrong_edit_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    apply = DropOutputs.apply

    def wrong(self, model):
        copy = apply(self, model)
        relu = next(node for node in copy.graph if node.op == "Relu")
        copy.graph.replace_uses(relu.output, relu.inputs[0])
        return copy

    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    monkeypatch.setattr(DropOutputs, "apply", wrong)
    with pytest.raises(NotValidated, match=r"^drop scores: the result is different") as caught:
        module_edit(net(), out, drop_outputs=["scores"])
    assert caught.value.comparison.status == "different" and isinstance(caught.value, ModelError)
    assert out.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [out]


def test_what_cannot_run_is_only_written_on_request(tmp_path):
    model = net()
    model.graph.node.append(helper.make_node("Mystery", ["r"], ["q"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(NotValidated, match="unverified"):
        graphopt.edit(model, tmp_path / "out.onnx", rename={"x": "image"})
    assert not (tmp_path / "out.onnx").exists()
    assert graphopt.edit(model, rename={"x": "image"}, allow_unverified=True).status == "unverified"
    assert graphopt.edit(model, tmp_path / "out.onnx", rename={"x": "image"}, validate=False).status == "not checked"


def test_the_model_itself_is_only_written_over_on_request(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(net(), path)
    before = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to(path)
    for out in (path, tmp_path / "link.onnx"):
        with pytest.raises(OutputError, match="the model itself"):
            graphopt.edit(path, out, strip=["docs"])
    assert path.read_bytes() == before
    graphopt.edit(path, path, rename={"x": "image"}, force=True)
    assert onnx.load(path).graph.input[0].name == "image"


def test_names_that_operators_would_give_may_be_there_already():
    model = net()
    for node in model.graph.node:
        node.input[:] = ["relu_1" if n == "c" else "conv_1" if n == "r" else n for n in node.input]
        node.output[:] = ["relu_1" if n == "c" else "conv_1" if n == "r" else n for n in node.output]
    assert graphopt.edit(model, strip=["names"]).status == "equal"
