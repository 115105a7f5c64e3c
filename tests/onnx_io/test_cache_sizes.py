"""Sizes of caches that a decoder's file leaves open, as onnxruntime-genai's builder does, follow from its operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.calibration.prompts import Prompts
from graphopt.equivalence.runnable import open_runnable
from graphopt.errors import InputError
from tests.runtime.genai import Form, make_genai_model
from tests.runtime.language import HEADS, SIZE, stock


def shapes(model: onnx.ModelProto) -> dict[str, tuple[object, ...]]:
    """Of the caches that are inputs, in the IR and where the file is run."""
    lifted = {v.name: v.type.shape for v in onnx_io.load(model).graph.inputs}
    assert {info.name: tuple(info.dims or ()) for info in open_runnable(model).inputs} == {
        name: tuple(getattr(dim, "name", dim) for dim in shape) for name, shape in lifted.items()
    }
    return {name: shape for name, shape in lifted.items() if "past" in name}


@pytest.mark.parametrize("packed", [True, False])
def test_heads_of_grouped_attention(packed: bool) -> None:
    found = shapes(make_genai_model(Form(packed=packed)))
    assert len(found) == 4 and {shape[1::2] for shape in found.values()} == {(HEADS, SIZE)}


def concatenating(target: Sequence[int], is_float: bool = True) -> onnx.ModelProto:
    """Rows [batch, tokens, 6 · 16] of a product as heads behind a cache, which is returned."""
    kind = TensorProto.FLOAT if is_float else TensorProto.FLOAT16
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k"]),
        helper.make_node("Reshape", ["k", "target"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["past.key", "turned"], ["present.key"], axis=2),
    ]
    weight = np.ones((8, 96), np.float32 if is_float else np.float16)
    graph = helper.make_graph(
        nodes, "g", [info("x", kind, ["b", "s", 8]), info("past.key", kind, ["b", 6, "past", "size"])],
        [info("present.key", kind, ["b", 6, "total", "size"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(target), "target")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("target", "size"), [([0, 0, 6, -1], 16), ([0, 0, 6, 16], 16), ([0, -1, 6, 16], 16)])
@pytest.mark.parametrize("is_float", [True, False])
def test_heads_that_concat_makes_longer(target: list[int], size: int, is_float: bool) -> None:
    model = concatenating(target, is_float)
    assert {shape[3] for shape in shapes(model).values()} == {size}
    assert graphopt.compare(model, graphopt.optimize(model).model).status == "equal"


def test_sizes_that_nothing_decides_stay_open() -> None:
    model = concatenating([0, 0, 6, -1])
    model.graph.node[3].input[1], model.graph.node[2].input[0] = "x4", "k"  # the cache grows by an input
    del model.graph.node[1:3]
    model.graph.input.append(helper.make_tensor_value_info("x4", TensorProto.FLOAT, ["b", 6, "new", "size"]))
    (shape,) = shapes(model).values()
    assert not isinstance(shape[3], int)


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_files_of_genai_are_optimised_and_quantized(mode: str) -> None:
    """Packed weights are kept, and what the model writes itself is what it is judged by."""
    model = make_genai_model()
    result = graphopt.optimize(model, quantize=mode, target="onnxruntime")
    assert "already quantized" in result.report.stages[0].summary
    prompts = Prompts.of(open_runnable(model), onnx_io.load(model))
    assert prompts is not None and len(prompts.caches) == 4
    given = prompts.feed(np.arange(5))
    for a, b in zip(stock(result.model).run(None, given), stock(model).run(None, given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_prompt_goes_on_by_one_token_where_no_more_are_taken() -> None:
    """As in files of genai in half precision."""
    prompts = Prompts.of(open_runnable(make_genai_model()))
    session, lengths = stock(make_genai_model()), []

    def run(feeds: dict[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
        past = feeds["past_key_values.0.key"].shape[2]
        if past and feeds["input_ids"].shape[1] > most:
            raise InputError("inputs: too many tokens")
        return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))

    assert prompts is not None
    for most in (2, 1, 0):
        feeds = prompts.continued(np.arange(10), lambda given, most=most: run(given, most))
        lengths.append([feed["input_ids"].shape[1] for feed in feeds])
    assert lengths == [[5, 5], [5, 1], [10]]
