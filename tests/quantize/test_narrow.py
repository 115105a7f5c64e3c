"""Static integers of fewer than 8 bits: the codes taken, the grids met, and both spellings of them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import graphopt
from graphopt.errors import OptionError
from graphopt.measure import ort_session
from graphopt.passes.quantize.numerics.grids import narrow_grid
from graphopt.passes.quantize.numerics.narrow import narrow_codes
from tests.quantize.nets import convnet, images

FREE = {"min_sqnr": -np.inf, "min_top1": 0.0}
TWO = {21: TensorProto.INT4, 25: TensorProto.INT2}
"""The type of 2-bit codes by operator set."""


def at_opset(opset: int) -> onnx.ModelProto:
    """The network of the tests at an operator set, whose operators mean the same in all that are tried."""
    model = convnet()
    model.opset_import[0].version = opset
    model.ir_version = {17: 8, 21: 10, 25: 13}[opset]
    return model


def made(opset: int = 17, target: str = "portable", **options: object) -> onnx.ModelProto:
    quantize = graphopt.Quantize("static", **{**FREE, **options})
    result = graphopt.optimize(
        at_opset(opset), calibration=images(24), quantize=quantize, target=target, validate=False
    )
    stage = result.report.stages[0]
    assert {row[2] for row in stage.rows} == {"int8"}
    assert f"{quantize.weight_type} weights by {quantize.activation_type}" in stage.summary
    return result.model


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in model.graph.initializer}


def results(model: onnx.ModelProto) -> np.ndarray:
    session = ort_session(model.SerializeToString(), options={"session.x64quantprecision": "1"})
    return np.concatenate([session.run(None, feed)[0] for feed in images(8, seed=5)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_of_few_bits_are_nearly_the_best_by_brute_force(seed, bits):
    rng = np.random.default_rng(bits + 10 * seed)
    rows, mixing = rng.standard_normal((6, 3)).astype(np.float32), rng.standard_normal((3, 3))
    matrix = (mixing @ mixing.T).astype(np.float32)
    codes, scale = narrow_codes(rows, matrix, bits)
    most = (1 << (bits - 1)) - 1
    for row, code, step in zip(rows.astype(np.float64), codes.astype(np.float64), scale.astype(np.float64)):
        assert code.max() - code.min() <= 2 * most + 1 and np.abs(code).max() <= most + 1
        found = (row - step * code) @ matrix @ (row - step * code)
        least = row @ matrix @ row
        for side in (0, 1):
            grid = np.arange(side - most - 1, side + most + 1)
            tried = np.array(list(itertools.product(grid, repeat=3)), np.float64)
            above, below = tried @ matrix @ row, np.einsum("nk,kl,nl->n", tried, matrix, tried)
            gain = np.where(below > 0, above**2 / np.maximum(below, 1e-12), 0.0)
            least = min(least, float(row @ matrix @ row - gain.max()))
        assert found <= 0.12 * (row @ matrix @ row) / 4 ** (bits - 2) + 2 * least + 1e-6


def test_grids_of_four_bits_cover_the_range_and_hold_zero():
    for low, high, signed in ((0.0, 3.0, False), (-1.0, 2.0, False), (-1.0, 2.0, True), (0.5, 1.0, False)):
        grid = narrow_grid(low, high, 4, signed)
        x = np.linspace(min(low, 0), max(high, 0), 1001, dtype=np.float32)
        y = grid.rounded(x)
        assert 0 in y and len(np.unique(y)) <= 16
        assert np.abs(x - y).max() <= grid.scale * (1.01 if not signed and low < 0 else 0.51)


@pytest.mark.parametrize("opset", [21, 25])
@pytest.mark.parametrize(("weight", "activation"), [("int4", "uint4"), ("int2", "int4"), ("int3", "uint8")])
def test_packed_integers_compute_what_bytes_do(opset, weight, activation):
    bytes_, packed = (made(opset, target, weight_type=weight, activation_type=activation, rounding=False)
                      for target in ("onnxruntime", "portable"))  # fmt: skip
    onnx.checker.check_model(packed, full_check=True)
    kinds = {t.data_type for t in constants(packed).values() if len(t.dims) == 4}
    assert kinds == {TWO[opset] if weight == "int2" else TensorProto.INT4}
    assert {t.data_type for t in constants(bytes_).values() if len(t.dims) == 4} == {TensorProto.INT8}
    zeros = {constants(packed)[n.input[2]].data_type for n in packed.graph.node if n.op_type == "QuantizeLinear"}
    assert (TensorProto.UINT4 in zeros) == (activation == "uint4")
    a, b = results(bytes_), results(packed)
    assert np.abs(a - b).max() <= 2e-2 * np.abs(a).max()  # one code of 8 bits, where a tie is broken another way


@pytest.mark.parametrize("activation", ["uint4", "int4"])
def test_layers_read_sixteen_values_at_most(activation):
    model = made(activation_type=activation)
    produced = {name: node for node in model.graph.node for name in node.output}
    read = [node.input[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(read) == 5
    for name in read:
        clip = produced[produced[name].input[0]]
        assert clip.op_type == "Clip"
        low, high = (int(numpy_helper.to_array(constants(model)[n])) for n in clip.input[1:])
        assert (low, high) == ((0, 15) if activation == "uint4" else (-8, 7))


def test_few_bits_by_the_data_are_closer_than_the_nearest():
    float_results = results(convnet())
    for weight in ("int4", "int2"):
        noise = [float(np.square(results(made(weight_type=weight, **options)) - float_results).sum())
                 for options in ({}, {"rounding": False, "correct_bias": False})]  # fmt: skip
        assert noise[0] < 0.5 * noise[1]


@pytest.mark.parametrize(("options", "why"), [
    ({"mode": "dynamic", "weight_type": "int4"}, "int4 is for modes weights and static"),
    ({"mode": "dynamic", "weight_type": "int3"}, "int3 is for modes weights and static.*and 3 would take"),
    ({"mode": "dynamic", "activation_type": "uint4"}, "uint4 is for mode static"),
    ({"activation_type": "uint4", "format": "qoperator"}, "uint4 is for format qdq"),
    ({"mode": "weights", "rounding": "learned"}, "'learned' is for mode static"),
    ({"rounding": "learnt"}, "rounding 'learnt' is not True, False, 'refit' or 'learned'"),
])  # fmt: skip
def test_widths_that_cannot_be_had_are_one_clear_line(options, why):
    with pytest.raises(OptionError, match=why):
        graphopt.Quantize(**options)
