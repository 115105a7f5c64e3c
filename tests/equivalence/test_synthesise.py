"""Made-up inputs: the original must really run on them, and they must mean what the operators want."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T

import graphopt
from graphopt.equivalence import synthesise, tapped
from graphopt.equivalence.runnable import open_runnable
from graphopt.equivalence.synthesis.search import _Search
from graphopt.equivalence.synthesis.sizes import reshapable
from graphopt.equivalence.tapped import Budget
from graphopt.errors import InputError, ModelError
from tests.equivalence.nets import f32, model, node


def embedding() -> onnx.ModelProto:
    """Token ids, shifted by two, through Cast and Reshape into a table of 50 rows; a mask; token types."""
    nodes = [
        node("Cast", "ids", "i", to=T.INT64), node("Add", "i two", "j"), node("Reshape", "j flat", "k"),
        node("Gather", "table k", "e"), node("Gather", "kinds types", "t"), node("Reshape", "t rows", "t2"),
        node("Cast", "mask", "m", to=T.FLOAT), node("Reshape", "m column", "mc"), node("Sub", "one mc", "inv"),
        node("Add", "e t2", "s"), node("Mul", "s inv", "y"),
    ]  # fmt: skip
    shape = ["batch", "seq"]
    return model(
        nodes, [("ids", T.INT32, shape), ("types", T.INT64, shape), ("mask", T.INT64, shape)],
        [("y", T.FLOAT, None)],
        {
            "two": np.int64(2), "flat": np.array([-1]), "table": f32(50, 4), "kinds": f32(2, 4),
            "rows": np.array([-1, 4]), "column": np.array([-1, 1]), "one": np.float32(1),
        },
    )  # fmt: skip


def test_ids_stay_below_their_table_and_masks_are_binary():
    feeds = synthesise(embedding(), 6)
    assert len(feeds) == 6
    ids = np.concatenate([f["ids"].ravel() for f in feeds])
    assert ids.min() >= 0
    assert 20 < ids.max() < 48
    assert {int(v) for f in feeds for v in f["types"].ravel()} == {0, 1}
    assert {int(v) for f in feeds for v in f["mask"].ravel()} == {0, 1}


def masked(low: float) -> onnx.ModelProto:
    """Attention weights of x under a mask, which is `low` where an element is masked."""
    nodes = [node("Where", "mask zero low", "bias"), node("Add", "x bias", "s"), node("Softmax", "s", "y")]
    return model(
        nodes, [("x", T.FLOAT, ["batch", "seq"]), ("mask", T.BOOL, ["batch", "seq"])], [("y", T.FLOAT, None)],
        {"zero": np.float32(0), "low": np.float32(low)},
    )  # fmt: skip


def test_padding_stands_at_either_side_and_fills_a_row():
    masks = [f["mask"] for f in synthesise(masked(-3e38))]
    assert masks[0].all() and masks[1].any(-1).all() and not masks[1].all()
    assert masks[2].shape[0] > 1 and not masks[2][-1].any() and not masks[2][0, 0] and masks[2][0, -1]


def test_rows_are_not_masked_altogether_where_that_gives_nan():
    assert all(f["mask"].any(-1).all() for f in synthesise(masked(-np.inf)))


def test_symbolic_dims_agree_by_name_and_vary():
    shapes = [{n: v.shape for n, v in f.items()} for f in synthesise(embedding(), 4)]
    assert len(shapes) == 4 and all(set(s) == {"ids", "types", "mask"} and len(set(s.values())) == 1 for s in shapes)
    assert {s["ids"][0] for s in shapes} >= {1, 2, 3}
    lengths = {s["ids"][1] for s in shapes}
    assert 1 in lengths and any(n > 1 and n % 2 for n in lengths)


def test_the_same_seed_gives_the_same_feeds():
    first, second, other = synthesise(embedding(), 2), synthesise(embedding(), 2), synthesise(embedding(), 2, seed=1)
    assert len(first) == 2 and len(first[0]) == 3
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(first, second, strict=True) for n in a)
    assert not np.array_equal(first[0]["ids"], other[0]["ids"])


def test_rates_come_from_what_they_are_compared_with():
    def branch(value: float) -> onnx.GraphProto:
        value_node = node("Constant", "", "out", value=onnx.numpy_helper.from_array(np.float32(value)))
        value_node.ClearField("input")
        value_node.output[0] = f"o{int(value)}"
        out = onnx.helper.make_tensor_value_info(f"o{int(value)}", T.FLOAT, [])
        return onnx.helper.make_graph([value_node], "b", [], [out])

    nodes = [
        node("Equal", "sr rate", "c"), node("If", "c", "f", then_branch=branch(1), else_branch=branch(2)),
        node("Mul", "x f", "y"),
    ]  # fmt: skip
    net = model(nodes, [("x", T.FLOAT, [4]), ("sr", T.INT64, [])], [("y", T.FLOAT, [4])], {"rate": np.int64(16000)})
    assert {int(f["sr"]) for f in synthesise(net, 2)} == {8000, 16000}


def test_past_and_total_lengths_are_related():
    nodes = [node("Concat", "past x", "all", axis=1), node("Mul", "all m", "y")]
    net = model(
        nodes,
        [
            ("x", T.FLOAT, ["batch", "sequence_length"]), ("past", T.FLOAT, ["batch", "past_sequence_length"]),
            ("m", T.FLOAT, ["batch", "past_sequence_length + sequence_length"]),
        ],
        [("y", T.FLOAT, None)],
    )  # fmt: skip
    feeds = synthesise(net, 3)
    assert len(feeds) == 3
    for feed in feeds:
        assert feed["m"].shape[1] == feed["x"].shape[1] + feed["past"].shape[1]


def test_sizes_are_searched_until_the_model_runs():
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    net = model(
        nodes, [("x", T.FLOAT, ["batch", 3, "h", "w"])], [("y", T.FLOAT, None)],
        {"shape": np.array([0, 3 * 224 * 224]), "w": f32(3 * 224 * 224, 2, scale=0.01)},
    )  # fmt: skip
    assert synthesise(net, 2)[1]["x"].shape[2:] == (224, 224)


@pytest.mark.parametrize(
    ("shape", "fixed"), [(["batch", "time", 8], 11), (["batch", "high", "wide", 2], 169), ([5, "time", "wide", 1], 442)]
)
def test_sizes_of_an_example_are_learned_from_a_reshape(shape: list[str | int], fixed: int):
    """Into [fixed, batch, channels], as exporters of attention write it: no weight tells the example's sizes."""
    nodes = [
        node("Shape", "x", "sizes"), node("Gather", "sizes first", "batch"), node("Gather", "sizes last", "channels"),
        node("Concat", "fixed batch channels", "target", axis=0), node("Reshape", "x target", "y"),
    ]  # fmt: skip
    constants = {"first": np.array([0]), "last": np.array([len(shape) - 1]), "fixed": np.array([fixed])}
    feeds = synthesise(model(nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, None)], constants))
    assert len(feeds) == 4
    assert {np.prod(f["x"].shape[1:-1]) for f in feeds} == {fixed}
    assert len({len(f["x"]) for f in feeds}) == (3 if shape[0] == "batch" else 1)


def test_samples_of_the_caller_serve_where_no_inputs_are_found():
    """A square of 13, one name for both sides: a side in proportion is no whole number, and no weight tells it."""
    nodes = [
        node("Shape", "x", "sizes"), node("Gather", "sizes first", "batch"), node("Gather", "sizes last", "channels"),
        node("Concat", "fixed batch channels", "target", axis=0), node("Reshape", "x target", "r"),
        node("Identity", "r", "same"), node("MatMul", "same w", "y"),
    ]  # fmt: skip
    constants = {"first": np.array([0]), "last": np.array([3]), "fixed": np.array([169]), "w": f32(32, 64)}
    made = model(nodes, [("x", T.FLOAT, ["batch", "side", "side", 32])], [("y", T.FLOAT, None)], constants)
    with pytest.raises(InputError):
        synthesise(made)
    samples = [{"x": f32(1, 13, 13, 32)} for _ in range(2)]
    assert graphopt.optimize(made).report.status == "unverified"
    result = graphopt.optimize(made, quantize="weights", calibration=samples)
    assert result.report.status == "lossy" and not result.report.rolled_back
    assert "Identity" not in {n.op_type for n in result.model.graph.node}


def test_sizes_that_a_reshape_asks_for():
    both = [*reshapable({"b": 1, "t": 8}, (8, 1, 32), (24, 8, 8))]
    assert {"b": 2, "t": 24} in both
    assert {"b": 6, "t": 8} in both
    assert [*reshapable({"t": 6}, (1, 6), (4, -1))] == [{"t": 4}, {"t": 12}]
    assert [*reshapable({"t": 4}, (0, 4), (2, 2))] == [*reshapable({"t": 4}, (1, 4), (0, 2))] == []
    assert not [*reshapable({"t": 4, "empty": 0}, (1, 4), (2, 4))]
    assert all(f["b"] * f["t"] * 32 == 24 * 8 * 8 for f in both)


def test_graph_indexes_stay_below_the_number_of_nodes():
    nodes = [
        node("MatMul", "x w", "h"), node("Gather", "edges zero", "src", axis=0), node("Gather", "h src", "y", axis=0),
    ]  # fmt: skip
    net = model(
        nodes, [("x", T.FLOAT, ["num_nodes", 5]), ("edges", T.INT64, [2, "num_edges"])], [("y", T.FLOAT, None)],
        {"w": f32(5, 3), "zero": np.int64(0)},
    )  # fmt: skip
    feeds = synthesise(net)
    assert len(feeds) == 4 and all(feed["edges"].size for feed in feeds)
    for feed in feeds:
        assert feed["edges"].max() < feed["x"].shape[0]


def test_unknown_bounds_are_learned_from_the_runtime():
    nodes = [node("NonZero", "table", "nz"), node("Gather", "nz ids", "y", axis=1)]
    net = model(nodes, [("ids", T.INT64, [40])], [("y", T.INT64, None)], {"table": np.array([1, 0, 1, 1])})
    assert max(int(f["ids"].max()) for f in synthesise(net)) <= 2


@pytest.mark.parametrize("elem", [T.UINT8, T.INT8, T.BOOL, T.STRING, T.DOUBLE, T.FLOAT16, T.INT32, T.UINT64])
def test_every_dtype_is_fed(elem: int):
    net = model([node("Identity", "x", "y")], [("x", elem, [2, 3])], [("y", elem, [2, 3])])
    assert synthesise(net, 2)[0]["x"].shape == (2, 3)


def test_sequences_are_fed():
    value = onnx.helper.make_tensor_sequence_value_info("s", T.FLOAT, [2, 3])
    out = onnx.helper.make_tensor_value_info("y", T.FLOAT, None)
    graph = onnx.helper.make_graph([node("ConcatFromSequence", "s", "y", axis=0)], "g", [value], [out])
    net = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    assert isinstance(synthesise(net, 1)[0]["s"], list)


def test_a_model_that_never_runs_is_told():
    net = model([node("Reshape", "x s", "y")], [("x", T.FLOAT, [5])], [("y", T.FLOAT, None)], {"s": np.array([7])})
    with pytest.raises(InputError, match="no inputs were found"):
        synthesise(net)


def test_quantized_models_whose_weights_share_a_zero_point():
    made = graphopt.optimize(Path(__file__).parents[2] / "models" / "fashion_qdq.onnx", validate=False).model
    assert synthesise(made, 1)[0]["image"].shape[1:] == (1, 28, 28)


def searching(net: onnx.ModelProto) -> _Search:
    runnable = open_runnable(net)
    return _Search(runnable, runnable.session(optimize=True), 0, None)


def flattened(size: int, product: str = "Gemm") -> onnx.ModelProto:
    """A product of `size` inputs with what a Flatten gives, whose sizes no name or shape tells."""
    nodes = [node("Flatten", "x", "f"), node(product, "f w", "y")]
    return model(nodes, [("x", T.FLOAT, ["n", 3, "h", "w"])], [("y", T.FLOAT, None)], {"w": f32(size, 2)})


def strided(size: int) -> onnx.ModelProto:
    """Two convolutions of stride 2, a Reshape to one row an image, and a product of `size` inputs."""
    nodes = [
        node("Conv", "x k", "c", pads=[1] * 4, strides=[2, 2]), node("Conv", "c l", "d", pads=[1] * 4, strides=[2, 2]),
        node("Reshape", "d rows", "f"), node("MatMul", "f w", "y"),
    ]  # fmt: skip
    weights = {"k": f32(4, 3, 3, 3), "l": f32(4, 4, 3, 3), "rows": np.array([-1, size]), "w": f32(size, 2)}
    return model(nodes, [("x", T.FLOAT, ["n", 3, "h", "w"])], [("y", T.FLOAT, None)], weights)


@pytest.mark.parametrize(("net", "sides"), [
    (flattened(588), (14, 14)), (flattened(33, "MatMul"), (11, 1)), (strided(4 * 7 * 7), (25, 25)),
    (flattened(3 * 640 * 640), (640, 640)),
])  # fmt: skip
def test_sizes_are_asked_from_weights_before_they_are_guessed(net: onnx.ModelProto, sides: tuple[int, int]):
    search = searching(net)
    feeds = [sample.feeds for sample in search.find(2)]
    assert search.tries <= 12
    assert sorted(feeds[0]["x"].shape[2:]) == sorted(sides)


def test_a_failure_of_the_graph_ends_the_search():
    """onnxruntime runs no Loop whose counter declares no shape: no inputs help."""
    counted = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N] x) => (float[N] y) <int64 m = {3}> {
        y = Loop(m, "", x) <body = turn (int64 i, bool c, float[N] v) => (bool d, float[N] w)
                            { d = Identity(c)  w = Add(v, v) }> }"""
    )
    assert len(searching(counted).find(2)) == 2
    counted.graph.node[0].attribute[0].g.input[0].type.tensor_type.ClearField("shape")
    search = searching(counted)
    with pytest.raises(InputError, match="has unknown shape: i"):
        search.find(2)
    assert search.tries == 1


def test_no_size_is_tried_that_takes_too_much():
    search = searching(flattened(3 * 16001 * 2 + 1))
    tried = []
    run = search.session.run
    search.session.run = lambda feeds, **options: tried.append(feeds["x"].size) or run(feeds, **options)
    with pytest.raises(InputError, match="no inputs were found"):
        search.find(1)
    assert 20 < len(tried) <= 120 and max(tried) <= 1 << 24


def latent_attention() -> onnx.ModelProto:
    """Attention of every place of a picture to every other: the square of what is fed."""
    nodes = [
        node("Shape", "x", "b", start=0, end=1), node("Concat", "b rest", "s", axis=0), node("Reshape", "x s", "q"),
        node("Transpose", "q", "k", perm=[0, 2, 1]), node("MatMul", "k q", "a"), node("Softmax", "a", "p"),
        node("MatMul", "q p", "y"),
    ]  # fmt: skip
    ports = [("x", T.FLOAT, ["n", 4, "h", "w"])], [("y", T.FLOAT, None)]
    return model(nodes, *ports, {"rest": np.array([4, -1])})


def test_what_a_model_makes_of_its_inputs_counts_too():
    feeds = synthesise(latent_attention(), 4)
    assert len(feeds) == 4 and len({f["x"].shape for f in feeds}) > 1
    for feed in feeds:
        n, _, h, w = feed["x"].shape
        assert 2 * n * (h * w) ** 2 <= 1 << 24


def test_a_run_beyond_its_budget_is_ended():
    nodes = [node("MatMul", "x x", "a"), *(node("MatMul", f"{a} x", f"{b}") for a, b in zip("abcdefg", "bcdefgh"))]
    size = 3000  # 36 MB a tensor: glibc takes those over 32 MB from the system, never from what is left of others
    net = model(nodes, [("x", T.FLOAT, [size, size])], [("h", T.FLOAT, None)])
    for seconds, memory, reason in ((0.05, 1 << 30, "what was left"), (60.0, 1 << 20, "more than 1 MB")):
        session = open_runnable(net).session(optimize=False, threads=1)
        with pytest.raises(ModelError, match=reason):
            session.run({"x": f32(size, size)}, budget=Budget(seconds, memory))


def test_memory_that_does_not_suffice_is_an_answer(monkeypatch: pytest.MonkeyPatch):
    def draw(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("graphopt.equivalence.synthesis.search.draw", draw)
    with pytest.raises(InputError, match="not enough memory"):
        synthesise(embedding())


def test_ranks_that_inputs_leave_open_are_sought_and_vary():
    """Before operator set 13 Softmax flattens the axes from `axis` on: two axes cannot tell that from the last."""
    softmax = node("Softmax", "x", "y", axis=1)
    proto = model([softmax], [("x", T.FLOAT, None)], [("y", T.FLOAT, None)])
    proto.opset_import[0].version = 11
    assert [feeds["x"].ndim for feeds in synthesise(proto, 4)] == [2, 3, 4, 5]
    converted = graphopt.optimize(proto, opset=13)
    assert converted.model.opset_import[0].version == 13
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    given = graphopt.Session(proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(converted.session().run(None, {"x": x})[0], given, rtol=1e-6)


@pytest.mark.parametrize(
    ("passed", "computed", "spent"), [(14, 14, False), (16, 16, True), (16, 30, True), (100, 9, False), (151, 9, True)]
)
def test_time_in_which_others_compute_hardly_counts(
    monkeypatch: pytest.MonkeyPatch, passed: float, computed: float, spent: bool
) -> None:
    clocks = {"monotonic": 100.0, "process_time": 5.0}
    for name in clocks:
        monkeypatch.setattr(tapped.time, name, lambda name=name: clocks[name])
    budget = Budget(15.0, 1 << 30)
    clocks["monotonic"] += passed
    clocks["process_time"] += computed
    assert budget.is_spent == spent
