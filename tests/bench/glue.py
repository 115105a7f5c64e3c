"""Glue and depthwise kernels beside onnxruntime's operators on the same data: interleaved medians, one thread.

python -m tests.bench.glue
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.kernels import Buffer, Routine, bind_routine, select_level
from graphopt.kernels.elementwise.codes import prepare_binary, prepare_dequantize, prepare_quantize, prepare_table
from graphopt.kernels.elementwise.functions import FloatFunctionName, prepare_float_function
from graphopt.kernels.layout.interpolate import linear_taps, prepare_resize_linear
from graphopt.kernels.layout.moves import copy_rows_step
from graphopt.kernels.normalization.instance_norm import prepare_instance_norm
from graphopt.kernels.pooling.codes import prepare_average_pool, prepare_max_pool
from graphopt.kernels.pooling.floats import prepare_mean
from graphopt.kernels.products.depthwise import prepare_depthwise
from graphopt.kernels.tensors.quantization import Quantization
from graphopt.kernels.tensors.windows import Image, Window
from tests.bench.peer import bound_run
from tests.kernels import naive
from tests.kernels.naive import Array

ROUNDS = 31
MICROSOFT = "com.microsoft"
A, B, Y = Quantization(0.02, 120), Quantization(0.03, 130), Quantization(0.05, 128)


def constants(prefix: str, q: Quantization) -> dict[str, Array]:
    zero: Array = np.array(q.zero_point, q.dtype)
    return {prefix + "_scale": np.array(q.scale, np.float32), prefix + "_zero": zero}


def peer(op: str, domain: str, inputs: list[str], fed: dict[str, Array], kept: dict[str, Array], y: Array,
         **attributes: Any) -> Callable[[], None]:  # fmt: skip
    """One operator in a session of its own, inputs and output bound."""
    node = helper.make_node(op, inputs, ["y"], domain=domain, **attributes)
    return bound_run([node], fed, y, kept, opset=17)


def compare(name: str, routine: Routine, buffers: dict[str, Array], other: Callable[[], None], work: float) -> None:
    """Print both medians; `work` is bytes moved, or multiply-accumulates where the routine counts them."""
    program, keep = bind_routine(routine, buffers)
    runs: dict[str, Callable[[], None]] = {"graphopt": lambda: program.run_worker(0), "onnxruntime": other}
    times: dict[str, list[float]] = {label: [] for label in runs}
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for label, run in runs.items():
            start = time.perf_counter()
            for _ in range(5):
                run()
            times[label].append((time.perf_counter() - start) / 5)
    ours, theirs = median(times["graphopt"]), median(times["onnxruntime"])
    unit = "GMAC/s" if any(step.macs for step in routine.steps) else "GB/s"
    print(f"{name:34s} {work / ours / 1e9:8.1f} {work / theirs / 1e9:8.1f} {unit:7s} {theirs / ours:6.2f}x")
    del keep


def elementwise(rng: np.random.Generator) -> None:
    shape = (1, 56, 56, 128)
    count = int(np.prod(shape))
    a, b = (naive.placed(rng.integers(0, 256, shape).astype(np.uint8)) for _ in range(2))
    y, real = naive.empty(shape, np.uint8), naive.empty(shape, np.float32)
    x = naive.placed(rng.normal(0, 2, shape).astype(np.float32))
    own = constants("q", Y)
    fed = {"x": x}
    other = peer("QuantizeLinear", "", ["x", "q_scale", "q_zero"], fed, own, y)
    compare("QuantizeLinear", prepare_quantize(count, Y), {"x": x, "y": y}, other, 5 * count)
    other = peer("DequantizeLinear", "", ["x", "q_scale", "q_zero"], {"x": a}, own, real)
    compare("DequantizeLinear", prepare_dequantize(count, Y), {"x": a, "y": real}, other, 5 * count)
    kept = constants("a", A) | constants("b", B) | constants("c", Y)
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "c_scale", "c_zero"]
    squeeze = naive.placed(rng.integers(0, 256, (1, 1, 1, 128)).astype(np.uint8))
    for op, kind, second in (
        ("add", "QLinearAdd", b), ("multiply", "QLinearMul", b), ("multiply", "QLinearMul", squeeze),
    ):  # fmt: skip
        other = peer(kind, MICROSOFT, names, {"a": a, "b": second}, kept, y)
        routine = prepare_binary(op, shape, second.shape, A, B, Y)  # type: ignore[arg-type]
        compare(f"{kind} {second.shape}", routine, {"a": a, "b": second, "y": y}, other, 3 * count)
    names = ["a", "a_scale", "a_zero", "c_scale", "c_zero"]
    other = peer("QLinearSigmoid", MICROSOFT, names, {"a": a}, constants("a", A) | constants("c", Y), y)
    table = Y.quantize((1 / (1 + np.exp(-A.dequantize(A.codes())))).astype(np.float32))
    compare("QLinearSigmoid (table)", prepare_table(count, table), {"x": a, "y": y}, other, 2 * count)


def functions(rng: np.random.Generator) -> None:
    count = 1 << 16
    x, y = naive.placed(rng.normal(0, 2, count).astype(np.float32)), naive.empty((count,), np.float32)
    names: dict[str, FloatFunctionName] = {
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
        "Exp": "exp",
        "Sqrt": "sqrt",
        "Neg": "negative",
    }
    for op, name in names.items():
        compare(
            op,
            prepare_float_function(name, count, 1.0),
            {"x": x, "y": y},
            peer(op, "", ["x"], {"x": x}, {}, y),
            8 * count,
        )
    image, taps = Image(1, 32, 32, 64), linear_taps(32, 64, 2.0, "half_pixel")
    kept = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    large = naive.empty((1, 64, 64, 64), np.float32)
    other = peer("Resize", "", ["x", *kept], {"x": x.reshape(1, 64, 32, 32)}, kept, large, mode="linear")
    compare("Resize linear", prepare_resize_linear(image, taps, taps), {"x": x, "y": large}, other, 4 * large.size)
    rows = naive.empty((256, 1), np.float32)
    given = {"x": x.reshape(256, 256)}
    other = peer("ReduceMean", "", ["x"], given, {}, rows, axes=[1])
    compare("ReduceMean", prepare_mean(256, 256, 1), {"x": x, "y": rows}, other, 4 * count)
    half = naive.empty((256, 128), np.float32)
    kept = {"first": np.array([128]), "last": np.array([256]), "axis": np.array([1])}
    step = copy_rows_step(256, 512, Buffer("x"), Buffer("y"), x_stride=1024, y_stride=512)
    other = peer("Slice", "", ["x", *kept], given, kept, half)
    compare("Slice", Routine((step,)), {"x": x, "y": half}, other, 4 * count)
    planes, kept = x.reshape(1, 8, -1), {"scale": np.ones(8, np.float32), "bias": np.ones(8, np.float32)}
    other = peer("InstanceNormalization", "", ["x", *kept], {"x": planes}, kept, naive.empty(planes.shape, np.float32))
    routine = prepare_instance_norm(1, count // 8, kept["scale"], kept["bias"], 1e-5)
    compare("InstanceNormalization", routine, {"x": x, "y": y}, other, 8 * count)


def pools(rng: np.random.Generator) -> None:
    for image, window in (
        (Image(1, 112, 112, 64), Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1))),
        (Image(1, 56, 56, 128), Window((2, 2), (2, 2))),
    ):
        x = naive.placed(rng.integers(0, 256, image.shape).astype(np.uint8))
        y = naive.empty(window.output(image).shape, np.uint8)
        shared = {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.pads}
        other = peer("NhwcMaxPool", MICROSOFT, ["x"], {"x": x}, {}, y, **shared)
        compare(
            f"MaxPool {image.shape} {window.kernel}", prepare_max_pool(image, window), {"x": x, "y": y}, other, x.size
        )
        names = ["x", "a_scale", "a_zero", "c_scale", "c_zero"]
        kept = constants("a", A) | constants("c", Y)
        other = peer("QLinearAveragePool", MICROSOFT, names, {"x": x}, kept, y, channels_last=1, **shared)
        routine = prepare_average_pool(image, window, A, Y)
        compare(f"AveragePool {image.shape} {window.kernel}", routine, {"x": x, "y": y}, other, x.size)
    image = Image(1, 7, 7, 2048)
    x = naive.placed(rng.integers(0, 256, image.shape).astype(np.uint8))
    y = naive.empty((1, 1, 1, 2048), np.uint8)
    other = peer("QLinearGlobalAveragePool", MICROSOFT, names, {"x": x}, kept, y, channels_last=1)
    compare(
        "GlobalAveragePool 7x7x2048", prepare_average_pool(image, Window((7, 7)), A, Y), {"x": x, "y": y}, other, x.size
    )


def depthwise(rng: np.random.Generator) -> None:
    shapes = [(112, 32, 3, 1), (56, 128, 3, 1), (14, 512, 3, 1), (112, 96, 3, 2), (56, 144, 3, 2), (14, 576, 3, 2),
              (28, 240, 5, 1), (14, 672, 5, 1)]  # fmt: skip
    for size, channels, k, stride in shapes:
        image = Image(1, size, size, channels)
        window = Window((k, k), (stride, stride), (1, 1), (k // 2,) * 4)
        x = naive.placed(rng.integers(0, 256, image.shape).astype(np.uint8))
        w = rng.integers(-64, 65, (channels, k, k)).astype(np.int8)
        weight = Quantization(0.01, 0, signed=True)
        y, theirs = (naive.empty(window.output(image).shape, np.uint8) for _ in range(2))
        scale = np.full(channels, np.float32(A.scale) * np.float32(weight.scale) / np.float32(Y.scale), np.float32)
        routine = prepare_depthwise(image, window, w, scale, x_zero_point=A.zero_point, y_zero_point=Y.zero_point)
        kept = constants("a", A) | constants("w", weight) | constants("c", Y) | {"w": w[:, None]}
        names = ["x", "a_scale", "a_zero", "w", "w_scale", "w_zero", "c_scale", "c_zero"]
        attributes = {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.pads, "group": channels}
        other = peer("QLinearConv", MICROSOFT, names, {"x": x}, kept, theirs, channels_last=1, **attributes)
        name = f"depthwise {k}x{k} s{stride} {size}²x{channels}"
        compare(name, routine, {"x": x, "y": y}, other, routine.steps[0].macs)


def main() -> None:
    """Print one line per kernel: graphopt, onnxruntime, unit, ratio."""
    rng = np.random.default_rng(0)
    print(f"level {select_level().name}; {TensorProto.DataType.Name(TensorProto.UINT8).lower()} NHWC, one thread")
    print(f"{'':34s} {'graphopt':>8s} {'ort':>8s}")
    elementwise(rng)
    functions(rng)
    pools(rng)
    depthwise(rng)


if __name__ == "__main__":
    main()
