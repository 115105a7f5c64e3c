"""Operators in onnxruntime as peers of a kernel: one thread, inputs and output bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, helper, numpy_helper

from graphopt.machine.sessions import open_session, session_options


def bound_run(
    nodes: Sequence[NodeProto], feeds: Mapping[str, Any], y: Any, constants: Mapping[str, Any], *, opset: int = 21,
    entries: Mapping[str, str] | None = None,
) -> Callable[[], None]:  # fmt: skip
    """A call that computes the graph of `nodes` from `feeds` into an array like y."""

    def described(name: str, array: Any) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    initializers = [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in constants.items()]
    inputs = [described(name, array) for name, array in feeds.items()]
    graph = helper.make_graph(list(nodes), "peer", inputs, [described("y", y)], initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = open_session(model.SerializeToString(), session_options(entries=entries))
    binding = session.io_binding()
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (*feeds.values(), y)]
    for name, value in zip(feeds, kept):
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("y", kept[-1])

    def run() -> None:
        session.run_with_iobinding(binding)

    return run
