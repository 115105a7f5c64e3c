"""Constants of nested graphs are emitted where onnxruntime finds them: what loaded before loads after, in each mode."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.equivalence.runnable import open_runnable
from graphopt.machine.sessions import open_session, session_options
from graphopt.onnx_io.graph_writer import GraphWriter

ROWS, DEPTH, WIDTH = 4, 32, 16
X, ACC = [ROWS, DEPTH], [ROWS, WIDTH]
KINDS = ("float", "int8", "int4", "pairs")
MODES = (None, "weights", "dynamic", "static")


def info(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def product(prefix, kind, seed):
    """The nodes and constants of `<prefix>y` = x · weights, the weights as floats, codes, blocks, or in pairs (QDQ)."""
    rng, p = np.random.default_rng(seed), prefix
    codes = rng.integers(-7, 8, (DEPTH, WIDTH))
    if kind == "float":
        return [helper.make_node("MatMul", ["x", f"{p}w"], [f"{p}y"])], {f"{p}w": (codes / 50).astype(np.float32)}
    constants = {f"{p}w": codes.astype(np.int8), f"{p}s": rng.uniform(0.01, 0.1, WIDTH).astype(np.float32)}
    layout, x, nodes = {"axis": 1}, "x", []
    if kind == "int4":
        constants[f"{p}w"] = helper.make_tensor(f"{p}w", TensorProto.INT4, codes.shape, codes.ravel().tolist())
        constants[f"{p}s"], layout = (
            rng.uniform(0.01, 0.1, (2, WIDTH)).astype(np.float32),
            {"axis": 0, "block_size": 16},
        )
    if kind == "pairs":
        constants.update({f"{p}xs": np.float32(0.05), f"{p}xz": np.uint8(128)})
        nodes.append(helper.make_node("QuantizeLinear", [x, f"{p}xs", f"{p}xz"], [f"{p}q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{p}q", f"{p}xs", f"{p}xz"], [x := f"{p}x"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{p}w", f"{p}s"], [f"{p}f"], **layout))
    return [*nodes, helper.make_node("MatMul", [x, f"{p}f"], [f"{p}y"])], constants


def written(nodes, constants, as_nodes):
    """The constants as initializers, or as Constant nodes before the others."""
    tensors = [c if isinstance(c, TensorProto) else numpy_helper.from_array(c, n) for n, c in constants.items()]
    if as_nodes:
        return [*(helper.make_node("Constant", [], [t.name], value=t) for t in tensors), *nodes], []
    return nodes, tensors


def model_of(graph):
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def branches(kind, as_nodes=False, seeds=(0, 1)):
    graphs = {}
    for name, operator, seed in zip(("then_branch", "else_branch"), ("Tanh", "Sigmoid"), seeds):
        nodes, constants = product(name, kind, seed)
        nodes.append(helper.make_node(operator, [f"{name}y"], [f"{name}r"]))
        nodes, tensors = written(nodes, constants, as_nodes)
        graphs[name] = helper.make_graph(nodes, name, [], [info(f"{name}r", ACC)], tensors)
    node = helper.make_node("If", ["go"], ["y"], **graphs)
    return model_of(helper.make_graph([node], "g", [info("go", [], TensorProto.BOOL), info("x", X)], [info("y", ACC)]))


def loop(kind, as_nodes=False):
    nodes, constants = product("b", kind, 0)
    nodes.append(helper.make_node("Add", ["acc", "by"], ["next"]))
    nodes.append(helper.make_node("Identity", ["going"], ["goes"]))
    nodes, tensors = written(nodes, constants, as_nodes)
    body = helper.make_graph(
        nodes, "body", [info("i", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("acc", ACC)],
        [info("goes", [], TensorProto.BOOL), info("next", ACC)], tensors,
    )  # fmt: skip
    outer = [numpy_helper.from_array(np.array(3), "n"), numpy_helper.from_array(np.array(True), "true")]
    node = helper.make_node("Loop", ["n", "true", "a"], ["y"], body=body)
    return model_of(helper.make_graph([node], "g", [info("x", X), info("a", ACC)], [info("y", ACC)], outer))


def feeds(model, count=4):
    rng = np.random.default_rng(3)
    made = {"x": lambda i: rng.normal(0, 1, X), "a": lambda i: rng.normal(0, 1, ACC), "go": lambda i: i % 2 == 0}
    types = {"go": bool}
    return [
        {v.name: np.asarray(made[v.name](i), types.get(v.name, np.float32)) for v in model.graph.input}
        for i in range(count)
    ]


def results(model, optimize):
    session = open_session(model.SerializeToString(), session_options(optimize=optimize))
    return [session.run(None, feed)[0] for feed in feeds(model)]


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [branches, loop])
def test_what_loaded_before_loads_after_in_each_mode(make, kind, as_nodes):
    model = make(kind, as_nodes)
    expected = results(model, True), results(model, False)
    for mode in MODES:
        data = None if mode is None else feeds(model)
        result = graphopt.optimize(model, quantize=mode, calibration=data)
        assert result.report.status in (("equal",) if mode is None else ("equal", "lossy"))
        for ours, theirs in zip(expected, (results(result.model, True), results(result.model, False))):
            tolerance = 1e-4 if result.report.status == "equal" else 0.2
            for a, b in zip(ours, theirs):
                assert np.abs(a - b).max() <= tolerance * np.abs(a).max()


@pytest.mark.parametrize("kind", ["int8", "int4", "pairs"])
def test_the_same_codes_in_both_branches_stay_in_both(kind):
    model = branches(kind, seeds=(0, 0))
    result = graphopt.optimize(model)
    assert result.report.status == "equal" and not result.report.rolled_back
    assert np.array_equal(results(model, True), results(result.model, True))
    assert all(any(t.name.endswith("w") for t in a.g.initializer) for a in result.model.graph.node[0].attribute)


def test_the_same_floats_in_both_branches_are_stored_once_outside():
    result = graphopt.optimize(branches("float", seeds=(0, 0)))
    assert [tuple(t.dims) for t in result.model.graph.initializer] == [(DEPTH, WIDTH)]
    assert result.report.after.file_bytes < result.report.before.file_bytes - DEPTH * WIDTH * 2


def test_a_constant_belongs_to_the_innermost_graph_that_holds_all_its_readers():
    proto = onnx_io.to_proto(onnx_io.load(loop("float", as_nodes=True)))
    body = proto.graph.node[0].attribute[0].g
    assert [t.name for t in body.initializer] == ["bw"] and [t.name for t in proto.graph.initializer] == ["n", "true"]


@pytest.mark.parametrize("make", [branches, loop])
def test_data_beside_the_file_may_belong_to_nested_graphs(make, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    model, first, second = make("int8"), tmp_path / "a/m.onnx", tmp_path / "b/m.onnx"
    samples, wanted = feeds(model), results(model, True)
    onnx.save_model(model, first, save_as_external_data=True, size_threshold=64, location="m.data")
    result = graphopt.optimize(str(first), str(second))
    assert result.report.status == "equal"
    for path in (first, second):
        session = open_runnable(path).session(optimize=True)
        for feed, expected in zip(samples, wanted):
            assert np.allclose(session.run(feed)["y"], expected, 1e-4, 1e-4)
    onnx_io.save(onnx.load(first, load_external_data=False), tmp_path / "a/again.onnx", external=True)
    again = open_runnable(tmp_path / "a/again.onnx").session(optimize=True)
    assert np.allclose(again.run(samples[0])["y"], wanted[0], 1e-4, 1e-4)


@pytest.fixture
def constants_outside(monkeypatch):
    """Emission with the constants of nested graphs outside of them, which onnxruntime refuses for codes."""
    monkeypatch.setattr(GraphWriter, "_constants_inside", lambda *_: [])


@pytest.mark.usefixtures("constants_outside")
@pytest.mark.parametrize("mode", MODES)
def test_an_emission_that_does_not_load_gives_way_to_the_original(mode, tmp_path):
    model, path = branches("int8"), tmp_path / "m.onnx"
    result = graphopt.optimize(model, path, quantize=mode, calibration=None if mode is None else feeds(model))
    assert result.model == model == onnx.load(path) and result.is_original
    assert result.report.status == "equal" and "cannot load the model" in result.report.reason
    assert "the original is kept" in result.report.rolled_back[-1].reason


@pytest.mark.parametrize("mode", ["weights", "dynamic", "static"])
def test_a_quantized_body_that_does_not_load_leaves_the_model_as_it_was(mode, monkeypatch):
    model = branches("float")
    monkeypatch.setattr(GraphWriter, "_constants_inside", lambda *_: [])
    quantize = graphopt.Quantize(mode=mode, speed=False)
    result = graphopt.optimize(model, quantize=quantize, calibration=feeds(model))
    for ours, theirs in zip(results(model, True), results(result.model, True)):
        assert np.abs(ours - theirs).max() < 0.2
    if mode == "weights":
        assert result.report.status == "equal" and "left as it was" in result.report.reason
