"""Checks of a gradient model: against central differences in double precision, and that onnxruntime runs it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graphopt.gradient import gradient_model

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
STEP = 1e-6
"""Of central differences in double precision: truncation ~ h², rounding ~ 1e-16 / h."""


def to_double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float as a double: inputs, constants, casts and attributes."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    _double_graph(copy.graph)
    return copy


def _double_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in FLOATS:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _double_graph(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _double_tensor(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                array = np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float64)
                attribute.Clear()
                attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Pad(OpRun):
    """The operator by its definition; the reference evaluator's refuses to crop."""

    def _run(
        self, data: Any, pads: Any, value: Any = None, axes: Any = None, mode: str = "constant"
    ) -> tuple[Any, ...]:
        over = range(data.ndim) if axes is None else [int(a) for a in axes]
        added, kept = [(0, 0)] * data.ndim, [slice(None)] * data.ndim
        for axis, begin, end in zip(over, pads[: len(over)], pads[len(over) :]):
            kept[axis] = slice(max(0, -begin), data.shape[axis] - max(0, -end))
            added[axis] = (max(0, begin), max(0, end))
        more = {"constant_values": 0 if value is None else value.item()} if mode == "constant" else {}
        return (np.pad(data[tuple(kept)], added, mode=mode, **more),)


class Double:
    """Runs a model in double precision: in onnxruntime where it has all kernels, else in ONNX's reference evaluator."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.outputs = [o.name for o in proto.graph.output]
        self.runner: Any
        try:
            self.runner = session(proto)
        except Exception:  # onnxruntime has no double kernel of an operator
            self.runner = ReferenceEvaluator(proto, new_ops=[Pad])

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return dict(zip(self.outputs, self.runner.run(None, feeds)))


@dataclass
class Worst:
    """The largest relative differences found: of the double gradient from central differences, of float from double."""

    differences: float
    single: float


def check(
    proto: onnx.ModelProto, feeds: dict[str, Any], wrt: list[str] | None = None, *, seed: int = 0, single: bool = True,
    directions: int = 2, step: float = STEP,
) -> Worst:  # fmt: skip
    """Compare ⟨gradient, d⟩ with central differences along random directions d of each of `wrt`, with random ȳ.

    step: of the differences; larger where the evaluator is less than double. Constants of `wrt` become inputs.
    Differences are relative to the size of what is compared, at least 1e-3.
    """
    rng = np.random.default_rng(seed)
    proto, feeds = with_inputs(proto, feeds, wrt or [])
    gradient = gradient_model(proto, wrt)
    wide = to_double(gradient)
    double = Double(wide)
    wide_feeds = {n: np.asarray(v, np.float64) if is_float(v) else v for n, v in feeds.items()}
    plain = Double(to_double(proto)).run(wide_feeds)
    cotangents = {
        i.name: np.asarray(rng.standard_normal(np.shape(plain[i.name.removesuffix(".cotangent")])))
        for i in gradient.graph.input
        if i.name.endswith(".cotangent")
    }
    found = double.run({**wide_feeds, **cotangents})
    worst = 0.0
    for name in wrt or [n for n, v in feeds.items() if is_float(v)]:
        g = found[f"{name}.gradient"]
        assert g.shape == wide_feeds[name].shape, (name, g.shape, wide_feeds[name].shape)
        for _ in range(directions):
            d = np.asarray(rng.standard_normal(g.shape))
            ends = []
            for sign in (1, -1):
                moved = {**wide_feeds, name: np.asarray(wide_feeds[name] + sign * step * d)}
                out = double.run({**moved, **cotangents})
                ends.append(sum(_dot(out[n.removesuffix(".cotangent")], c) for n, c in cotangents.items()))
            measured = (ends[0] - ends[1]) / (2 * step)
            scale = max(abs(measured), 1e-3, float(np.sqrt(np.sum(np.square(g)))))
            worst = max(worst, abs(measured - _dot(g, d)) / scale)
    error = 0.0
    if single:
        names = {i.name: i.type.tensor_type.elem_type for i in gradient.graph.input}
        cast = {n: v.astype(onnx.helper.tensor_dtype_to_np_dtype(names[n])) for n, v in cotangents.items()}
        run = session(gradient)
        for name, value in zip((o.name for o in gradient.graph.output), run.run(None, {**feeds, **cast})):
            if name.endswith(".gradient"):
                reference = found[name]
                size = max(float(np.abs(reference).max(initial=0)), 1e-3)
                error = max(error, float(np.abs(value.astype(np.float64) - reference).max(initial=0)) / size)
    return Worst(worst, error)


def _dot(a: Any, b: Any) -> float:
    return float(np.sum(np.where(b == 0, 0.0, a * b)))


def is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")


def with_inputs(
    proto: onnx.ModelProto, feeds: dict[str, Any], names: list[str]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Integer inputs become constants, and the named constants become inputs."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    feeds = dict(feeds)
    copy.ir_version = max(copy.ir_version, 4)  # before, initializers are inputs
    for info in list(copy.graph.input):
        value = feeds.get(info.name)
        if isinstance(value, np.ndarray) and not is_float(value):
            copy.graph.initializer.append(numpy_helper.from_array(feeds.pop(info.name), info.name))
            copy.graph.input.remove(info)
    for tensor in list(copy.graph.initializer):
        if tensor.name in names:
            feeds[tensor.name] = numpy_helper.to_array(tensor)
            copy.graph.initializer.remove(tensor)
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            copy.graph.input.append(info)
    return copy, feeds
