"""Transposed convolutions, most of fewer than 8 bits: rows and patches, codes by output channel, and refits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import graphopt
from graphopt.compress.layers.linear import linear_of
from graphopt.errors import Declined
from graphopt.measure import ort_session
from graphopt.onnx_io import load
from tests.quantize.nets import images, parse

FREE = {"min_sqnr": -np.inf, "min_top1": 0.0, "activation_type": "uint8"}


def decoder(opset: int = 21) -> onnx.ModelProto:
    """A convolution, then transposed ones: dense with strides, in two groups, and one channel a group."""
    rng = np.random.default_rng(3)
    shapes = {"a": (8, 3, 3, 3), "b": (8, 6, 3, 3), "c": (6, 4, 2, 3), "d": (8, 1, 3, 3)}
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[2:]) * 4)).astype(np.float32) for n, s in shapes.items()}
    bias = (rng.standard_normal(8) / 4).astype(np.float32)
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N,3,16,16] x) => (float[N,8,H,W] y)
    <float[8,3,3,3] a, float[8,6,3,3] b, float[6,4,2,3] c, float[8,1,3,3] d, float[8] e> {{
        p = Conv<pads=[1,1,1,1]>(x, a) q = Relu(p)
        r = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,0]>(q, b) s = Relu(r)
        t = ConvTranspose<group=2, dilations=[2,1]>(s, c, e) u = Relu(t)
        y = ConvTranspose<group=8, strides=[1,2]>(u, d)
    }}"""
    return parse(text, **weights, e=bias)


def outputs(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = ort_session(model.SerializeToString(), options={"session.x64quantprecision": "1"})
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def made(opset: int = 21, **options: object) -> graphopt.Result:
    quantize = graphopt.Quantize("static", **{**FREE, **options})
    return graphopt.optimize(decoder(opset), calibration=images(16), quantize=quantize, validate=False)


def test_rows_times_patches_are_the_results() -> None:
    model = load(decoder())
    assert sum(node.op == "ConvTranspose" for node in model.graph) == 3
    for number, node in enumerate(n for n in model.graph if n.op == "ConvTranspose"):
        linear = linear_of(node)
        assert linear.is_scattered == (number == 1)
        assert np.array_equal(linear.stored(linear.rows()), linear.weight)
        channels = linear.weight.shape[0]
        x = np.random.default_rng(number).standard_normal((2, channels, 5, 4)).astype(np.float32)
        single = onnx.helper.make_model(
            onnx.helper.make_graph(
                [onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], **dict(node.attrs))], "g",
                [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
                [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [onnx.numpy_helper.from_array(linear.weight, "w")],
            ), opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10,
        )  # fmt: skip
        y = ort_session(single.SerializeToString()).run(None, {"x": x})[0]
        patches = linear.patches(x, 10**6, np.random.default_rng(0))  # all positions, in order
        found = np.matmul(patches, linear.rows().transpose(0, 2, 1)).transpose(1, 0, 2).reshape(patches.shape[1], -1)
        assert np.allclose(found, y.transpose(0, 2, 3, 1).reshape(len(found), -1), atol=1e-5)


@pytest.mark.parametrize(("bits", "activations"), [(4, "uint8"), (4, "uint4"), (3, "uint8"), (2, "uint8")])
def test_a_refit_is_closer_on_fresh_inputs_and_every_layer_has_few_bits(bits: int, activations: str) -> None:
    fresh = images(8, seed=7)
    wanted = outputs(decoder(), fresh)
    found = {}
    for rounding in (False, "refit"):
        result = made(weight_type=f"int{bits}", rounding=rounding, activation_type=activations)
        assert [row[3] for row in result.report.stages[0].rows] == [bits] * 4
        y = outputs(result.model, fresh)
        found[rounding] = 10 * np.log10(np.square(wanted).sum() / np.square(y - wanted).sum())
    assert found["refit"] > found[False] + 1


def test_codes_have_a_scale_for_each_output_channel_in_either_spelling() -> None:
    packed, plain = made(21, weight_type="int4").model, made(17, weight_type="int4").model
    constants = {t.name: t for t in packed.graph.initializer}
    reads = [n for n in packed.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    weights = [n for n in reads if constants[n.input[0]].data_type == TensorProto.INT4]
    axes = [next((a.i for a in n.attribute if a.name == "axis"), None) for n in weights]
    assert [(*constants[n.input[1]].dims, axis) for n, axis in zip(weights, axes)] == [(8, 0), (6, 1), (8, 0), (8, 0)]
    assert np.array_equal(outputs(packed, images(4, seed=2)), outputs(plain, images(4, seed=2)))


def test_learned_rounding_leaves_grouped_layers_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.quantize.refit.learned.STEPS", 5)
    assert [row[3] for row in made(weight_type="int4", rounding="learned").report.stages[0].rows] == [4] * 4


def test_what_stays_float_is_told() -> None:
    assert {reason for _, reason in made(weight_type="int8").report.stages[0].refused} == {"a transposed convolution"}
    for text, reason in (('auto_pad="SAME_UPPER"', "pads follow from sizes"), ("output_shape=[6,6]", "pads follow")):
        model = parse(f"""<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,4,3,3] x) => (float[1,2,H,W] y) <float[4,2,3,3] w> {{ y = ConvTranspose<{text}>(x, w) }}""")
        with pytest.raises(Declined, match=reason):
            linear_of(next(iter(load(model).graph)))


def test_eight_bits_are_for_kernels_which_have_the_dense_ones() -> None:
    """The dense one is an integer layer for graphopt; groups and dilation have no kernel, onnxruntime has for none."""
    feeds = images(6)
    options, found = graphopt.Quantize("static", speed=False, min_sqnr=-np.inf, min_top1=0.0), {}
    for target in ("graphopt", "portable"):
        result = graphopt.optimize(decoder(), calibration=feeds, quantize=options, target=target)
        (stage,) = result.report.stages
        assert ("r", "a transposed convolution") in stage.refused or target == "graphopt"
        found[target] = {layer.name: layer.runs_on for layer in stage.layers}
        if target == "graphopt":
            want, got = outputs(decoder(), feeds), outputs(result.model, feeds)
            assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 25
            region = graphopt.Session(result.model, 1, kernels=True).describe().parts[0]
            assert region.where == "kernels" and region.operators["ConvTranspose"] == 1
    assert found == {"graphopt": {"p": "int8", "r": "int8"}, "portable": {"p": "int8"}}
