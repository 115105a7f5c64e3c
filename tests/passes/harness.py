"""Run passes on models written as text, and check that results stay equal.

Names declared in `<…>` without a value are weights: taken from the keywords, else normal with a seed.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import helper, numpy_helper

from graphopt import onnx_io
from graphopt.ir import Model, clone_model, to_text
from graphopt.pipeline import Pass, run_pass
from graphopt.rewrite import Context

Array = np.ndarray
HEAD = '<ir_version: 8, opset_import: ["" : {opset}]>\n'


def parse(text: str, opset: int = 17, **weights: Array) -> onnx.ModelProto:
    """The model `text` describes; its header is written from `opset` unless the text has one."""
    text = text.strip()
    model = onnx.parser.parse_model(text if text.startswith("<") else HEAD.format(opset=opset) + text)
    graph, rng = model.graph, np.random.default_rng(0)
    made = {name for node in graph.node for name in node.output}
    made.update(tensor.name for tensor in graph.initializer)
    for info in [info for info in graph.value_info if info.name not in made]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        array = weights.get(info.name, rng.standard_normal(shape))
        graph.initializer.append(numpy_helper.from_array(np.asarray(array).astype(dtype), info.name))
        graph.value_info.remove(info)
    return model


def lift(text: str, opset: int = 17, **weights: Array) -> Model:
    """The IR of the model `text` describes."""
    return onnx_io.load(parse(text, opset, **weights))


def rewrite(model: Model, *passes: Pass, target: str = "portable", size_limit: int | None = None) -> tuple[Model, int]:
    """A copy on which the passes ran, verified after each, and how many changes they made."""
    copy, context = clone_model(model), Context(target, size_limit)
    changes = sum(run_pass(copy, item, context).changes for item in passes)
    return copy, changes


def random_feeds(model: onnx.ModelProto, seed: int = 0, size: int = 2) -> dict[str, Array]:
    """Normal floats, small positive integers, booleans; symbolic sizes are `size`."""
    rng, feeds = np.random.default_rng(seed), {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for given in model.graph.input:
        tensor = given.type.tensor_type
        shape = [d.dim_value or size for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if given.name in stored:
            continue
        if dtype.kind in "iu":
            feeds[given.name] = rng.integers(1, 4, shape).astype(dtype)
        elif dtype.kind == "b":
            feeds[given.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            feeds[given.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def outputs(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """The outputs of onnxruntime with its optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_same(before: Model, after: Model, rtol: float = 1e-5, sizes: tuple[int, ...] = (1, 3)) -> None:
    """Both models keep their interface and compute the same for several sizes of symbolic dims."""
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    onnx.checker.check_model(b)
    assert [v.name for v in a.graph.input] == [v.name for v in b.graph.input]
    assert [v.name for v in a.graph.output] == [v.name for v in b.graph.output]
    for size in sizes:
        feeds = random_feeds(a, seed=size, size=size)
        for x, y in zip(outputs(a, feeds), outputs(b, feeds)):
            assert x.dtype == y.dtype
            scale = float(np.abs(x).max(initial=0))
            assert scale < np.inf, "results that overflow would hide any error"
            np.testing.assert_allclose(y, x, rtol=rtol, atol=rtol * max(1e-6, scale))


def check(text: str, *passes: Pass, opset: int = 17, rtol: float = 1e-5, **weights: Array) -> str:
    """Run passes on `text`, assert that results stay equal, and return the body of the graph as text."""
    before = lift(text, opset, **weights)
    after, _ = rewrite(before, *passes)
    assert_same(before, after, rtol)
    return body(after)


def body(model: Model) -> str:
    """The nodes as text, one a line, without types and the graph's head."""
    lines = to_text(model.graph, constants=True).splitlines()[1:-1]
    return "\n".join(line.strip().partition(" : ")[0] for line in lines)


def ops(model: Model) -> list[str]:
    """The operators in order, nested graphs included."""
    return [node.op for node in model.graph.walk()]
