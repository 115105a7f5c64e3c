"""Branches of If are quantized as models of their own; bodies of loops are left, with the reason."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.measure import ort_session
from tests.quantize.nets import images

RNG = np.random.default_rng(0)


def conv(source: str, made: str, inputs: int, outputs: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    weight = RNG.standard_normal((outputs, inputs, 3, 3)).astype(np.float32) * np.float32((2 / inputs / 9) ** 0.5)
    bias = RNG.standard_normal(outputs).astype(np.float32) * np.float32(0.1)
    nodes = [
        helper.make_node("Conv", [source, f"{made}_w", f"{made}_b"], [f"{made}_c"], name=made, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [f"{made}_c"], [made], name=f"{made}_relu"),
    ]
    return nodes, [numpy_helper.from_array(weight, f"{made}_w"), numpy_helper.from_array(bias, f"{made}_b")]


def float_info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def branching(deeper: bool = False) -> onnx.ModelProto:
    """h = conv(x); if flag: conv(conv(h)) else conv(h) or, deeper, the same choice within it by another flag."""
    stem, weights = conv("x", "h", 3, 8)

    def branch(name: str, *made: str) -> onnx.GraphProto:
        nodes, source = [], "h"
        for last in made:
            new, stored = conv(source, last, 8, 8)
            nodes, source = [*nodes, *new], last
            weights.extend(stored)
        return helper.make_graph(nodes, name, [], [float_info(source, "N", 8, 16, 16)])

    first, second = branch("long", "a", "b"), branch("short", "c")
    if deeper:
        inner = helper.make_node(
            "If", ["other"], ["d"], name="inner", then_branch=branch("in", "e"), else_branch=second
        )
        second = helper.make_graph([inner], "outer", [], [float_info("d", "N", 8, 16, 16)])
    choice = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=first, else_branch=second)
    flags = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("flag", *(["other"] if deeper else []))]
    graph = helper.make_graph(
        [*stem, choice],
        "branching",
        [float_info("x", "N", 3, 16, 16), *flags],
        [float_info("y", "N", 8, 16, 16)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds(*flags: tuple[bool, ...]) -> list[dict[str, np.ndarray]]:
    names = ("flag", "other")
    return [{**x, **{n: np.array(v) for n, v in zip(names, row)}} for x, row in zip(images(16), flags * 16)]


def quantized(model: onnx.ModelProto, data: list[dict[str, np.ndarray]], mode: str = "static") -> graphopt.Result:
    options = graphopt.Quantize(mode=mode, speed=False, min_sqnr=15.0, min_top1=0.0)
    before = model.SerializeToString()
    made = graphopt.optimize(model, quantize=options, calibration=data)
    assert model.SerializeToString() == before
    onnx.checker.check_model(made.model, full_check=True)
    return made


def branches(node: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
    return {attribute.name: list(attribute.g.node) for attribute in node.attribute}


def stored(nodes: list[onnx.NodeProto]) -> int:
    return sum(node.op_type == "DequantizeLinear" for node in nodes)


def choice_of(made: graphopt.Result) -> dict[str, list[onnx.NodeProto]]:
    return branches(next(node for node in made.model.graph.node if node.op_type == "If"))


def sqnr(made: graphopt.Result, model: onnx.ModelProto, data: list[dict[str, np.ndarray]]) -> float:
    a, b = ort_session(model.SerializeToString()), ort_session(made.model.SerializeToString())
    pairs = [(a.run(None, feed)[0], b.run(None, feed)[0]) for feed in data]
    return 10 * np.log10(sum((x**2).sum() for x, _ in pairs) / sum(((x - y) ** 2).sum() for x, y in pairs))


@pytest.mark.parametrize("mode", ["static", "weights"])
def test_both_branches_and_what_is_around_them_are_quantized(mode):
    model, data = branching(), feeds((True,), (False,))
    made = quantized(model, data, mode)
    assert all(stored(nodes) for nodes in choice_of(made).values())
    assert sqnr(made, model, data) > 25
    stage = made.report.stages[0]
    assert stage.figures["layers"] == 4 and stage.figures["share_of_macs"] == pytest.approx(1.0)
    assert {row[0] for row in stage.rows} == {"h", "a", "b", "c"}


def test_a_branch_that_no_sample_takes_stays_float():
    made = quantized(branching(), feeds((True,)))
    found = choice_of(made)
    assert stored(found["then_branch"]) and not stored(found["else_branch"])
    reasons = dict(made.report.stages[0].refused)
    assert reasons["choice, else branch"] == "no sample of the calibration data takes this branch"


def test_branches_within_branches():
    model, data = branching(deeper=True), feeds((True, True), (False, True), (False, False))
    made = quantized(model, data)
    found = choice_of(made)
    inner = branches(next(node for node in found["else_branch"] if node.op_type == "If"))
    assert all(stored(nodes) for nodes in (found["then_branch"], *inner.values()))
    assert sqnr(made, model, data) > 25


def test_a_loop_keeps_its_body_and_says_why():
    nodes, weights = conv("s", "a", 3, 3)
    same = helper.make_node("Identity", ["going"], ["goes_on"])
    flag = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    body = helper.make_graph(
        [same, *nodes], "body", [helper.make_tensor_value_info("i", TensorProto.INT64, []), flag,
                                 float_info("s", "N", 3, 16, 16)],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []), float_info("a", "N", 3, 16, 16)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["turns", "", "x"], ["y"], name="turning", body=body)
    turns = helper.make_tensor_value_info("turns", TensorProto.INT64, [])
    graph = helper.make_graph(
        [loop], "looping", [float_info("x", "N", 3, 16, 16), turns], [float_info("y", "N", 3, 16, 16)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = [{**feed, "turns": np.array(2)} for feed in images(4)]
    made = quantized(model, data)
    assert not made.report.stages[0].changed
    assert ("turning", "in the body of Loop, whose values cannot be read") in made.report.stages[0].refused
