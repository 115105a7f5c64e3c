"""Whole models: gradients of weights, unknown sizes, the two forms of the cotangent, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError, OptionError
from graphopt.gradient import gradient_model
from tests.test_conformance import cases

from .checking import check, session

FASHION = Path(__file__).parents[2] / "models" / "fashion_cnn.onnx"


def model(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_every_weight_of_the_fashion_cnn() -> None:
    proto = onnx.load(FASHION)
    wrt = [t.name for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT and t.dims]
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    gradient = session(gradient_model(proto, wrt))
    assert len(wrt) > 8
    cotangent = np.random.default_rng(1).standard_normal((1, 10)).astype(np.float32)
    found = gradient.run(None, {"image": image, "logits.cotangent": cotangent})
    shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    assert [g.shape for g in found[1:]] == [shapes[name] for name in wrt]
    plain = session(proto).run(None, {"image": image})[0]
    assert np.array_equal(found[0], plain) or np.allclose(found[0], plain, rtol=1e-5, atol=1e-5)
    for name, g in zip(wrt, found[1:]):
        moved = onnx.ModelProto.FromString(proto.SerializeToString())
        tensor = next(t for t in moved.graph.initializer if t.name == name)
        weights, norm = numpy_helper.to_array(tensor), float(np.sqrt((g * g).sum()))
        ends = []
        for sign in (1, -1):
            tensor.CopyFrom(numpy_helper.from_array(weights + np.float32(sign * 1e-4 / norm) * g, name))
            ends.append(float((session(moved).run(None, {"image": image})[0] * cotangent).sum()))
        # along the gradient the slope is its norm; single precision and kinks of Relu leave about a hundredth
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(norm, rel=0.05), name


CONVOLUTIONS = {
    "dense": (6, 4, (3, 3), {"pads": [1, 1, 1, 1]}),
    "few inputs": (4, 2, (3, 3), {"pads": [1, 0, 1, 2]}),
    "many inputs": (3, 256, (1, 3), {}),
    "seven inputs, strided": (4, 7, (3, 2), {"strides": [2, 3], "pads": [1, 1, 0, 1]}),
    "dilated": (4, 5, (3, 3), {"dilations": [2, 2], "pads": [3, 3, 3, 3]}),
    "grouped": (6, 4, (3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": (4, 4, (3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "depthwise, strided": (4, 4, (3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "depthwise, twice the outputs": (8, 4, (3, 3), {"group": 4}),
    "pointwise": (6, 5, (1, 1), {}),
    "pointwise, strided": (6, 5, (1, 1), {"strides": [2, 2]}),
    "one axis": (6, 5, (3,), {"pads": [1, 1], "strides": [2]}),
    "as large as its input": (6, 5, (3, 3), {"pads": [1, 1, 1, 1]}),
    "as large as its input, uneven padding": (4, 6, (4, 5), {"pads": [2, 1, 1, 3]}),
    "as large as its input, dilated": (4, 5, (3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "as large as its input, dilated beyond it": (4, 5, (3, 3), {"dilations": [7, 8], "pads": [7, 8, 7, 8]}),
    "as large as its input, grouped": (6, 10, (3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "half as wide as its input": (6, 5, (3, 5), {"pads": [1, 2, 1, 2], "strides": [1, 2]}),
    "wide padding": (3, 5, (2, 2), {"pads": [3, 3, 3, 3]}),
}


@pytest.mark.parametrize("known", [True, False], ids=["known sizes", "unknown sizes"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, known: bool) -> None:
    m, c, kernel, attrs = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    shape = (2, c, *(7, 8)[: len(kernel)])
    w = rng.standard_normal((m, c // attrs.get("group", 1), *kernel)).astype(np.float32)
    b = rng.standard_normal(m).astype(np.float32)
    sizes: Any = shape if known else ("N", c, *("H", "W")[: len(kernel)])
    proto = model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], **attrs)], {"x": sizes}, {"y": [None] * len(shape)}, w=w, b=b
    )
    worst = check(proto, {"x": rng.standard_normal(shape).astype(np.float32)}, ["x", "w", "b"])
    assert worst.differences < 1e-6
    assert worst.single < 1e-4


def test_taps_of_a_convolution_share_shifted_operands() -> None:
    """Two shifted copies of each operand for nine taps, and no Slice: a pair for each tap would be nine."""
    w = np.ones((6, 5, 3, 3), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    made = gradient_model(model(nodes, {"x": ("N", 5, 7, 8)}, {"y": [None] * 4}, w=w), ["w"])
    count = Counter(node.op_type for node in made.graph.node)
    assert (count["Pad"], count["Slice"], count["MatMul"]) == (4, 0, 9)


@pytest.mark.parametrize("sizes", [(2, 4, 7, 8), ("N", 4, "H", "W")], ids=["known sizes", "unknown sizes"])
def test_grouped_strided_convolution(sizes: Any) -> None:
    """In single precision, as the reference evaluator has no such ConvTranspose; y is linear in x and in w."""
    rng = np.random.default_rng(0)
    x, dx, w, dw = (rng.standard_normal(s).astype(np.float32) for s in 2 * [(2, 4, 7, 8)] + 2 * [(6, 2, 3, 3)])
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 0, 1, 0])]
    proto = model(nodes, {"x": sizes, "w": (6, 2, 3, 3)}, {"y": [None] * 4})
    plain = session(proto)
    y = plain.run(None, {"x": x, "w": w})[0]
    g = rng.standard_normal(y.shape).astype(np.float32)
    _, gx, gw = session(gradient_model(proto)).run(None, {"x": x, "w": w, "y.cotangent": g})
    assert (gx * dx).sum() == pytest.approx((g * plain.run(None, {"x": dx, "w": w})[0]).sum(), rel=1e-4)
    assert (gw * dw).sum() == pytest.approx((g * plain.run(None, {"x": x, "w": dw})[0]).sum(), rel=1e-4)


@pytest.mark.parametrize("other", [("N", 3), (1, 3), ("M", 3), (3,), ()])
def test_broadcast_over_sizes_that_only_the_feed_tells(other: tuple[Any, ...]) -> None:
    proto = model([helper.make_node("Mul", ["a", "b"], ["y"])], {"a": ("N", 3), "b": other}, {"y": (None, None)})
    rng = np.random.default_rng(0)
    for size in {"M": (1, 4), "N": (4,)}.get(str(other[0]) if other else "", (0,)):
        b = rng.standard_normal(tuple(size if isinstance(d, str) else d for d in other)).astype(np.float32)
        feeds = {"a": rng.standard_normal((4, 3)).astype(np.float32), "b": np.asarray(b)}
        assert check(proto, feeds).differences < 1e-6


@pytest.mark.parametrize("sizes", [(2, 3, 5), ("N", "M", "K")], ids=["known sizes", "unknown sizes"])
def test_statistics_that_a_layer_normalization_returns(sizes: Any) -> None:
    rng = np.random.default_rng(0)
    scale = rng.standard_normal((3, 5)).astype(np.float32)
    feeds = {"x": rng.standard_normal((2, 3, 5)).astype(np.float32)}
    norm = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y", "mean", "r"], axis=1)
    for outputs in (("y", "mean", "r"), ("mean",), ("r",)):
        proto = model([norm], {"x": sizes}, {name: [None] * 3 for name in outputs}, s=scale, b=scale + 1)
        worst = check(proto, feeds, ["x", "s"] if "y" in outputs else ["x"])
        assert worst.differences < 1e-6
        assert worst.single < 1e-4


@pytest.mark.parametrize("one_axis", [False, True])
def test_padding_that_only_the_run_tells(one_axis: bool) -> None:
    """The amounts are the sizes of x, or the last of these: Pad reads what Shape computes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], start=1 if one_axis else 0),
        helper.make_node("Concat", ["sizes", "sizes"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads", "value", *["axes"][: int(one_axis)]], ["y"]),
    ]
    proto = model(nodes, {"x": ("N", "M")}, {"y": (None, None)}, value=np.float32(2), axes=np.array([1]))
    proto.opset_import[0].version = 18
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    worst = check(proto, {"x": x}, ["x", "value"])
    assert worst.differences < 1e-6
    assert worst.single < 1e-5


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("corners", "sizes"), [(0, ("N", 2, "H", "W")), (1, (2, 2, 4, 5))])
def test_grid_sample(corners: int, sizes: Any, mode: str, padding: str) -> None:
    rng = np.random.default_rng(0)
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding, align_corners=corners)
    proto = model([node], {"x": sizes, "grid": (sizes[0], 3, 6, 2)}, {"y": [None] * 4})
    proto.opset_import[0].version, proto.ir_version = 20, 9
    grid = rng.uniform(-1.3, 1.3, (2, 3, 6, 2)).astype(np.float32)
    worst = check(proto, {"x": rng.standard_normal((2, 2, 4, 5)).astype(np.float32), "grid": grid})
    assert worst.differences < 1e-6
    assert worst.single < 1e-4


def test_a_loss_needs_no_cotangent() -> None:
    nodes = [helper.make_node("Mul", ["x", "x"], ["y"]), helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0)]
    proto = gradient_model(model(nodes, {"x": ("N",)}, {"loss": ()}), ["x"], loss="loss")
    x = np.array([1, -2, 3], np.float32)
    assert np.array_equal(session(proto).run(["x.gradient"], {"x": x})[0], 2 * x)


def test_fake_quantization_passes_gradients_straight_through_and_none_outside_its_range() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    proto = gradient_model(
        model(nodes, {"x": (4,)}, {"y": (4,)}, s=np.float32(0.1), z=np.int8(0)), ["x", "s"], loss="y"
    )
    x = np.array([0.52, -3.04, 100, -100], np.float32)
    _, dx, ds = session(proto).run(None, {"x": x})
    assert np.allclose(dx, [1, 1, 0, 0])
    # of LSQ: round(x/s) − x/s inside, the bound's code outside
    assert ds == pytest.approx((5 - 5.2) + (-30 + 30.4) + 127 - 128, abs=1e-4)


def blocked(
    sizes: tuple[Any, ...], scales: tuple[Any, ...], axis: int, block: int, only: bool = False
) -> onnx.ModelProto:
    """DequantizeLinear of int4 by blocks, of codes q that are given or, but for `only`, of x rounded to them."""
    attrs: dict[str, Any] = {"axis": axis, "block_size": block}
    nodes = [helper.make_node("Cast", ["x"], ["q"], to=TensorProto.INT4)]
    if not only:
        nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs)]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs))
    proto = model(nodes, {"x": sizes, "s": scales}, {"y": sizes})
    z = np.array([(5 * k) % 7 - 3 for k in range(int(np.prod(SCALES)))]).reshape(SCALES)
    proto.graph.initializer.append(helper.make_tensor("z", TensorProto.INT4, SCALES, z.ravel()))
    proto.opset_import[0].version, proto.ir_version = 21, 10
    return proto


SCALES = (3, 2, 2)


@pytest.mark.parametrize("sizes", [(3, 6, 2), (3, "N", 2)], ids=["known", "unknown"])
def test_scales_of_blocks_of_4_bit_codes_equal_central_differences(sizes: tuple[Any, ...]) -> None:
    """The last block is a part of one: 6 indices along axis 1 in blocks of 4."""
    rng = np.random.default_rng(0)
    q = rng.integers(-8, 8, (3, 6, 2)).astype(np.float32)
    proto, s = blocked(sizes, SCALES, 1, 4, only=True), rng.uniform(0.05, 0.2, SCALES).astype(np.float32)
    worst = check(proto, {"x": q, "s": s}, ["s"])
    assert worst.differences < 1e-6
    assert worst.single < 1e-5


@pytest.mark.parametrize(
    ("sizes", "axis"), [((3, 6, 2), 1), ((3, "N", 2), 1), ((3, 2, 5), -1)], ids=["known", "unknown", "last axis"]
)
def test_fake_quantization_by_blocks_of_4_bits_equals_central_differences_of_its_straight_through_form(
    sizes: tuple[Any, ...], axis: int
) -> None:
    """y = s (clip(x / s + z + c, −8, 7) − z), where c, what rounding adds, counts as constant."""
    rng = np.random.default_rng(1)
    shape = tuple(6 if size == "N" else size for size in sizes)
    block = 4 if axis == 1 else 3
    x, s = rng.standard_normal(shape), rng.uniform(0.1, 0.3, SCALES)
    proto = gradient_model(blocked(sizes, SCALES, axis, block), ["x", "s"])
    z = np.array([(5 * k) % 7 - 3 for k in range(int(np.prod(SCALES)))], float).reshape(SCALES)
    x, s = x.astype(np.float32).astype(float), s.astype(np.float32).astype(float)

    def wide(vector: Any) -> Any:
        return np.repeat(vector, block, axis).take(range(shape[axis]), axis)

    added = np.round(x / wide(s)) - x / wide(s)
    cotangent = rng.standard_normal(shape)

    def loss(x: Any, s: Any) -> float:
        inside = np.clip(x / wide(s) + wide(z) + added, -8, 7)
        return float((wide(s) * (inside - wide(z)) * cotangent).sum())

    _, dx, ds = session(proto).run(
        None, {n: np.float32(v) for n, v in (("x", x), ("s", s), ("y.cotangent", cotangent))}
    )
    reached = np.round(x / wide(s)) + wide(z)
    assert (reached < -8).any() or (reached > 7).any()
    for array, found in ((x, dx), (s, ds)):
        for index in np.ndindex(array.shape):
            kept, ends = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = kept + step
                ends.append(loss(x, s))
            array[index] = kept
            assert found[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-4)


def test_an_operator_without_gradient_is_named() -> None:
    proto = model([helper.make_node("Unique", ["x"], ["y"], name="once")], {"x": (2,)}, {"y": (2,)})
    with pytest.raises(ModelError, match=r"no gradient of Unique 'once': the operator has no gradient rule"):
        gradient_model(proto)


def test_floats_in_a_sequence_are_not_lost_in_silence() -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("ArgMax", ["x"], ["i"], keepdims=0),
        helper.make_node("SequenceAt", ["s", "i"], ["y"], name="pick"),
    ]
    with pytest.raises(ModelError, match="pick"):
        gradient_model(model(nodes, {"x": (2,)}, {"y": (2,)}))


def test_names_that_the_model_does_not_have() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)}, {"y": (2,)})
    with pytest.raises(OptionError, match="no input or initializer 'w'"):
        gradient_model(proto, ["w"])
    with pytest.raises(OptionError, match="no output 'z'"):
        gradient_model(proto, ["x"], loss="z")


SEQUENCES = {
    "built": """g (float[2, 3] x, float[2, 3] w) => (float[2, 3] y) {
        empty = SequenceEmpty()
        one = SequenceInsert(empty, x)
        both = SequenceInsert(one, w, zero)
        s = Sin(x)
        three = SequenceInsert(both, s)
        rest = SequenceErase(three, zero)
        p = SequenceAt(rest, zero)
        q = SequenceAt(rest, last)
        y = Mul(p, q)
    }""",
    "split": """g (float[4, 3] x) => (float[3, 2] y, float[2, 3] z) {
        rows = SplitToSequence<axis = 0, keepdims = 0>(x)
        halves = SplitToSequence<axis = 0>(x, two)
        first = SequenceAt(rows, zero)
        end = SequenceAt(rows, last)
        e = Exp(end)
        pair = SequenceConstruct(first, e)
        y = ConcatFromSequence<axis = 1, new_axis = 1>(pair)
        half = SequenceAt(halves, last)
        z = Sin(half)
    }""",
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_whose_parts_are_known(name: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{SEQUENCES[name]}')
    for key, number in {"zero": 0, "last": -1, "two": 2}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.int64(number), key))
    rng = np.random.default_rng(0)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    feeds = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    worst = check(proto, feeds)
    assert worst.differences < 1e-6 and worst.single < 1e-5
    assert not any("Sequence" in node.op_type for node in gradient_model(proto).graph.node)


def test_batch_normalization_with_the_statistics_of_the_batch() -> None:
    nodes = [helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "m1", "v1"], training_mode=1)]
    shapes = {"x": (3, 2, 4), "s": (2,), "b": (2,), "m": (2,), "v": (2,)}
    proto = model(nodes, shapes, {"y": (3, 2, 4), "m1": (2,), "v1": (2,)})
    rng = np.random.default_rng(0)
    feeds = {n: rng.random(shape).astype(np.float32) for n, shape in shapes.items()}
    worst = check(proto, feeds)
    assert worst.differences < 1e-5 and worst.single < 1e-4


def test_a_determinant_of_a_singular_matrix() -> None:
    proto = model([helper.make_node("Det", ["x"], ["y"])], {"x": (3, 3)}, {"y": ()})
    x = np.array([[1, 2, 3], [2, 4, 6], [1, 0, 1]], np.float32)
    _, slope = session(gradient_model(proto)).run(None, {"x": x, "y.cotangent": np.ones((), np.float32)})
    minors = [
        [np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) * (-1) ** (i + j) for j in range(3)] for i in range(3)
    ]
    assert np.allclose(slope, minors, atol=1e-4)


def test_a_scan_of_opset_8_is_refused_in_one_line() -> None:
    proto = next(m for name, m, _ in cases() if name.endswith("test_scan_sum"))
    with pytest.raises(ModelError, match="a Scan of opset 8"):
        gradient_model(proto)
