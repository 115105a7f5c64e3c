"""Products and convolutions beside onnxruntime: python -m tests.bench.kernels [--isa avx2] [--weights gaussian].

One thread, interleaved medians. Columns: GMAC/s (for ours also MAC/cycle and the share of the measured ceiling: the
level's dot product between registers, `products.dot_ceiling`), then the ratio to the fastest peer that is exact on
these weights. 7-bit weights are exact in every peer; on Gaussian weights onnxruntime's u8s8 may saturate on CPUs
without VNNI, so there its exact forms are the peers: u8u8 and x64quantprecision=1. A convolution takes the form that a
plan would: Winograd, whose rate counts the direct form's products, with the direct form for comparison, or the direct
form alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper

from graphopt.kernels import Kernel, Program, Routine, Step, bind_routine
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.products.dot_ceiling import peak_rate
from graphopt.kernels.products.dynamic_matmul import prepare_dynamic_matmul
from graphopt.kernels.products.epilogue import Requantize
from graphopt.kernels.products.matmul_conv import Activations, prepare_conv, prepare_matmul
from graphopt.kernels.winograd.choice import choose
from graphopt.kernels.winograd.convolution import prepare_winograd
from tests.bench.peer import bound_run
from tests.kernels.naive import placed

Array = Any
Call = Callable[[], object]

GEMMS = [(128, 768, 768), (128, 768, 3072), (128, 3072, 768), (196, 512, 512), (3136, 64, 256), (1, 4096, 4096)]
CONVS = [  # height, input channels, output channels, kernel, stride, pad
    (112, 32, 32, 3, 1, 1), (56, 64, 64, 3, 1, 1), (28, 128, 128, 3, 1, 1), (14, 256, 256, 3, 1, 1),
    (7, 512, 512, 3, 1, 1), (224, 3, 64, 7, 2, 3), (56, 64, 256, 1, 1, 0), (56, 128, 128, 3, 2, 1),
]  # fmt: skip
DYNAMIC = [(128, 768, 768), (128, 768, 3072), (1, 4096, 4096)]


def clock_ghz(seconds: float = 0.05) -> float:
    """The core's present frequency, from a chain of dependent one-cycle operations in compiled code."""
    probe = Kernel("tests.bench.clock:chain", {"out": "i64*", "count": "i64"})
    out = np.zeros(1, np.int64)
    count = 1_000_000
    program = Program([(Step(probe, {"out": out, "count": count}, tiles=1), {})])
    program.run_worker(0)
    best, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        program.run_worker(0)
        best = min(best, time.perf_counter() - start)
    return 2 * count / best / 1e9


def interleaved(
    calls: dict[str, Call], rounds: int, target: float = 0.004, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each call; every round runs each for about `target` seconds."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(target / (time.perf_counter() - start)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats[name]):
                call()
            taken[name].append((clock() - start) / repeats[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def onnxruntime_call(nodes: list[Any], x: Array, y_shape: tuple[int, ...], y_type: Any, constants: dict[str, Array],
                     exact: bool = False) -> Call:  # fmt: skip
    """A bound run of a graph from x to y in onnxruntime, one thread."""
    entries = {"session.x64quantprecision": "1"} if exact else None
    return bound_run(nodes, {"x": x}, np.ones(y_shape, y_type), constants, entries=entries)


def draw_weights(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    if kind == "7bit":
        return rng.integers(-63, 64, shape).astype(np.int8)
    return np.clip(np.rint(rng.normal(0, 40, shape)), -127, 127).astype(np.int8)


def quantized_peers(x: Array, w: Array, y_shape: tuple[int, ...], node: Callable[[list[str]], Any], outputs: int,
                    float_node: Callable[[list[str]], Any] | None) -> dict[str, Call]:  # fmt: skip
    """onnxruntime's forms of one quantized operator: node() takes the eight inputs of QLinearMatMul or QLinearConv."""
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    common = {
        "sx": np.float32(0.01),
        "sw": np.full(outputs, 0.01, np.float32),
        "sy": np.float32(1),
        "zy": np.uint8(128),
    }
    s8 = {**common, "w": w, "zw": np.zeros(outputs, np.int8)}
    u8 = {**common, "w": (w.astype(np.int32) + 128).astype(np.uint8), "zw": np.full(outputs, 128, np.uint8)}
    unsigned = {"zx": np.uint8(128)}
    signed_x, signed = (x.astype(np.int32) - 128).astype(np.int8), {"zx": np.int8(0), "zy": np.int8(0)}
    operator = node(names)
    calls = {
        "u8s8": onnxruntime_call([operator], x, y_shape, np.uint8, {**s8, **unsigned}),
        "exact": onnxruntime_call([operator], x, y_shape, np.uint8, {**s8, **unsigned}, exact=True),
        "u8u8": onnxruntime_call([operator], x, y_shape, np.uint8, {**u8, **unsigned}),
        "s8s8": onnxruntime_call([operator], signed_x, y_shape, np.int8, {**s8, **signed}),
    }
    if float_node is not None:
        constants = {"w": w.astype(np.float32)}
        calls["fp32"] = onnxruntime_call([float_node(["x", "w"])], x.astype(np.float32), y_shape, np.float32, constants)
    return calls


def report(name: str, macs: int, times: dict[str, float], kind: str, level: Level, ghz: float) -> None:
    rates = {form: macs / seconds / 1e9 for form, seconds in times.items()}
    left = ("ours", "direct") if kind == "7bit" else ("ours", "direct", "u8s8")
    exact = {form: rate for form, rate in rates.items() if form not in left}
    ours = rates["ours"] / ghz
    share = rates["ours"] / peak_rate(level)
    peers = "  ".join(f"{form} {rate:6.1f}" for form, rate in rates.items() if form != "ours")
    ratio = rates["ours"] / max(exact.values())
    print(
        f"{name:28s} ours {rates['ours']:6.1f} ({ours:5.1f}/cycle, {share:4.0%})  {peers}  ratio {ratio:.2f}",
        flush=True,
    )


def runner(routine: Routine, buffers: dict[str, Array]) -> Call:
    program, keep = bind_routine(routine, buffers)
    return lambda keep=(keep, buffers): program.run_worker(0)  # type: ignore[misc]


def bench_gemm(shape: tuple[int, int, int], kind: str, level: Level) -> dict[str, Call]:
    rows, depth, channels = shape
    rng = np.random.default_rng(0)
    x, w = placed(rng.integers(0, 256, (rows, depth)).astype(np.uint8)), draw_weights(rng, kind, (depth, channels))
    y = placed(np.ones((rows, channels), np.uint8))
    output = Requantize(np.full(channels, 1e-4, np.float32), 128, np.uint8)
    ours = runner(prepare_matmul(rows, w, Activations(np.uint8, 128), output, level=level), {"x": x, "y": y})
    peers = quantized_peers(
        x, w, y.shape, lambda names: helper.make_node("QLinearMatMul", names, ["y"]), channels,
        lambda names: helper.make_node("MatMul", names, ["y"]),
    )  # fmt: skip
    return {"ours": ours, **peers}


def bench_conv(shape: tuple[int, int, int, int, int, int], kind: str, level: Level) -> tuple[int, dict[str, Call]]:
    size, channels, outputs, kernel, stride, pad = shape
    out = (size + 2 * pad - kernel) // stride + 1
    rng = np.random.default_rng(0)
    x = placed(rng.integers(0, 256, (1, size, size, channels)).astype(np.uint8))
    w = draw_weights(rng, kind, (outputs, channels, kernel, kernel))
    y = placed(np.ones((1, out, out, outputs), np.uint8))
    output = Requantize(np.full(outputs, 1e-4, np.float32), 128, np.uint8)
    geometry = {"strides": (stride, stride), "pads": (pad,) * 4}
    forms = {"ours": prepare_conv(x.shape, w, Activations(np.uint8, 128), output, level=level, **geometry)}
    variant = choose(x.shape, outputs, pads=(pad,) * 4, level=level) if (kernel, stride) == (3, 1) else None
    if variant is not None:
        forms["direct"] = forms["ours"]
        activations, pads = Activations(np.uint8, 128), (pad,) * 4
        forms["ours"] = prepare_winograd(x.shape, w, activations, output, pads=pads, variant=variant, level=level)
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    nhwc = {"channels_last": 1}
    peers = quantized_peers(
        x, w, y.shape,
        lambda names: helper.make_node("QLinearConv", names, ["y"], domain="com.microsoft", **nhwc, **attributes),
        outputs, None,
    )  # fmt: skip
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    peers["fp32"] = onnxruntime_call([node], nchw, (1, outputs, out, out), np.float32, {"w": w.astype(np.float32)})
    calls = {form: runner(routine, {"x": x, "y": y}) for form, routine in forms.items()}
    return out * out * outputs * channels * kernel * kernel, {**calls, **peers}


def bench_dynamic(shape: tuple[int, int, int], kind: str, level: Level) -> dict[str, Call]:
    rows, depth, channels = shape
    rng = np.random.default_rng(0)
    x, w = placed(rng.normal(size=(rows, depth)).astype(np.float32)), draw_weights(rng, kind, (depth, channels))
    y = placed(np.ones((rows, channels), np.float32))
    scale = np.full(channels, 0.01, np.float32)
    ours = runner(prepare_dynamic_matmul(rows, w, scale, level=level), {"x": x, "y": y})
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    peer = onnxruntime_call([node], x, y.shape, np.float32, {"w": w, "s": scale})
    return {"ours": ours, "dynamic": peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", help="force a level, as GRAPHOPT_ISA does")
    parser.add_argument("--weights", choices=("7bit", "gaussian"), default="7bit")
    parser.add_argument("--only", choices=("gemm", "conv", "dynamic"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--cpu", action="store_true", help="count CPU time of the process, for a machine that is shared"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    level, kind = select_level(arguments.isa), arguments.weights
    ghz = clock_ghz()
    clock = time.process_time if arguments.cpu else time.perf_counter
    print(
        f"level {level.name}, {ghz:.2f} GHz, {kind} weights, onnxruntime {onnxruntime.__version__}, one thread, GMAC/s"
    )
    chosen = (arguments.only,) if arguments.only else ("gemm", "conv", "dynamic")
    for shape in GEMMS if "gemm" in chosen else ():
        times = interleaved(bench_gemm(shape, kind, level), arguments.rounds, clock=clock)
        report("gemm " + "x".join(map(str, shape)), int(np.prod(shape)), times, kind, level, ghz)
    for conv in CONVS if "conv" in chosen else ():
        macs, calls = bench_conv(conv, kind, level)
        name = f"conv {conv[3]}x{conv[3]}/{conv[4]} {conv[1]}→{conv[2]} {conv[0]}²"
        report(name, macs, interleaved(calls, arguments.rounds, clock=clock), kind, level, ghz)
    for shape in DYNAMIC if "dynamic" in chosen else ():
        times = interleaved(bench_dynamic(shape, kind, level), arguments.rounds, clock=clock)
        report("dynamic " + "x".join(map(str, shape)), int(np.prod(shape)), times, "7bit", level, ghz)


if __name__ == "__main__":
    main()
