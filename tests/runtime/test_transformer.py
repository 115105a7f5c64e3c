"""A quantized transformer is one region, and every step equals the reference, whatever the sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from graphopt.runtime import Session
from tests import zoo
from tests.runtime.reference import check_regions
from tests.runtime.test_session import exact_session, sqnr

WIDTH, HEADS = 48, 3


def make_block(*, erf: bool = True, opset: int = 17) -> onnx.ModelProto:
    """Attention and a feed-forward part on float [N, S, 48], biases added behind products, sizes taken from Shape."""
    rng = np.random.default_rng(3)
    initializers: list[Any] = []

    def constant(name: str, array: Any) -> str:
        initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(name: str, *shape: int) -> str:
        return constant(name, rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32))

    n = helper.make_node
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    nodes = [
        n("MatMul", ["x", weights("w0", WIDTH, WIDTH)], ["h0"]),
        n("LayerNormalization", ["h0", constant("g1", ones), constant("c1", zeros)], ["l1"], epsilon=1e-5),
        n("Shape", ["x"], ["shape"]),
        n("Gather", ["shape", constant("zero", np.array([0]))], ["batch"]),
        n("Gather", ["shape", constant("one", np.array([1]))], ["length"]),
        n("Concat", ["batch", "length", constant("split", np.array([HEADS, WIDTH // HEADS]))], ["heads"], axis=0),
        n("Concat", ["batch", constant("merge", np.array([-1, WIDTH]))], ["merged"], axis=0),
    ]
    for name in "qkv":
        nodes += [
            n("MatMul", ["l1", weights(f"w{name}", WIDTH, WIDTH)], [f"{name}0"]),
            n("Add", [f"{name}0", weights(f"b{name}", WIDTH)], [f"{name}1"]),
            n("Reshape", [f"{name}1", "heads"], [f"{name}2"]),
            n("Transpose", [f"{name}2"], [name], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        n("Mul", ["q", constant("root", np.float32(0.5))], ["qs"]),
        n("MatMul", ["qs", "k"], ["scores"]),
        n("Softmax", ["scores"], ["p"], axis=-1),
        n("MatMul", ["p", "v"], ["a0"]),
        n("Transpose", ["a0"], ["a1"], perm=[0, 2, 1, 3]),
        n("Reshape", ["a1", "merged"], ["a2"]),
        n("MatMul", ["a2", weights("wo", WIDTH, WIDTH)], ["o0"]),
        n("Add", [weights("bo", WIDTH), "o0"], ["o1"]),
        n("Add", ["h0", "o1"], ["h1"]),
        n("LayerNormalization", ["h1", weights("g2", WIDTH), weights("c2", WIDTH)], ["l2"], epsilon=1e-5),
        n("MatMul", ["l2", weights("w1", WIDTH, 2 * WIDTH)], ["f0"]),
        n("Add", ["f0", weights("b1", 2 * WIDTH)], ["f1"]),
    ]
    if erf:
        nodes += [
            n("Div", ["f1", constant("r2", np.float32(2**0.5))], ["e0"]),
            n("Erf", ["e0"], ["e1"]),
            n("Add", ["e1", constant("unit", np.float32(1))], ["e2"]),
            n("Mul", ["f1", "e2"], ["e3"]),
            n("Mul", ["e3", constant("half", np.float32(0.5))], ["f2"]),
        ]
    else:
        nodes += [n("Sigmoid", ["f1"], ["e0"]), n("Mul", ["f1", "e0"], ["f2"])]
    nodes += [
        n("MatMul", ["f2", weights("w2", 2 * WIDTH, WIDTH)], ["f3"]),
        n("Sub", ["h1", "f3"], ["h2"]),
        n("LayerNormalization", ["h2", weights("g3", WIDTH)], ["l3"], epsilon=1e-5),
        n("MatMul", ["l3", weights("w3", WIDTH, 5)], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S", 5])
    graph = helper.make_graph(nodes, "block", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def feeds_of(batch: int, length: int, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).normal(size=(batch, length, WIDTH)).astype(np.float32)}


class Reader:
    def __init__(self) -> None:
        self.feeds = iter([feeds_of(2, 9, seed) for seed in range(4)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


VARIANTS = {
    "products": {"op_types_to_quantize": ["MatMul", "Softmax"], "activation_type": quantization.QuantType.QUInt8},
    "signed": {"op_types_to_quantize": ["MatMul", "Softmax"], "activation_type": quantization.QuantType.QInt8},
    "everything": {"activation_type": quantization.QuantType.QUInt8},
}


@pytest.fixture(scope="module", params=VARIANTS)
def quantized(request: Any, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("transformer")
    onnx.save(make_block(erf=request.param != "signed"), folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "qdq.onnx", Reader(), weight_type=quantization.QuantType.QInt8,
        per_channel=True, **VARIANTS[request.param],
    )  # fmt: skip
    return folder / "qdq.onnx"


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (2, 12), (3, 1)])
def test_every_step_equals_the_reference(quantized: Path, batch: int, length: int) -> None:
    session = Session(quantized, 2, kernels=True)
    kinds = check_regions(session, feeds_of(batch, length, 7))
    assert kinds["ActivationMatMul"] == 2
    assert kinds["MatMul"] == 8
    assert kinds["Softmax"] == 1
    assert kinds["LayerNorm"] == 3


def test_it_is_one_region_that_agrees_with_onnxruntime(quantized: Path) -> None:
    session, stock = Session(quantized, 1, kernels=True), exact_session(quantized)
    assert len(session.regions) == 1, session.describe()
    for seed, (batch, length) in enumerate([(1, 9), (2, 5), (1, 9)]):
        feeds = feeds_of(batch, length, seed)
        found, want = session.run(None, feeds)[0], stock.run(None, feeds)[0]
        assert found.shape == want.shape
        assert sqnr(found, want) > 30
    assert not session.regions[0].refusals


def test_the_portable_level_gives_the_same(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = feeds_of(1, 11)
    want = Session(quantized, 1, kernels=True).run(None, feeds)
    monkeypatch.setenv("GRAPHOPT_ISA", "portable")
    session = Session(quantized, 1, kernels=True)
    np.testing.assert_array_equal(session.run(None, feeds)[0], want[0])


@pytest.mark.parametrize("erf", [True, False])
def test_products_quantized_while_running_join_by_float_attention(tmp_path: Path, erf: bool) -> None:
    onnx.save(make_block(erf=erf), tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "dynamic.onnx", extra_options={"MatMulConstBOnly": True}
    )
    session = Session(tmp_path / "dynamic.onnx", 2, kernels=True)
    for batch, length in ((1, 7), (2, 12), (3, 1)):
        feeds = feeds_of(batch, length, 3)
        kinds = check_regions(session, feeds)
        assert (kinds["DynamicMatMul"], kinds["FloatMatMul"], kinds["FloatSoftmax"]) == (8, 2, 1)
        assert kinds["Gelu"] == int(erf)
        want = exact_session(tmp_path / "dynamic.onnx").run(None, feeds)[0]
        assert sqnr(session.run(None, feeds)[0], want) > 35
    assert len(session.regions) == 1 and kinds["FloatFunction"] == int(not erf), session.describe()


def test_gelu_is_known_by_its_algebra(tmp_path: Path) -> None:
    """x / 2 + erf(…) · x / 2 is Gelu, of (x · (1 + erf)) · x the first product alone, of (1 + erf(x)) · y nothing."""
    n = helper.make_node
    common = [
        n("MatMul", ["x", "w"], ["h"]), n("Mul", ["h", "r"], ["s"]), n("Erf", ["s"], ["e"]),
        n("Mul", ["h", "half"], ["g"]),
    ]  # fmt: skip
    spellings = {
        "sum": ([n("Mul", ["g", "e"], ["m"]), n("Add", ["g", "m"], ["z"]), n("Mul", ["z", "one"], ["f"])], 1),
        "square": ([n("Add", ["e", "one"], ["a"]), n("Mul", ["h", "a"], ["z"]), n("Mul", ["z", "g"], ["f"])], 1),
        "other": ([n("Add", ["e", "one"], ["a"]), n("Mul", ["x", "a"], ["f"])], 0),
    }
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(8, 8)), "r": 0.5**0.5, "half": 0.5, "one": 1.0, "v": rng.normal(size=(8, 3)),
    }  # fmt: skip
    for name, (nodes, count) in spellings.items():
        graph = helper.make_graph(
            [*common, *nodes, n("MatMul", ["f", "v"], ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(a, np.float32), key) for key, a in constants.items()],
        )  # fmt: skip
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        quantization.quantize_dynamic(path, tmp_path / "dynamic.onnx")
        session = Session(tmp_path / "dynamic.onnx", 1, kernels=True)
        feeds = {"x": rng.normal(size=(5, 8)).astype(np.float32)}
        assert check_regions(session, feeds)["Gelu"] == count, name
        want = exact_session(tmp_path / "dynamic.onnx").run(None, feeds)[0]
        assert sqnr(session.run(None, feeds)[0], want) > 35


def test_smart_turn_is_one_region_up_to_its_pooling() -> None:
    path = zoo.path("smart-turn")
    if path is None:
        pytest.skip("smart-turn is not in the zoo's cache")
    kinds = check_regions(Session(path, 1, kernels=True), zoo.feeds("smart-turn", 1))
    assert kinds["ActivationMatMul"] == 8
    assert kinds["MatMul"] == 29
    assert kinds["Softmax"] == 4
