"""Language models on kernels: one region, one plan for any length, caches that grow in place, onnxruntime's results."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import ModelError, OptionError
from graphopt.runtime.cache import growing_plans
from graphopt.runtime.execute.growing import KeptCache, SharedMemory
from graphopt.runtime.lower.decoders import stored
from graphopt.runtime.place.lowered_model import LoweredModel
from tests.kernels.attention.test_cached import coded_rows
from tests.runtime.language import HEADS, LAYERS, SIZE, WORDS, Feed, feeds, make_language_model, on_kernels, stock
from tests.runtime.reference import check_regions

try:
    stock(make_language_model())
except Exception as error:  # onnxruntime's own classes
    pytest.skip(f"onnxruntime has no Attention of opset 23: {error}", allow_module_level=True)

CASES = [
    {"past": 7, "tokens": 1}, {"past": 0, "tokens": 6}, {"past": 300, "tokens": 1}, {"past": 5, "tokens": 3},
    {"past": 9, "tokens": 2, "batch": 2, "padded": 4},
]  # fmt: skip


def assert_alike(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Products round their inputs to 8 bits on both sides: one step more or less where a sum lies between two."""
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=(0.05 if index == 0 else 0.02) * np.abs(b).max())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_results_are_those_of_onnxruntime(bits: int, zeros: bool) -> None:
    model = make_language_model(bits, zeros=zeros)
    session, other = on_kernels(model), stock(model)
    for case in CASES:
        given = feeds(**case)
        assert_alike(session.run(None, given), other.run(None, given))
    (region,) = session.regions  # norms, rotary embeddings, attention, gates and products of all layers
    assert sum(part.operators.get("BlockedMatMul", 0) for part in session.describe().parts) == 4 * LAYERS + 1
    assert region.refusals == []


def test_masks_may_be_truth_values() -> None:
    """As exports of scaled_dot_product_attention have them; rows that a mask leaves nothing are zeros, too."""
    model = make_language_model(truths=True)
    session, other = on_kernels(model), stock(model)
    for case in (*CASES, {"past": 9, "tokens": 2, "batch": 2, "padded": 11}):
        given = feeds(**case)
        assert_alike(session.run(None, given), other.run(None, given))
    (region,) = session.regions
    assert check_regions(session, feeds(5, 3))["CachedAttention"] == LAYERS and region.refusals == []


@pytest.mark.parametrize(("bits", "zeros"), [(2, False), (2, True), (4, True), (8, False)])
def test_every_operation_equals_its_reference(bits: int, zeros: bool) -> None:
    """Products bit for bit, one token and several."""
    session = on_kernels(make_language_model(bits, zeros=zeros))
    for case in CASES[:2]:
        kinds = check_regions(session, feeds(**case))
        assert kinds["BlockedMatMul"] == 4 * LAYERS + 1
        assert kinds["CachedAttention"] == LAYERS


def test_a_prediction_takes_kernels() -> None:
    model = make_language_model(inner=16384)
    assert graphopt.Session(model.SerializeToString(), threads=1).covered == 4 * LAYERS + 1


def _continued(run: object, names: list[str], given: Feed, tokens: list[int]) -> list[np.ndarray]:
    """Logits of one token after the other, each step fed with the caches of the one before."""
    found, given = [], dict(given)
    for token in tokens:
        length = given["past_key_values.0.key"].shape[2]
        given.update(
            input_ids=np.array([[token]]), position_ids=np.array([[length]]),
            attention_mask=np.ones((1, length + 1), np.int64),
        )  # fmt: skip
        logits, *presents = run(None, given)  # type: ignore[operator]
        given.update((name.replace("present", "past_key_values"), cache) for name, cache in zip(names, presents))
        found.append(logits)
    return found


def test_caches_grow_in_place_and_in_one_plan(model: onnx.ModelProto) -> None:
    session = on_kernels(model)
    names = [output.name for output in session.get_outputs()][1:]
    given, tokens = feeds(3, 1), list(range(40))
    ours = _continued(session.run, names, given, tokens)
    theirs = _continued(stock(model).run, names, given, tokens)
    for a, b in zip(ours, theirs, strict=True):
        assert_alike([a], [b])
    (region,) = session.regions
    assert len(region._compiled) == 1
    given = feeds(3, 1)
    first = session.run(None, given)
    given.update((name.replace("present", "past_key_values"), cache) for name, cache in zip(names, first[1:]))
    given.update(attention_mask=np.ones((1, 5), np.int64), position_ids=np.array([[4]]))
    second = session.run(None, given)
    assert all(np.shares_memory(a, b) for a, b in zip(first[1:], second[1:]))


def test_two_continuations_of_one_cache_keep_apart(model: onnx.ModelProto, session: graphopt.Session) -> None:
    names = [output.name for output in session.get_outputs()][1:]
    _, *caches = session.run(None, feeds(0, 4))
    given = {name.replace("present", "past_key_values"): cache for name, cache in zip(names, caches)}
    kept = [cache.copy() for cache in caches]
    one = _continued(session.run, names, given, [1, 2, 3])
    other = _continued(session.run, names, given, [4, 5, 6])
    apart = {name: np.array(cache) for name, cache in given.items()}
    for found, tokens in ((one, [1, 2, 3]), (other, [4, 5, 6])):
        for a, b in zip(found, _continued(session.run, names, apart, tokens), strict=True):
            np.testing.assert_array_equal(a, b)
    for cache, before in zip(caches, kept):
        np.testing.assert_array_equal(cache, before)


def test_caches_in_any_strides(session: graphopt.Session) -> None:
    given = feeds(6, 1, batch=2)
    expected = session.run(None, given)
    for strange in (
        lambda a: a[:, :, ::-1].copy()[:, :, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: a.repeat(2, 1)[:, ::2],
    ):
        other = {name: strange(array) if array.ndim == 4 else array for name, array in given.items()}
        for a, b in zip(session.run(None, other), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def assert_likeliest(model: onnx.ModelProto, prompt: list[int], written: list[int]) -> None:
    """What was written behind a prompt varies, and onnxruntime's logits prefer each token, but for ties."""
    assert len(set(written)) > 5
    given = feeds(0, len(written))
    given["input_ids"] = np.array([written])
    logits = stock(model).run(["logits"], given)[0][0, len(prompt) - 1 : -1]
    chosen = np.take_along_axis(logits, np.array(written[len(prompt) :])[:, None], axis=1)[:, 0]
    assert (chosen >= logits.max(axis=1) - 0.1 * np.abs(logits).max()).all()


def test_generation_follows_the_plain_loop(model: onnx.ModelProto, session: graphopt.Session) -> None:
    """Each token is the likeliest by onnxruntime's logits, too, but for ties."""
    prompt = [3, 1, 4, 2, 5, 40, 33]
    written = session.generate(prompt, 60).tolist()
    assert written == [*prompt, *session.tokens(prompt, 60)]
    assert_likeliest(model, prompt, written)


def test_generation_on_a_cache_of_codes(model: onnx.ModelProto, session: graphopt.Session) -> None:
    """Tokens are the likeliest by onnxruntime's float32 cache, but for ties; two prompts at once, one padded."""
    prompt = [3, 1, 4, 2, 5, 40, 33]
    written = session.generate(prompt, 60, cache="int8").tolist()
    assert written == [*prompt, *session.tokens(prompt, 60, cache="int8")]
    assert_likeliest(model, prompt, written)
    rows, mask = [prompt, [0, 0, 0, *prompt[:4]]], [[1] * 7, [0, 0, 0, 1, 1, 1, 1]]
    both = session.generate(rows, 20, attention_mask=mask, cache="int8")
    assert both[0].tolist() == session.generate(prompt, 20, cache="int8").tolist()
    assert both[1, 3:].tolist() == session.generate(prompt[:4], 20, cache="int8").tolist()


def test_rows_of_a_coded_cache_are_the_codes_of_the_rows(session: graphopt.Session) -> None:
    """In the first layer, which no attention precedes, bit for bit; results of both differ by rounding."""
    given = feeds(0, 5)
    names = [output.name for output in session.get_outputs()]
    floats = dict(zip(names, session.run(names, given)))
    memory = SharedMemory()
    empty = {name: KeptCache(1, HEADS, SIZE + 4, np.uint8, memory) for name in given if "past" in name}
    made = dict(zip(names, session._step(names, {**given, **empty}, every_row=True)))
    coded = {name: value.array[:, :, :5] if isinstance(value, KeptCache) else value for name, value in made.items()}
    for name in ("present.0.key", "present.0.value"):
        assert coded[name].dtype == np.uint8
        np.testing.assert_array_equal(coded[name], coded_rows(floats[name]))
    difference = np.abs(coded["logits"] - floats["logits"]).max()
    assert 0 < difference < 0.1 * np.abs(floats["logits"]).max()


def test_nodes_in_onnxruntime_may_ask_for_the_size_of_a_cache_of_codes(session: graphopt.Session) -> None:
    """As exporters find how many tokens came before; and must not read what it holds."""
    asking, reading = make_language_model(), make_language_model()
    past = "past_key_values.0.key"
    for model, size in ((asking, [("Shape", [past], "s")]), (reading, [("Relu", [past], "q"), ("Shape", ["q"], "s")])):
        nodes = [
            *(helper.make_node(op, read, [made]) for op, read, made in size),
            helper.make_node("Gather", ["s", "one"], ["heads"]),
            helper.make_node("Sub", ["heads", "heads"], ["nothing"]),
            helper.make_node("Add", ["attention_mask", "nothing"], ["marked"]),
        ]
        (order,) = [node for node in model.graph.node if node.op_type == "CumSum"]
        order.input[0] = "marked"
        for node in reversed(nodes):
            model.graph.node.insert(0, node)
    prompt = [3, 1, 4, 2]
    written = on_kernels(asking).generate(prompt, 20, cache="int8").tolist()
    assert written == session.generate(prompt, 20, cache="int8").tolist()
    with pytest.raises(ModelError, match="whose attention kernels compute"):
        on_kernels(reading).generate(prompt, 2, cache="int8")


def test_a_cache_of_codes_is_for_kernels(model: onnx.ModelProto, session: graphopt.Session) -> None:
    whole = graphopt.Session(model.SerializeToString(), threads=1, kernels=False)
    with pytest.raises(ModelError, match="whose attention kernels compute"):
        whole.generate([1, 2], 2, cache="int8")
    with pytest.raises(OptionError, match="cache must be 'float32' or 'int8', got 'int4'"):
        session.generate([1, 2], 2, cache="int4")  # type: ignore[arg-type]


def test_prompts_of_any_length_take_few_plans(model: onnx.ModelProto) -> None:
    session, other = on_kernels(model), on_kernels(model)
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 5, 12, 31, 77, 131, 300):
        prompt = rng.integers(0, WORDS, length)
        given = feeds(0, length)
        given["input_ids"] = prompt[None]
        logits = other.run(["logits"], given)[0]
        assert session.generate(prompt, 1)[-1] == logits[0, -1].argmax()
    (region,) = session.regions
    assert len(region._compiled) <= 7
    assert region.refusals == []


def test_threads_and_other_levels_give_the_same(model: onnx.ModelProto, session: graphopt.Session) -> None:
    given = feeds(20, 2)
    two = graphopt.Session(model.SerializeToString(), threads=2, kernels=True)
    for a, b in zip(two.run(None, given), session.run(None, given), strict=True):
        np.testing.assert_array_equal(a, b)


def test_products_that_must_not_round_stay_with_onnxruntime() -> None:
    model = make_language_model(accuracy_level=0)
    session, given = on_kernels(model), feeds(3, 1)
    assert not session.regions
    assert any("round" in part.reason for part in session.describe().parts)
    for a, b in zip(session.run(None, given), stock(model).run(None, given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_blocked_dequantizelinear(kind: int, zeros: bool) -> None:
    rng = np.random.default_rng(0)
    depth, channels, block = 96, 40, 32
    low = -8 if kind == TensorProto.INT4 else 0
    codes, points = (rng.integers(low, low + 16, (n, channels)) for n in (depth, depth // block))
    scale = rng.uniform(0.01, 0.1, (depth // block, channels)).astype(np.float32)
    constants = [
        helper.make_tensor("w", kind, codes.shape, codes.reshape(-1)), numpy_helper.from_array(scale, "s"),
        *([helper.make_tensor("z", kind, points.shape, points.reshape(-1))] if zeros else []),
    ]  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", *(["z"] if zeros else [])], ["d"], axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, ["n", depth])],
        [info("y", TensorProto.FLOAT, ["n", channels])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = on_kernels(model)
    assert session.covered == 1
    x = rng.standard_normal((5, depth)).astype(np.float32)
    weights = (codes - (points if zeros else np.zeros_like(points)).repeat(block, 0)) * scale.repeat(block, 0)
    (y,) = session.run(None, {"x": x})
    assert np.square(y - x @ weights).mean() < 1e-4 * np.square(x @ weights).mean()
    (stocks,) = stock(model).run(None, {"x": x})
    np.testing.assert_allclose(y, stocks, rtol=0, atol=2e-2 * np.abs(stocks).max())


def test_plans_are_kept_once_for_all_lengths(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another session reads neither the graph nor packs weights; a further plan adds no copy of them to the file."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    prompt, cases = list(range(12)), [{"past": 40, "tokens": 1}, {"past": 0, "tokens": 7}]
    first = on_kernels(model)
    want = [first.run(None, feeds(**case)) for case in cases], first.generate(prompt, 5)
    with monkeypatch.context() as patch:
        patch.setattr(LoweredModel, "_lower", lambda self: pytest.fail("the graph was read"))
        patch.setattr(stored, "pack_blocked", lambda *a, **k: pytest.fail("weights were packed"))
        again = on_kernels(model)
        for case, outputs in zip(cases, want[0], strict=True):
            for a, b in zip(again.run(None, feeds(**case)), outputs, strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(again.generate(prompt, 5), want[1])
    kept = max((tmp_path / "plans").rglob("*"), key=lambda file: file.stat().st_size)
    before, packed = kept.stat().st_size, sum(len(c.raw_data) for c in model.graph.initializer if "codes" in c.name)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "pack_blocked", lambda *a, **k: pytest.fail("weights were packed"))
        other = on_kernels(model).run(None, feeds(3, 2))
    for a, b in zip(other, first.run(None, feeds(3, 2)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert before > packed
    assert kept.stat().st_size - before < packed / 2


def test_no_more_plans_are_kept_than_a_file_has_room_for(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setattr(growing_plans, "_MOST", 1)
    session = on_kernels(model)
    for tokens in (1, 2):
        session.run(None, feeds(3, tokens))
    again = on_kernels(model)
    for tokens, read in ((1, False), (2, True)):
        again.run(None, feeds(3, tokens))
        assert (again._lowered._parts is not None) is read


def _by_column(kind: str, zeros: bool, transposed: bool = False) -> tuple[onnx.ModelProto, np.ndarray]:
    """x · weights of `kind` with a scale for all ("one"), or one a column; the weights as floats."""
    rng = np.random.default_rng(3)
    depth, channels = 200, 40
    signed = kind != "uint8"
    codes = rng.integers(-128 if signed else 0, 128 if signed else 256, (depth, channels))
    codes = codes.astype(np.int8 if signed else np.uint8)
    size = () if kind == "one" else (channels,)
    scale = rng.uniform(0.01, 0.1, size).astype(np.float32)
    points = rng.integers(0, 20, size).astype(codes.dtype)
    stored = np.ascontiguousarray(codes.T) if transposed else codes
    constants = [numpy_helper.from_array(stored, "w"), numpy_helper.from_array(scale, "s")]
    constants += [numpy_helper.from_array(points, "z")] if zeros else []
    nodes = [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])] if transposed else []
    nodes += [
        helper.make_node(
            "DequantizeLinear", ["t" if transposed else "w", "s", *(["z"] if zeros else [])], ["d"], axis=1
        ),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ["n", depth])], [info("y", TensorProto.FLOAT, ["n", channels])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    floats = (codes.astype(np.float32) - (points.astype(np.float32) if zeros else 0)) * scale
    return model, np.asarray(floats, np.float32)


@pytest.mark.parametrize("kind", ["int8", "uint8", "one"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_stored_weights_with_a_scale_a_column(kind: str, zeros: bool, transposed: bool) -> None:
    model, weights = _by_column(kind, zeros, transposed)
    session = on_kernels(model)
    assert session.covered == 1
    assert session.describe().parts[0].operators == {"BlockedMatMul": 1}
    x = np.random.default_rng(1).standard_normal((5, len(weights))).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    assert np.square(y - x @ weights).mean() < 1e-4 * np.square(x @ weights).mean()
    (stocks,) = stock(model).run(None, {"x": x})
    np.testing.assert_allclose(y, stocks, rtol=0, atol=2e-2 * np.abs(stocks).max())


def test_weights_that_two_products_read_are_not_rounded_for() -> None:
    """onnxruntime computes those in float32."""
    model, weights = _by_column("int8", zeros=False)
    model.graph.node.append(helper.make_node("MatMul", ["x", "d"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", weights.shape[1]]))
    session = on_kernels(model)
    assert session.covered == 0
    x = np.random.default_rng(1).standard_normal((5, len(weights))).astype(np.float32)
    for y in session.run(None, {"x": x}):
        np.testing.assert_allclose(y, x @ weights, rtol=1e-4, atol=1e-3)


def test_tokens_can_be_left_early(session: graphopt.Session) -> None:
    assert len(list(islice(session.tokens([1, 2], 50), 3))) == 3
    assert session.generate([1, 2], 3).shape == (5,)
