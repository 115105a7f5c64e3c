"""Every clause of the definition of equality: a pair that must pass and one that must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto as T

import graphopt
from graphopt.equivalence import compare
from graphopt.equivalence.power import make_perturbable
from graphopt.equivalence.runnable import RunnableModel, open_runnable
from graphopt.equivalence.tapped import TappedSession
from graphopt.errors import InputError, ModelError
from graphopt.testing import assert_equivalent
from tests.equivalence.nets import cnn, dense, f32, model, node


def test_a_model_equals_itself_with_power():
    found = assert_equivalent(cnn(), cnn(), min_power=0.9)
    assert found.samples == 4
    assert {s["x"][0] for s in found.shapes} >= {1, 2, 3}


def test_a_perturbed_scale_that_resize_refuses_is_noticed():
    resize = node("Resize", "x roi scales", "y", mode="linear")
    weights = {"roi": f32(0), "scales": np.array([1, 1, 2, 2], np.float32)}
    net = model([resize], [("x", T.FLOAT, ["N", 3, "H", "W"])], [("y", T.FLOAT, None)], weights)
    comparison = compare(net, net)
    assert comparison.status == "equal" and comparison.power == 1.0


def test_a_wrong_batchnorm_epsilon_is_noticed():
    assert compare(cnn(), cnn(1e-1), power=False).status == "different"


@pytest.mark.parametrize(("factor", "status"), [(1 + 1e-6, "equal"), (1 + 1e-3, "different")])
def test_error_is_held_against_the_largest_output(factor: float, status: str):
    assert compare(dense("Neg"), dense("Neg", weight=f32(8, 6) * np.float32(factor)), power=False).status == status


def test_rtol_is_the_callers():
    b = dense("Neg", weight=f32(8, 6) * np.float32(1.001))
    assert compare(dense("Neg"), b, rtol=1e-2, power=False).status == "equal"


def chaotic(weight: float) -> onnx.ModelProto:
    """sin(1e6 x): one ulp of the input decides the result."""
    nodes = [node("Mul", "x k", "h"), node("Sin", "h", "s"), node("Mul", "s w", "y")]
    return model(
        nodes, [("x", T.FLOAT, ["N", 64])], [("y", T.FLOAT, ["N", 64])],
        {"k": np.float32(1e6), "w": np.full(64, weight, np.float32)},
    )  # fmt: skip


def test_noise_makes_an_output_unverified_never_equal():
    found = compare(chaotic(1.0), chaotic(1.0))
    assert found.status == "unverified"
    assert "noise" in found.reason


def test_an_error_far_beyond_the_noise_is_different():
    assert compare(chaotic(1.0), chaotic(1e3), power=False).status == "different"


def log(offset: float) -> onnx.ModelProto:
    nodes = [node("Add", "x offset", "h"), node("Log", "h", "y")]
    return model(nodes, [("x", T.FLOAT, [4])], [("y", T.FLOAT, [4])], {"offset": np.float32(offset)})


def test_nan_and_inf_must_stand_at_the_same_positions():
    feeds = {"x": np.array([-1, 0, 1, 2], np.float32)}
    assert compare(log(0), log(0), feeds, power=False).status == "equal"
    moved = compare(log(0), log(0.5), {"x": np.array([-0.2, 1, 2, 3], np.float32)}, power=False)
    assert moved.status == "different"
    assert "NaN" in moved.reason


def saturating(scale: float) -> onnx.ModelProto:
    """sigmoid(50 + s x w): every output is 1, whatever s."""
    nodes = [
        node("MatMul", "x w", "h"), node("Mul", "h s", "m"), node("Add", "m fifty", "z"), node("Sigmoid", "z", "y"),
    ]  # fmt: skip
    return model(
        nodes, [("x", T.FLOAT, ["N", 8])], [("y", T.FLOAT, ["N", 6])],
        {"w": f32(8, 6), "s": np.float32(scale), "fifty": np.float32(50)},
    )  # fmt: skip


def test_inner_values_show_what_a_saturated_output_hides():
    blind = compare(saturating(1.0), saturating(1.1), intermediates=False)
    assert blind.status == "equal"
    assert blind.power == 0.0
    seeing = compare(saturating(1.0), saturating(1.1))
    assert seeing.status == "different"
    assert "inner value" in seeing.reason
    assert_equivalent(saturating(1.0), saturating(1.0), min_power=0.5)


def test_a_name_that_a_fused_operator_took_over_is_not_compared():
    nodes = [node("MatMul", "x w", "h"), node("Mul", "h two", "d"), node("Relu", "d", "y")]
    ports = [("x", T.FLOAT, ["N", 8])], [("y", T.FLOAT, ["N", 6])]
    a = model(nodes, *ports, {"w": f32(8, 6), "two": np.float32(2)})
    b = model([node("MatMul", "x w", "h"), node("Relu", "h", "y")], *ports, {"w": 2 * f32(8, 6)})
    assert compare(a, b, power=False).status == "equal"


def quantized(weight: np.ndarray) -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"), node("DequantizeLinear", "xq sx zx", "xd"),
        node("DequantizeLinear", "wq sw zw", "wd"), node("MatMul", "xd wd", "y"),
    ]  # fmt: skip
    return model(
        nodes, [("x", T.FLOAT, ["N", 8])], [("y", T.FLOAT, ["N", 6])],
        {"sx": np.float32(0.03), "zx": np.uint8(128), "sw": np.float32(0.01), "zw": np.int8(0), "wq": weight},
    )  # fmt: skip


def test_quantized_arithmetic_is_compared_without_optimizations():
    weight = np.random.default_rng(0).integers(-128, 128, (8, 6)).astype(np.int8)
    other = weight.copy()
    other[0, 0] ^= 8
    assert_equivalent(quantized(weight), quantized(weight), min_power=0.9)
    assert compare(quantized(weight), quantized(other), power=False).status == "different"


def test_float16_is_judged_by_its_own_epsilon():
    def half(factor: float) -> onnx.ModelProto:
        nodes = [node("MatMul", "x w", "y")]
        w = (f32(8, 6) * factor).astype(np.float16)
        return model(nodes, [("x", T.FLOAT16, ["N", 8])], [("y", T.FLOAT16, ["N", 6])], {"w": w})

    assert compare(half(1.0), half(1.0005), power=False).status == "equal"
    assert compare(half(1.0), half(1.02), power=False).status == "different"


def test_bfloat16_outputs_are_read():
    nodes = [node("MatMul", "x w", "h"), node("Cast", "h", "y", to=T.BFLOAT16)]
    ports = [("x", T.FLOAT, ["N", 8])], [("y", T.BFLOAT16, ["N", 6])]
    a = model(nodes, *ports, {"w": f32(8, 6)})
    b = model(nodes, *ports, {"w": f32(8, 6) * 2})
    assert compare(a, a).status == "equal"
    assert compare(a, b).status == "different"


@pytest.mark.parametrize("b", [
    model([node("Neg", "x", "z")], [("x", T.FLOAT, [2])], [("z", T.FLOAT, [2])]),
    model([node("Neg", "x", "y")], [("x", T.DOUBLE, [2])], [("y", T.DOUBLE, [2])]),
    model([node("Neg", "x", "y")], [("x", T.FLOAT, [2, 1])], [("y", T.FLOAT, [2, 1])]),
    model([node("Neg", "x", "y")], [("x", T.FLOAT, [3])], [("y", T.FLOAT, [3])]),
])  # fmt: skip
def test_another_interface_is_different(b: onnx.ModelProto):
    a = model([node("Neg", "x", "y")], [("x", T.FLOAT, [2])], [("y", T.FLOAT, [2])])
    found = compare(a, b)
    assert found.status == "different"
    assert "became" in found.reason


def unknown() -> onnx.ModelProto:
    proto = model([node("Mystery", "x", "y")], [("x", T.FLOAT, [2])], [("y", T.FLOAT, [2])])
    proto.graph.node[0].domain = "nowhere"
    proto.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    return proto


def test_what_cannot_run_is_unverified_and_says_why():
    found = compare(unknown(), unknown())
    assert found.status == "unverified"
    assert "Mystery" in found.reason
    assert "\n" not in found.reason


def test_a_candidate_that_fails_where_the_original_runs_is_different():
    a = model([node("Neg", "x", "y")], [("x", T.FLOAT, [2])], [("y", T.FLOAT, [2])])
    assert compare(a, unknown()).status == "different"


def test_no_feeds_found_is_unverified():
    nodes = [node("Reshape", "x shape", "y")]
    a = model(nodes, [("x", T.FLOAT, [5])], [("y", T.FLOAT, None)], {"shape": np.array([7])})
    found = compare(a, a)
    assert found.status == "unverified"


def test_min_sqnr_judges_lossy_candidates():
    b = dense("Neg", weight=f32(8, 6) + f32(8, 6, seed=5, scale=0.01))
    assert compare(dense("Neg"), b, min_sqnr=30, power=False).status == "equal"
    assert compare(dense("Neg"), b, min_sqnr=60, power=False).status == "different"


def test_forms_of_given_inputs(tmp_path: Path):
    a, x = dense("Neg"), f32(3, 8)
    np.savez(tmp_path / "x.npz", x=x)
    np.save(tmp_path / "x.npy", x)
    for inputs in ({"x": x}, [{"x": x}], iter([{"x": x}]), tmp_path / "x.npz", str(tmp_path / "x.npy")):
        found = compare(a, a, inputs, power=False)
        assert (found.status, found.samples, found.shapes[0]["x"]) == ("equal", 1, (3, 8))
    assert compare(a, a, {"x": f32(5, 3, 8)}, power=False).samples == 5


@pytest.mark.parametrize("inputs", [
    {"z": f32(3, 8)}, {"x": f32(3, 7)}, {"x": f32(8)}, {"x": np.zeros((3, 8), np.int64)}, [], [1], 3, "nowhere.npz",
])  # fmt: skip
def test_unfit_inputs_are_told_in_one_line(inputs: object):
    with pytest.raises(InputError) as caught:
        compare(dense("Neg"), dense("Neg"), inputs)
    assert "\n" not in str(caught.value)


def test_forms_of_models_and_bad_files(tmp_path: Path):
    import onnx_ir

    proto = dense("Neg")
    onnx.save(proto, tmp_path / "m.onnx")
    forms = (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), proto.SerializeToString(), onnx_ir.from_proto(proto))
    for form in forms:
        assert compare(proto, form, power=False)
    (tmp_path / "text.onnx").write_text("no model at all")
    for bad in (tmp_path, tmp_path / "none.onnx", tmp_path / "text.onnx", b"", 3):
        with pytest.raises(ModelError) as caught:
            compare(proto, bad)
        assert "\n" not in str(caught.value)


def test_external_weights_are_read_where_they_lie(tmp_path: Path):
    proto = cnn()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert_equivalent(cnn(), tmp_path / "m.onnx")
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert_equivalent(tmp_path / "m.onnx", bare, min_power=0.9)


def test_the_models_are_left_alone():
    a = cnn()
    before = a.SerializeToString()
    compare(a, a)
    assert a.SerializeToString() == before


def test_the_same_seed_gives_the_same_answer():
    first, second = (compare(cnn(), cnn(), seed=5).to_dict() for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_assert_equivalent_tells_what_differs():
    with pytest.raises(AssertionError, match="output y: error"):
        assert_equivalent(cnn(), cnn(1e-1))
    with pytest.raises(AssertionError, match="power"):
        assert_equivalent(saturating(1.0), saturating(1.0), min_power=0.9, intermediates=False)


def test_what_runs_only_without_optimizations_is_compared_there(monkeypatch: pytest.MonkeyPatch):
    """An optimizer that fails on Neg, when it loads the model or when it runs it."""
    a, b = dense("Neg"), dense("Neg", weight=f32(8, 6) * np.float32(1.01))
    session, run = RunnableModel.session, TappedSession.run
    optimized, fails = [], {"load": True}

    def load(self: RunnableModel, *, optimize: bool, **options: object) -> TappedSession:
        breaks = optimize and any(n.op_type == "Neg" for n in self.proto.graph.node)
        if breaks and fails["load"]:
            raise ModelError("no kernel for what the optimizer made")
        opened = session(self, optimize=optimize, **options)
        optimized.extend([opened] * breaks)
        return opened

    def start(self: TappedSession, *args: object, **options: object) -> dict[str, object]:
        if self in optimized:
            raise ModelError("the optimizer's kernel fails")
        return run(self, *args, **options)

    monkeypatch.setattr(RunnableModel, "session", load)
    monkeypatch.setattr(TappedSession, "run", start)
    for at in (True, False):
        fails["load"] = at
        for inputs in (None, {"x": f32(3, 8)}):
            assert compare(a, a, inputs).status == "equal"
            assert compare(a, b, inputs, power=False).status == "different"
        assert compare(dense("Relu"), a, power=False).status == "different"
    assert optimized


def shared_weight(scale: float = 0.1) -> onnx.ModelProto:
    """A lone DequantizeLinear without zero point feeds a Conv and another operator."""
    nodes = [node("DequantizeLinear", "codes s", "k"), node("Conv", "x k", "c"), node("Relu", "k", "z")]
    codes = np.random.default_rng(0).integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    outputs = [("c", T.FLOAT, None), ("z", T.FLOAT, None)]
    return model(nodes, [("x", T.FLOAT, [1, 3, 8, 8])], outputs, {"s": np.float32(scale), "codes": codes})


def test_models_that_precise_products_cannot_load_are_compared_as_they_are():
    assert compare(shared_weight(), shared_weight()).status == "equal"
    assert compare(shared_weight(), shared_weight(0.11), power=False).status == "different"


def test_an_infinite_sqnr_is_never_a_reason():
    zero = dense("Neg", weight=np.zeros((8, 6), np.float32))
    found = compare(zero, dense("Neg"), min_sqnr=20, power=False)
    assert found.status == "different"
    assert "inf dB" not in found.reason


@pytest.mark.parametrize("declared", [T.FLOAT, T.BFLOAT16])
def test_an_ill_typed_model_is_not_equal(declared: int):
    """A product of bfloat16 that says it gives float."""
    nodes = [node("Cast", "x", "b", to=T.BFLOAT16), node("Neg", "b", "y")]
    net = model(nodes, [("x", T.FLOAT, [4])], [("y", declared, [4])])
    net.graph.value_info.append(onnx.helper.make_tensor_value_info("b", T.FLOAT, [4]))
    assert compare(net, net).status == "unverified"


def test_a_scale_without_zero_point_that_two_read_is_judged_all_the_same():
    """onnxruntime cannot load it with session.x64quantprecision, by which products are judged."""
    rng = np.random.default_rng(0)
    codes = onnx.numpy_helper.from_array(rng.integers(-90, 90, (4, 3, 1, 1)).astype(np.int8), "codes")
    scale = onnx.numpy_helper.from_array(np.float32(0.02), "scale")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 5, 5])
    outs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("y", "z")]

    def net(first: str) -> onnx.ModelProto:
        nodes = [
            onnx.helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"]),
            onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
            onnx.helper.make_node(first, ["c"], ["y"]),
            onnx.helper.make_node("Neg", ["w"], ["z"]),
        ]
        graph = onnx.helper.make_graph(nodes, "g", [x], outs, [codes, scale])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)

    for optimized in (True, False):
        session = open_runnable(net("Relu")).session(optimize=optimized, strict=True)
        assert {"y", "z"} == set(session.run({"x": np.ones((1, 3, 5, 5), np.float32)}))
    comparison = compare(net("Relu"), net("Relu"))
    assert comparison.status == "equal", comparison.reason
    assert compare(net("Relu"), net("Abs")).status == "different"
    assert graphopt.optimize(net("Relu")).report.status == "equal"


def test_power_is_a_lower_bound_where_time_is_short(monkeypatch):
    """Perturbations that the first sample hides count as unnoticed once the time is spent, and the report says so."""
    from graphopt.equivalence import reference

    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> m (float[N,4] x) => (float[N,4] y)
        <float[4] a = {1, 2, 3, 4}> { p = Mul(x, a)
          y = Relu(p) }""")
    feeds = [{"x": -np.ones((1, 4), np.float32)}, {"x": np.ones((1, 4), np.float32)}]
    whole = compare(model, model, feeds, intermediates=False)
    assert (whole.power, whole.is_power_least) == (1.0, False)
    monkeypatch.setattr(reference, "_POWER_SECONDS", -1.0)
    quick = compare(model, model, feeds, intermediates=False)
    assert (quick.power, quick.is_power_least) == (0.0, True)
    assert "power: at least 0% of 8" in str(quick)


def test_packed_weights_are_not_perturbed():
    """MatMulNBits multiplies otherwise where its weights are no constants: a model would differ from itself."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 255, (32, 2, 16)).astype(np.uint8)
    scale = rng.uniform(0.01, 0.1, (32, 2)).astype(np.float32)
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[N, 64] x) => (float[N, 32] y) {
        h = Mul(x, t)
        y = com.microsoft.MatMulNBits<K = 64, N = 32, bits = 4, block_size = 32, accuracy_level = 4>(h, c, s) }"""
    )
    for name, array in (("c", codes), ("s", scale), ("t", rng.uniform(0.5, 2, 64).astype(np.float32))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    perturbable = make_perturbable(open_runnable(proto), 8)
    assert perturbable is not None and [weight.name for weight in perturbable.weights] == ["t"]
    assert graphopt.compare(proto, proto).status == "equal"


def stored_products(factors: tuple[float, ...], change: int = 0) -> onnx.ModelProto:
    """A product of 4-bit weights that rounds its input to 8 bits, behind others by numbers; `change` of a code."""
    rng = np.random.default_rng(0)
    weights = {f"k{i}": np.float32(factor) for i, factor in enumerate(factors)}
    nodes = [node("Mul", f"{'x' if i == 0 else f'f{i}'} k{i}", f"f{i + 1}") for i in range(len(factors))]
    codes = rng.integers(0, 256, (64, 2, 16)).astype(np.uint8)
    codes[3, 0, 0] ^= change
    weights |= {"c": codes, "s": np.full((64, 2), 0.03, np.float32)}
    sizes = {"K": 64, "N": 64, "bits": 4, "block_size": 32, "accuracy_level": 4}
    product = onnx.helper.make_node(
        "MatMulNBits", [f"f{len(factors)}", "c", "s"], ["y"], domain="com.microsoft", **sizes
    )
    nodes.append(product)
    made = model(nodes, [("x", T.FLOAT, ["N", 64])], [("y", T.FLOAT, ["N", 64])], weights)
    made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return made


def test_products_that_round_their_inputs_are_compared_without(monkeypatch: pytest.MonkeyPatch):
    """0.3 (0.7 x) and 0.21 x differ by an ulp: on which side of half a step a number lies then differs, too."""
    x = (np.arange(64) + 0.5)[None].astype(np.float32)
    x[0, ::32] = 127
    a, b = stored_products((0.7, 0.3)), stored_products((float(np.float32(0.7) * np.float32(0.3)),))
    assert compare(a, b, {"x": x}, power=False).status == "equal"
    assert compare(a, stored_products((0.7, 0.3), change=4), {"x": x}, power=False).status == "different"
    monkeypatch.setattr(RunnableModel, "with_unrounded_products", lambda self: self)
    assert compare(a, b, {"x": x}, power=False).status != "equal"
