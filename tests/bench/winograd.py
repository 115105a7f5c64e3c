"""Winograd convolution beside the direct forms: `python -m tests.bench.winograd [--level avx2] [--seconds 1.5]`.

One thread, interleaved rounds, medians; GMAC/s count the multiply-accumulates of direct convolution. "ratio" is the
median over rounds of (fastest direct form of that round) / Winograd, the forms being onnxruntime u8s8, u8u8 and fp32,
OpenVINO int8 and this project's direct kernel. 7-bit weights, where every form is exact.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels import bind_routine, select_level
from graphopt.kernels.products.epilogue import Requantize
from graphopt.kernels.products.matmul_conv import Activations, prepare_conv
from graphopt.kernels.winograd.algebra import F2, F4
from graphopt.kernels.winograd.convolution import prepare_winograd
from tests.bench.peer import bound_run
from tests.kernels import naive

Array = npt.NDArray[Any]
Run = Callable[[], Any]

SHAPES = ((32, 112), (64, 56), (128, 28), (256, 56), (256, 14), (512, 7))
_X_ZERO, _Y_ZERO = 113, 128


def onnxruntime_form(x: Array, w: Array, scale: float, form: str) -> Run:
    """A QLinearConv (u8s8, u8u8) or Conv (f32) in onnxruntime with I/O binding. x NHWC, w OIHW s8."""
    from onnx import helper

    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if form == "f32":
        node, feed = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), nchw.astype(np.float32)
        return bound_run([node], {"x": feed}, np.ones_like(feed), {"w": w.astype(np.float32)}, opset=13)
    unsigned = form == "u8u8"
    values = {
        "xs": np.float32(1), "xz": np.uint8(_X_ZERO),
        "w": (w.astype(np.int16) + 128).astype(np.uint8) if unsigned else w, "ws": np.float32(scale),
        "wz": np.uint8(128) if unsigned else np.int8(0), "ys": np.float32(1), "yz": np.uint8(_Y_ZERO),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], pads=[1] * 4)
    return bound_run([node], {"x": nchw}, np.ones_like(nchw), values, opset=13)


def openvino_form(x: Array, w: Array, scale: float) -> Run | None:
    """The convolution as QDQ in OpenVINO on one thread, u8 in and out; None where OpenVINO is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    from onnx import TensorProto, helper, numpy_helper

    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    values = {
        "xs": np.float32(1), "xz": np.uint8(_X_ZERO), "w": w, "ws": np.float32(scale), "wz": np.int8(0),
        "ys": np.float32(1), "yz": np.uint8(_Y_ZERO),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"]),
        helper.make_node("Conv", ["xf", "wf"], ["yf"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["yf", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, nchw.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, nchw.shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    core = ov.Core()
    read = core.read_model(model.SerializeToString())
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(read, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(nchw, shared_memory=True))
    return request.infer


def _requantize(scale: float, count: int) -> Requantize:
    return Requantize(np.full(count, scale, np.float32), _Y_ZERO, np.uint8)


def direct_form(x: Array, w: Array, scale: float, y: Array) -> Run:
    """This project's direct convolution at the level in force."""
    routine = prepare_conv(x.shape, w, Activations(np.uint8, _X_ZERO), _requantize(scale, len(w)), pads=(1, 1, 1, 1))
    program, kept = bind_routine(routine, {"x": x, "y": y})
    return lambda: (program.run_worker(0), kept)


def winograd_form(x: Array, w: Array, scale: float, y: Array, m: int, *, on_the_fly: bool = False) -> Run:
    """F(m×m, 3×3) of this project at the level in force."""
    variant, output = F4 if m == 4 else F2, _requantize(scale, len(w))
    activations = Activations(np.uint8, _X_ZERO)
    routine = prepare_winograd(x.shape, w, activations, output, variant=variant, on_the_fly=on_the_fly)
    program, kept = bind_routine(routine, {"x": x, "y": y})
    return lambda: (program.run_worker(0), kept)


def medians(forms: dict[str, Run], seconds: float, clock: Callable[[], float] = time.perf_counter) -> dict[str, Array]:
    """Interleaved seconds of every form, round by round."""
    for run in forms.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in forms}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 7:
        for name, run in forms.items():
            run()  # refills the caches that the form before has emptied
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: np.array(values) for name, values in times.items()}


def main() -> None:
    """Print one line per form and shape, and the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--level", help="force this ISA level for the project's own kernels")
    parser.add_argument("--seconds", type=float, default=1.5, help="per shape")
    parser.add_argument(
        "--cpu", action="store_true", help="count CPU time of the process, for a machine that is shared"
    )
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    if arguments.level:
        os.environ["GRAPHOPT_ISA"] = arguments.level
    print(f"level {select_level().name}; GMAC/s of direct convolution, medians")
    rng = np.random.default_rng(0)
    for channels, size in SHAPES:
        x = naive.placed(rng.integers(0, 256, (1, size, size, channels), dtype=np.uint8))
        w = rng.integers(-64, 64, (channels, channels, 3, 3)).astype(np.int8)
        scale = 1 / (3 * 74 * 37 * np.sqrt(9 * channels) / 128)
        outputs = {name: naive.empty(x.shape, np.uint8) for name in ("F4", "F2", "F4 fly", "direct")}
        forms: dict[str, Run | None] = {
            "F4": winograd_form(x, w, scale, outputs["F4"], 4),
            "F2": winograd_form(x, w, scale, outputs["F2"], 2),
            "F4 fly": winograd_form(x, w, scale, outputs["F4 fly"], 4, on_the_fly=True),
            "direct": direct_form(x, w, scale, outputs["direct"]),
            "ort u8s8": onnxruntime_form(x, w, scale, "u8s8"),
            "ort u8u8": onnxruntime_form(x, w, scale, "u8u8"),
            "ort f32": onnxruntime_form(x, w, scale, "f32"),
            "openvino": openvino_form(x, w, scale),
        }
        present = {name: run for name, run in forms.items() if run is not None}
        times = medians(present, arguments.seconds, clock)
        for name in outputs:
            if name in present and not np.array_equal(outputs[name], outputs["F4"]):
                raise SystemExit(f"{name} differs from F4")
        macs = size * size * channels * channels * 9
        rates = {name: macs / float(np.median(values)) / 1e9 for name, values in times.items()}
        print(f"{channels}ch {size}²: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()), flush=True)
        others = [name for name in present if not name.startswith("F")]
        best = np.min([times[name] for name in others], axis=0)
        ratios = {name: float(np.median(best / times[name])) for name in ("F4", "F2", "F4 fly")}
        line = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        line += f"; F4 over own direct {float(np.median(times['direct'] / times['F4'])):.2f}"
        print(f"    over the fastest direct form: {line}", flush=True)


if __name__ == "__main__":
    main()
