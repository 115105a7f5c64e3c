"""Gradients through If, Loop, Scan and recurrent layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt.errors import ModelError
from graphopt.gradient import Trainer, gradient_model
from tests.test_conformance import cases, run

from .checking import check, session

RECURRENT = ("lstm", "gru_", "simple_rnn", "rnn_seq")
NEAR = 3e-2
"""Relative error of central differences in single precision with step 1e-2: 1e-7 of rounding over the step, of sums."""


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')


IF = """g (float[3, 4] x, float[4, 4] w, bool c) => (float[3, 4] y) {
    h = MatMul(x, w)
    y = If(c) <
        then_branch = a () => (float[3, 4] p) { p0 = Mul(h, x) p = Tanh(p0) },
        else_branch = b () => (float[3, 4] q) { q = Sin(h) }
    >
}"""
LOOP = """g (float[3, 4] x, float[4, 4] w, int64 n) => (float[3, 4] y, float[k, 3, 4] all) {
    t = Constant<value = bool {1}>()
    y, all = Loop(n, t, x) <
        body = b (int64 i, bool go, float[3, 4] s) => (bool more, float[3, 4] after, float[3, 4] row) {
            more = Identity(go)
            f = Cast<to = 1>(i)
            h = MatMul(s, w)
            u = Tanh(h)
            after = Add(u, x)
            row = Mul(u, f)
        }
    >
}"""
SCAN = """g (float[4] s0, float[3, 5, 4] x, float[4, 4] w) => (float[4] s, float[4, 5, 3] y) {
    s, y = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1], scan_output_axes = [1],
                scan_output_directions = [1],
        body = b (float[4] before, float[3, 4] slice) => (float[4] after, float[4, 3] row) {
            h = MatMul(slice, w)
            m = ReduceMean<keepdims = 0>(h, zero)
            c = Sin(before)
            after = Add(c, m)
            u = Mul(h, before)
            row = Transpose<perm = [1, 0]>(u)
        }
    >(s0, x)
}"""


def constants(proto: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    for name, value in values.items():
        for given in [i for i in proto.graph.input if i.name == name]:
            proto.graph.input.remove(given)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return proto


@pytest.mark.parametrize("condition", [False, True])
def test_the_branch_that_runs(condition: bool) -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((3, 4)).astype(np.float32), "w": rng.standard_normal((4, 4)).astype(np.float32)}
    worst = check(constants(model(IF), c=condition), feeds)
    assert worst.differences < 1e-6
    assert worst.single < 1e-5


def test_an_attention_without_its_mask_in_a_branch() -> None:
    proto = parser.parse_model("""<ir_version: 11, opset_import: ["" : 23]>
g (float[1, 2, 3, 4] q, float[1, 2, 3, 4] k, float[1, 2, 2, 4] past, bool c) => (float[1, 2, 3, 4] y) {
    y = If(c) <
        then_branch = a () => (float[1, 2, 3, 4] p) { p, keys, values = Attention(q, k, k, , past, past) },
        else_branch = b () => (float[1, 2, 3, 4] r) { r = Identity(q) }
    >
}""")
    rng, shapes = np.random.default_rng(0), {"q": (1, 2, 3, 4), "k": (1, 2, 3, 4), "past": (1, 2, 2, 4)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    proto = constants(proto, c=True)
    cotangent = rng.standard_normal((1, 2, 3, 4)).astype(np.float32)
    plain, gradient = session(proto), session(gradient_model(proto, list(feeds)))
    slopes = gradient.run([f"{name}.gradient" for name in feeds], {**feeds, "y.cotangent": cotangent})
    for name, slope in zip(feeds, slopes):
        assert np.abs(slope).max() > 0.1 and near(plain, feeds, name, slope, [cotangent]) < NEAR, name


def test_a_loop_and_what_its_body_reads() -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((3, 4)).astype(np.float32), "w": rng.standard_normal((4, 4)).astype(np.float32)}
    worst = check(constants(model(LOOP), n=np.int64(4)), feeds)
    assert worst.differences < 1e-6
    assert worst.single < 1e-5
    held = constants(constants(model(LOOP), n=np.int64(4)), w=feeds["w"])  # a constant that only the body reads
    assert check(held, {"x": feeds["x"]}, ["w"]).differences < 1e-6
    inside = gradient_model(held, ["w", "x"])
    found = session(inside).run(None, {"x": feeds["x"], "y.cotangent": np.ones((3, 4), np.float32),
                                       "all.cotangent": np.zeros((4, 3, 4), np.float32)})  # fmt: skip
    assert np.abs(found[2]).max() > 0.1


def test_a_scan_backwards_along_other_axes() -> None:
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("s0", 4), ("x", (3, 5, 4)), ("w", (4, 4)))}
    proto = constants(model(SCAN), zero=np.array([0]))
    plain, gradient = session(proto), session(gradient_model(proto))
    g = {"s.cotangent": rng.standard_normal(4), "y.cotangent": rng.standard_normal((4, 5, 3))}
    cotangents = {n: v.astype(np.float32) for n, v in g.items()}
    found = dict(zip(("s0", "x", "w"), gradient.run([f"{n}.gradient" for n in feeds], {**feeds, **cotangents})))
    for name, slope in found.items():
        assert near(plain, feeds, name, slope, list(cotangents.values())) < NEAR


def near(plain: Any, feeds: dict[str, Any], name: str, slope: Any, cotangents: list[Any]) -> float:
    """How far ⟨slope, d⟩ is from a central difference in single precision, relative to the size of the slope."""
    assert slope.shape == feeds[name].shape
    d = slope / max(1e-6, float(np.sqrt((slope**2).sum())))
    ends = []
    for sign in (1, -1):
        results = plain.run(None, {**feeds, name: (feeds[name] + np.float32(sign * 1e-2) * d).astype(np.float32)})
        ends.append(sum(float((y.astype(np.float64) * c).sum()) for y, c in zip(results, cotangents)))
    return abs((ends[0] - ends[1]) / 2e-2 - float((slope * d).sum())) / max(1e-2, float(np.abs((slope * d).sum())))


def test_recurrent_layers() -> None:
    rng, seen = np.random.default_rng(0), 0
    for name, proto, data in cases():
        if not any(f"test_{part}" in name for part in RECURRENT) or run(proto, data[:1]) is None:
            continue
        feeds = dict(zip((i.name for i in proto.graph.input), data[0]))
        floats = [n for n, v in feeds.items() if v.dtype == np.float32]
        feeds.update({n: feeds[n] + (0.05 * rng.standard_normal(feeds[n].shape)).astype(np.float32) for n in floats})
        plain, gradient = session(proto), session(gradient_model(proto, floats))
        results = plain.run(None, feeds)
        cotangents = [rng.standard_normal(y.shape).astype(np.float32) for y in results]
        given = {f"{o.name}.cotangent": c for o, c in zip(proto.graph.output, cotangents)}
        slopes = gradient.run([f"{n}.gradient" for n in floats], {**feeds, **given})
        for n, slope in zip(floats, slopes):
            assert near(plain, feeds, n, slope, cotangents) < NEAR, (name, n)
        seen += 1
    assert seen >= 14


def test_a_recurrent_layer_is_trained() -> None:
    proto = next(m for name, m, _ in cases() if name.endswith("test_lstm_with_peepholes"))
    rng = np.random.default_rng(0)
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for given in list(copy.graph.input)[1:]:
        shape = [d.dim_value for d in given.type.tensor_type.shape.dim]
        kind = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
        value = np.full(shape, 1) if kind == np.int32 else 0.3 * rng.standard_normal(shape)
        constants(copy, **{given.name: value.astype(kind)})
    trainer = Trainer(copy, ["W", "R", "B"])
    x = [d.dim_value for d in copy.graph.input[0].type.tensor_type.shape.dim]
    y = [d.dim_value for d in copy.graph.output[0].type.tensor_type.shape.dim]
    batch = {"X": rng.standard_normal(x).astype(np.float32), "Y_h.target": np.full(y, 0.3, np.float32)}
    losses = trainer.fit([batch] * 10, 0.05)
    assert losses[-1] < 0.5 * losses[0]


def test_a_loop_that_carries_a_growing_tensor_is_refused() -> None:
    text = """g (float[1] x, int64 n) => (float[k] y) {
        t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <
            body = b (int64 i, bool go, float[1] s) => (bool more, float[2] after) {
                more = Identity(go) after = Concat<axis = 0>(s, x)
            }
        >
    }"""
    with pytest.raises(ModelError, match="no gradient of Loop 'y': a Loop that carries a tensor whose shape changes"):
        gradient_model(constants(model(text), n=np.int64(1)))
