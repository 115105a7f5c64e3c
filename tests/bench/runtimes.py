"""One model in every available runtime, ready for timing: calls without arguments, on given feeds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.measure import ort_session

Feeds = dict[str, Any]
EXACT = {"session.x64quantprecision": "1"}


def unsigned_weights(source: Path) -> Path:
    """The same QDQ model with its s8 weights stored as u8 and a zero point of 128: onnxruntime's u8u8 form."""
    target = source.with_name(f"{source.stem}-u8u8.onnx")
    if target.is_file() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    model = onnx.load(source)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        codes = numpy_helper.to_array(stored[node.input[0]])
        if codes.dtype != np.int8:
            continue
        scale = numpy_helper.to_array(stored[node.input[1]])
        zero = np.zeros(scale.shape, np.int8)
        if len(node.input) > 2:
            zero = numpy_helper.to_array(stored[node.input[2]])
        names = (f"{node.input[0]}/u8", f"{node.input[0]}/u8/zero")
        for name, values in zip(names, (codes, zero)):
            if name not in stored:
                made = numpy_helper.from_array((values.astype(np.int16) + 128).astype(np.uint8), name)
                model.graph.initializer.append(made)
                stored[name] = made
        node.input[:] = [names[0], node.input[1], names[1]]
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    beside = target.with_suffix(".part")
    onnx.save(model, beside)
    beside.replace(target)
    return target


def openvino_call(path: Path, feeds: Feeds, threads: int) -> Callable[[], object] | None:
    """The file compiled by OpenVINO for this CPU with latency in mind; None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    tensors = {name: ov.Tensor(array, shared_memory=True) for name, array in feeds.items()}
    return lambda: request.infer(tensors)


def runtimes(
    quantized: Path, original: Path | None, feeds: Feeds, threads: int
) -> tuple[dict[str, Callable[[], object]], Any, Any]:
    """Calls by runtime, this project's first; its Session; onnxruntime's session in its exact setting."""
    from graphopt.runtime import Session

    ours = Session(quantized, threads)
    exact = ort_session(str(quantized), threads=threads, options=EXACT)
    sessions: dict[str, Any] = {"Session": ours}
    if original is not None:
        sessions["ORT fp32"] = ort_session(str(original), threads=threads)
    sessions["ORT qdq"] = ort_session(str(quantized), threads=threads)
    sessions["ORT exact"] = exact
    sessions["ORT u8u8"] = ort_session(str(unsigned_weights(quantized)), threads=threads)
    calls: dict[str, Callable[[], object]] = {
        name: (lambda s=session: s.run(None, feeds))  # type: ignore[misc]
        for name, session in sessions.items()
    }
    peer = openvino_call(quantized, feeds, threads)
    if peer is not None:
        calls["OpenVINO"] = peer
    return calls, ours, exact
