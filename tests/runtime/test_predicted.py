"""Predicted partitions: what stays in onnxruntime before anything is measured, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from graphopt.kernels.core.levels import LEVELS, available_levels
from graphopt.measure import ort_session
from graphopt.onnx_io import load
from graphopt.runtime import Session
from graphopt.runtime import session as session_module
from graphopt.runtime.compile.legality import LEGALITY
from graphopt.runtime.lower.lowering import lower
from graphopt.runtime.lower.operations import Conv, DynamicConv, MatMul
from graphopt.runtime.lower.ort_types import add_types_from_ort
from graphopt.runtime.place import assumed, cost, predicted
from graphopt.runtime.place.assumed import Shapes, assumed_shapes, shapes_for
from graphopt.runtime.place.lowered_model import LoweredModel
from graphopt.runtime.place.measured import partition_key, region_digest
from graphopt.runtime.place.partition import Partitions
from graphopt.runtime.place.rates import ONCE, OTHER, RATES, WHOLE, Cold, LevelRates
from graphopt.runtime.place.work import BORDER, FEATURES, class_of, features, region_work
from tests.bench.crossings import sliced
from tests.bench.stored import chain
from tests.runtime.forms import FORMS, feed

ONE, FREE = (1000.0, 0.0, 0.0, 0.0, 0.0), (0.0,) * 5
"""Rates: a microsecond a call, and nothing at all."""


def give(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, Any], onnxruntime: dict[str, Any]) -> None:
    """Let regions cost this on every level, and borders nothing."""
    rates = LevelRates({OTHER: FREE, **kernels}, {OTHER: FREE, **onnxruntime})
    monkeypatch.setattr(cost, "RATES", {level.name: rates for level in LEVELS})
    monkeypatch.setattr(cost, "SESSION", 0.0)
    monkeypatch.setattr(cost, "CROSSING", 0.0)
    for module in (cost, predicted):
        monkeypatch.setattr(module, "SEGMENT", 0.0)
        monkeypatch.setattr(module, "BETWEEN", Cold(0.0, 0.0))
        monkeypatch.setattr(module, "CUT", Cold(0.0, 0.0))


class Measured:
    """What was measured on this machine, as given."""

    def __init__(self, pairs: dict[str, tuple[float, float]]) -> None:
        self.pairs = pairs

    def load(self) -> dict[str, tuple[float, float]]:
        return dict(self.pairs)


def two_towers() -> bytes:
    """A product that is quantized while running, a float Sin that no kernel computes, then a convolution of codes."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-100, 100, (8, 4), np.int8), "c": rng.integers(-100, 100, (6, 3, 1, 1), np.int8),
        "s": np.float32(0.1), "z": np.uint8(128), "zi": np.int8(0), "shape": np.array([0, 3, 4, 1]),
    }  # fmt: skip
    n = helper.make_node
    nodes = [
        n("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        n("MatMulInteger", ["xq", "w", "xz"], ["i"]),
        n("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        n("Mul", ["xs", "s"], ["t"]),
        n("Mul", ["f", "t"], ["m"]),
        n("Sin", ["m"], ["sin"]),
        n("Reshape", ["sin", "shape"], ["r"]),
        n("QuantizeLinear", ["r", "s", "z"], ["q"]),
        n("DequantizeLinear", ["q", "s", "z"], ["d"]),
        n("DequantizeLinear", ["c", "s", "zi"], ["cd"]),
        n("Conv", ["d", "cd"], ["conv"]),
        n("QuantizeLinear", ["conv", "s", "z"], ["yq"]),
        n("DequantizeLinear", ["yq", "s", "z"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6, 4, 1])
    graph = helper.make_graph(
        nodes, "towers", [x], [y], [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


def kinds(session: Session) -> list[set[str]]:
    return [{type(o).__name__ for o in region.segment.operations if o.is_product} for region in session.regions]


def test_only_the_region_that_loses_stays_in_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = load(two_towers()), {"x": np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)}
    assert kinds(Session(model, 1, kernels=True)) == [{"DynamicMatMul"}, {"Conv"}]
    give(
        monkeypatch, {"DynamicMatMul": (3e3, *ONE[1:]), "Conv pointwise": ONE},
        {"MatMulInteger": (2e3, *ONE[1:]), "Conv qdq pointwise": (2e3, *ONE[1:])},
    )  # fmt: skip
    session = Session(model, 1)
    assert kinds(session) == [{"Conv"}]
    left, kept, verdict = str(session.describe()).splitlines()
    borders = "on kernels + 0 µs for cold caches + 0 µs for its borders"
    assert f"predicted 3 µs {borders} = 3 µs, against 2 µs in onnxruntime" in left
    assert f"predicted 1 µs {borders} = 1 µs, against 2 µs in onnxruntime" in kept
    assert verdict == (
        "predicted 3 µs (1 µs on kernels, 2 µs in onnxruntime, 0 µs for cold caches, 1 × 0 µs of borders), against "
        "4 µs in onnxruntime alone less 3% asked for = 3.88 µs: in parts"
    )
    assert "predicted" not in str(Session(model, 1, kernels=True).describe())
    for nanoseconds, regions in ((0.87e3, 1), (0.89e3, 0)):  # a cut of one region costs what is predicted
        monkeypatch.setattr(cost, "SESSION", nanoseconds)
        assert len(Session(model, 1).regions) == regions
    want = Session(model, 1, kernels=True).run(None, feeds)[0]
    np.testing.assert_allclose(session.run(None, feeds)[0], want, atol=0.1 + 1e-6)  # a code of scale 0.1 next to a tie


def test_a_lower_level_is_the_kernels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With GRAPHOPT_ISA=avx2 on a CPU with VNNI, BERT's products counted as slow in onnxruntime, too: 0.77 of it."""
    rates = {level.name: LevelRates({OTHER: FREE}, {OTHER: FREE}) for level in LEVELS}
    monkeypatch.setattr(cost, "RATES", rates)
    monkeypatch.setenv("GRAPHOPT_ISA", "portable")
    found = cost.Costs(load(two_towers()), {}).rates
    assert found.kernels is rates["portable"].kernels
    assert found.onnxruntime is rates[available_levels()[0].name].onnxruntime


@pytest.mark.skipif(len(available_levels()) < 2, reason="the portable kernels are this CPU's own level")
def test_a_lower_level_must_be_predicted_to_win_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """With GRAPHOPT_ISA=avx2 on a CPU with VNNI, encoders predicted to win 6 % ran at 0.8 of onnxruntime."""
    costs = {"DynamicMatMul": (3e3, *ONE[1:]), "Conv pointwise": ONE}
    give(monkeypatch, costs, dict.fromkeys(("MatMulInteger", "Conv qdq pointwise"), (2e3, *ONE[1:])))
    monkeypatch.setattr(cost, "SESSION", 0.5e3)
    model = load(two_towers())
    assert len(Session(model, 1).regions) == 1
    monkeypatch.setenv("GRAPHOPT_ISA", "portable")
    session = Session(model, 1)
    assert not session.regions and "15% asked for = 3.4 µs: whole" in str(session.describe())


@pytest.mark.parametrize(("level", "bits", "where"), [
    ("avx512vnni", 4, "in parts"), ("avx512vnni", 8, "in parts"),
    ("avx2", 4, "in parts"), ("avx2", 8, "whole in onnxruntime"),
])  # fmt: skip
def test_stored_weights_of_8_bits_need_vnni_beside_vnni(
    level: str, bits: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With GRAPHOPT_ISA=avx2 on a CPU with VNNI, a decoder with weights of 8 bits ran at 0.95 of onnxruntime."""
    model = load(chain(384, 1536, bits))
    chosen = next(one for one in LEVELS if one.name == level)
    for module in (cost, predicted):
        monkeypatch.setattr(module, "select_level", lambda: chosen)
        monkeypatch.setattr(module, "available_levels", lambda: LEVELS)
    partitions = Partitions(model.graph, lower(model.graph))
    placed = predicted.left_by_prediction(model, partitions, shapes_for(model, {"x": (24, 384)}))
    assert placed.verdict.endswith(where), placed.verdict
    assert bool(placed.left) is (where != "in parts")


def test_all_stays_where_borders_cost_more_than_regions_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, {}, {"MatMulInteger": ONE, "Conv qdq pointwise": ONE})
    model = load(two_towers())
    assert len(Session(model, 1).regions) == 2
    monkeypatch.setattr(cost, "SESSION", 1.5e3)  # of 2 µs less 5 %, 1.9 µs, a quarter of it is asked for: 1.525 µs
    assert "predicted 1.5 µs (" in str(Session(model, 1).describe()) and len(Session(model, 1).regions) == 2
    monkeypatch.setattr(cost, "SESSION", 1.6e3)
    session = Session(model, 1)
    assert not session.regions and session.covered == 0
    assert "predicted 1.6 µs (" in str(session.describe()) and "1.5 µs: whole in onnxruntime" in str(session.describe())


def test_a_region_is_split_where_an_operation_in_it_loses(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A convolution between others goes to onnxruntime alone, unless the cut costs more than it gains."""
    stock = dict.fromkeys(("Conv qdq", "Conv qdq pointwise", "Conv qdq depthwise"), (10000.0, *ONE[1:]))
    give(monkeypatch, {"Conv depthwise": (9e4, *ONE[1:])}, stock)
    model = load(made["qdq"])

    def classes(session: Session) -> set[str]:
        return {class_of(o) for region in session.regions for o in region.segment.operations}

    assert len(Session(model, 1, kernels=True).regions) == 1
    session = Session(model, 1)
    assert len(session.regions) > 1
    assert "Conv" in classes(session) and "Conv depthwise" not in classes(session)
    for module in (cost, predicted):
        monkeypatch.setattr(module, "SEGMENT", 1e6)
    assert len(Session(model, 1).regions) <= 1
    want = Session(model, 1, kernels=False).run(None, feed())[0]
    np.testing.assert_allclose(session.run(None, feed())[0], want, atol=0.2)  # a few codes of the coarse output


def test_a_plan_of_a_prediction_is_kept_apart(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither `kernels=True` nor a measurement finds the predicted plan, and the graph is read once for each."""
    measured: dict[str, tuple[float, float]] = {}
    monkeypatch.setattr(session_module, "region_times", lambda threads: Measured(measured))
    give(monkeypatch, {OTHER: ONE}, {})
    path = tmp_path / "own.onnx"  # content of its own: its plans come from rates that are given here
    proto = onnx.load(made["qdq"])
    proto.doc_string = str(tmp_path)
    onnx.save(proto, path)
    want = Session(path, 1, kernels=True).run(None, feed())[0]
    assert "predicted" in str(Session(path, 1).describe())

    def refuse(self: LoweredModel) -> None:
        raise AssertionError("the graph was read")

    with monkeypatch.context() as patch:
        patch.setattr(LoweredModel, "_lower", refuse)
        session = Session(path, 1)
        assert session.covered == 0 and "predicted" in str(session.describe())
        np.testing.assert_array_equal(Session(path, 1, kernels=True).run(None, feed())[0], want)
    every = Session(path, 1, kernels=True)
    measured[region_digest(every.regions[0].segment)] = (1.0, 2.0)
    for choice, times, regions in (("all", (1.0, 2.0), 1), ("whole", (1.0, 3.0), 0)):
        measured[partition_key(every.greedy, choice)] = times  # type: ignore[arg-type]
        for _ in range(2):
            session = Session(path, 1)
            assert len(session.regions) == regions and "predicted" not in str(session.describe())
            assert ("measured 1000000 µs on kernels, 2000000 µs" in str(session.describe())) is bool(regions)


@pytest.mark.parametrize("form", [*FORMS, "dynamic"])
def test_every_partition_can_be_predicted(made: dict[str, Path], form: str) -> None:
    model = load(made[form])
    add_types_from_ort(model)
    coverage = lower(model.graph)
    known = assumed_shapes(model)
    regions = [segment for segment in Partitions(model.graph, coverage).without(()) if segment.is_region]
    assert regions
    costs = cost.Costs(model, known)
    for region in regions:
        kernels, stock = costs.of_region(region), costs.in_onnxruntime(cost.region_nodes(region.operations))
        assert 0 < kernels < 1e-3 and 0 < stock < costs.whole < 1e-3
    placed = predicted.left_by_prediction(model, Partitions(model.graph, coverage), known)
    assert bool(placed.left) is bool(placed.reasons) and placed.verdict.startswith("predicted")
    assert all("predicted" in text for text in (*placed.reasons.values(), *placed.decisions.values()))
    nodes = {node for region in regions for operation in region.operations for node in operation.nodes}
    assert set(placed.reasons) <= nodes


def test_open_sizes_are_assumed(made: dict[str, Path]) -> None:
    model = load(made["qdq"])
    shapes = {value.name: shape for value, shape in assumed_shapes(model).items()}
    assert shapes["x"] == (1, 3, 16, 16) and shapes["y"] == (1, 10)
    n = helper.make_node
    tokens = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    sound = helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["batch", 1, "samples"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")]
    kernel = onnx.numpy_helper.from_array(np.ones((2, 1, 300), np.float32), "w")
    nodes = [n("Cast", ["ids"], ["y"], to=TensorProto.FLOAT), n("Conv", ["sound", "w"], ["z"], strides=[10])]
    graph = helper.make_graph(nodes, "open", [tokens, sound], outputs, [kernel])
    open_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = {value.name: shape for value, shape in assumed_shapes(load(open_model)).items()}
    assert found["ids"] == found["y"] and found["ids"][0] == found["sound"][0] == 1
    assert found["sound"][2] >= 300 and found["z"][2] >= 1  # as many samples as the window needs


def test_shapes_behind_operators_of_onnxruntime_are_assumed() -> None:
    """As onnxruntime gives them: else all behind one, at sizes that a model computes, would count as of one element."""
    n = helper.make_node
    weights = {"w": (8, 8), "k": (4, 8, 1, 1), "g": (8,)}
    nodes = [
        n("Shape", ["x"], ["sizes"]), n("Expand", ["x", "sizes"], ["e"]),
        n("FusedMatMul", ["e", "x"], ["scores"], domain="com.microsoft", transB=1, alpha=0.5),
        n("FusedMatMul", ["scores", "e"], ["m"], domain="com.microsoft", transA=1),
        n("SkipLayerNormalization", ["m", "e", "g"], ["s", "", "", "sum"], domain="com.microsoft"),
        n("MultiHeadAttention", ["s", "sum", "sum"], ["a"], domain="com.microsoft", num_heads=2),
        n("MatMul", ["a", "w"], ["y"]),
        n("FusedConv", ["image", "k"], ["c"], domain="com.microsoft", activation="Relu"),
    ]  # fmt: skip
    inputs = {"x": ["batch", "length", 8], "image": ["batch", 8, "height", "width"]}
    graph = helper.make_graph(
        nodes, "own", [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("scores", "sum", "a", "y", "c")],
        [onnx.numpy_helper.from_array(np.full(shape, 0.1, np.float32), name) for name, shape in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    found = {value.name: shape for value, shape in assumed_shapes(load(proto)).items()}
    session = ort_session(proto.SerializeToString())
    results = session.run(None, {name: np.ones(found[name], np.float32) for name in inputs})
    assert [found[one.name] for one in proto.graph.output] == [result.shape for result in results]
    assert found["scores"] == (1, 16, 16)


def test_fixed_sizes_are_taken_as_they_were_inferred(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    proto = onnx.load(made["qdq"])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model = load(proto)
    found = assumed_shapes(model)
    monkeypatch.setattr(assumed, "_fixed_shapes", lambda graph: None)
    assert len(found) > 20 and found == assumed_shapes(model)


def test_sizes_that_follow_from_shapes_are_known() -> None:
    """Positions as many as tokens, by Range or cut from a table; also a Reshape and an Expand behind them."""
    nodes = """
        shape = Shape(ids)
        length = Gather(shape, one)
        range = Range(zero, length, one)
        taken = Gather(table, range)
        rows = Unsqueeze(length, first)
        cut = Slice(positions, first, rows, second)
        more = Gather(table, cut)
        sum = Add(taken, more)
        width = Constant<value_ints = [2, -1]>()
        sizes = Concat<axis = 0>(rows, width)
        y = Reshape(sum, sizes)
        batch, tokens = Split(shape, halves)
        split = Slice(positions, first, tokens, second)
        both = Expand(split, shape)
    """
    text = f"""<ir_version: 9, opset_import: ["": 17]> positions (int64[batch, length] ids)
    => (float[N, 2, K] y, int64[B, T] both)
    <int64 one = {{1}}, int64 zero = {{0}}, int64[1] first = {{0}}, int64[1] second = {{1}}, int64[2] halves = {{1, 1}},
     float[20, 6] table,
     int64[1, 32] positions> {{{nodes}}}"""
    text = text.replace("float[20, 6] table", f"float[20, 6] table = {{{', '.join(['0.0'] * 120)}}}")
    text = text.replace("int64[1, 32] positions", f"int64[1, 32] positions = {{{', '.join(['1'] * 32)}}}")
    shapes = {value.name: shape for value, shape in assumed_shapes(load(onnx.parser.parse_model(text))).items()}
    assert shapes["range"] == (16,) and shapes["taken"] == (16, 6)
    assert shapes["cut"] == (1, 16) and shapes["more"] == (1, 16, 6)
    assert shapes["y"] == (16, 2, 3)
    assert shapes["split"] == shapes["both"] == (1, 16)


def test_one_region_pays_half_for_cold_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BETWEEN", Cold(1.0, 1e9))
    monkeypatch.setattr(cost, "CUT", Cold(0.0, 0.0))
    model = load(two_towers())
    coverage, costs = lower(model.graph), cost.Costs(model, assumed_shapes(model))
    first = next(o for o in coverage.providers.values() if class_of(o) == "DynamicMatMul")
    for left, share in (({*()}, 1.0), ({first}, ONCE)):
        segments = Partitions(model.graph, coverage).without(left)
        found = costs.of(segments)
        assert sum(segment.is_region for segment in segments) == (1 if left else 2)
        assert found.cold == pytest.approx(share * found.kernels) and found.kernels > 0


def test_cold_caches_are_filled_once() -> None:
    """A part takes longer between parts of the other runtime, in proportion to its time up to a bound."""
    cold = Cold(0.5, 100e3)
    assert cold.after(0.0) == 0.0 and cold.after(50e-6) == 25e-6
    assert cold.after(300e-6) == pytest.approx(100e-6) and cold.after(1.0) == pytest.approx(100e-6)
    assert not cost.Prediction(1.0, 0.0, 0.0, 0, 0).cut - cost.SESSION * 1e-9


def test_the_work_of_products(made: dict[str, Path]) -> None:
    model = load(made["qdq"])
    coverage = lower(model.graph)
    found: dict[str, Any] = {}
    for operation in coverage.providers.values():
        if isinstance(operation, (Conv, DynamicConv, MatMul)):
            found.setdefault(class_of(operation), operation)
    assert {"Conv", "Conv pointwise", "Conv depthwise", "Conv groups"} <= set(found)
    first = found["Conv"]  # 3 to 32 channels by windows of 3 x 3, 27 inputs filled up to 28
    assert first.weights.shape == (32, 3, 3, 3)
    wanted = (1.0, 768.0, 2048.0, 64.0 * 27, 64.0 * 32 * 28)
    assert features(first, [(1, 3, 16, 16)], (1, 32, 8, 8)) == wanted
    depthwise = found["Conv depthwise"]
    assert features(depthwise, [(1, 32, 8, 8)], (1, 32, 8, 8)) == (1.0, 2048.0, 2048.0, 0.0, 2048.0 * 9)
    product = next(o for o in coverage.providers.values() if isinstance(o, MatMul))
    assert product.weights.shape == (256, 10)  # channels are filled up to 16
    assert features(product, [(2, 256)], (2, 10)) == (1.0, 512.0, 20.0, 0.0, 2.0 * 256 * 16)
    segment = next(s for s in Partitions(model.graph, coverage).without(()) if s.is_region)
    shapes = Shapes(assumed_shapes(model))
    for operation in segment.operations:
        shapes.add(operation)
    kernels = region_work(segment, shapes.known)
    assert kernels[BORDER] == [1.0, 768.0, 10.0, 0.0, 0.0]
    assert sum(row[0] for kind, row in kernels.items() if kind != BORDER) == len(segment.operations)


def test_rates_are_complete() -> None:
    """Every level has rates, and every operation is of a class with rates or of the class of others."""
    assert set(RATES) == {level.name for level in LEVELS}
    for rates in RATES.values():
        assert {OTHER, BORDER} <= set(rates.kernels) and {OTHER, BORDER, WHOLE} <= set(rates.onnxruntime)
        for row in (*rates.kernels.values(), *rates.onnxruntime.values()):
            assert len(row) == len(FEATURES) and min(row) >= 0 < max(row)
        named = {kind.split()[0] for kind in rates.kernels} - {OTHER, BORDER}
        assert named <= {kind.__name__ for kind in LEGALITY} and len(named) > len(LEGALITY) // 2
        assert {"Conv", "Conv qdq", "MatMul float", "MatMulInteger", "QuantizeLinear"} <= set(rates.onnxruntime)


def test_each_value_that_crosses_a_border_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight slices of a product of codes go to onnxruntime: seven more than the one that every region has."""
    give(monkeypatch, {}, {OTHER: ONE})
    session = Session(sliced(8), 1, kernels="predicted")
    assert len(session.regions) == 1
    segments = [session.regions[0].segment]
    assert cost.Costs(load(sliced(8)), {}).of(segments).crossings == 7
    monkeypatch.setattr(cost, "CROSSING", 10e3)
    verdict = Session(sliced(9), 1, kernels="predicted").describe().verdict
    assert "8 × 10 µs of values" in verdict and verdict.endswith("whole in onnxruntime")
