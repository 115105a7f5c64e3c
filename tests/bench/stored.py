"""Products with stored weights: `python -m tests.bench.stored [--seconds S]`.

For weights of 8 and 4 bits, rows and sizes: microseconds of one product in onnxruntime on codes (MatMulNBits), on
weights dequantized once at load time, and on kernels; chains of eight, one thread, seconds of that thread, interleaved.
Then the rates of `graphopt/runtime/place/rates.py`, in the order of `FEATURES`, that explain them best; on kernels for
each width.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import nnls

import graphopt
from graphopt.machine.sessions import open_session, session_options
from graphopt.measure import interleaved, own_clock
from graphopt.runtime.place.stored import ONCE

SIZES = ((32, 32), (32, 128), (96, 384), (128, 128), (384, 384), (384, 1536), (768, 768))
"""Columns before and behind every other product of a chain."""
ROWS, BITS, CHAIN, BLOCK = (1, 8, 24, 128), (8, 4), 8, 32
CALL = {"stored": 5.28, "computed": 5.28, "kernels": 7.89}
"""Microseconds of the call of a chain, `WHOLE` and `BORDER` of the rates."""


def chain(inner: int, width: int, bits: int) -> bytes:
    """x f32[rows, inner] times weights [inner, width], [width, inner], … of so many bits."""
    rng, nodes, given, value = np.random.default_rng(0), [], [], "x"
    for i in range(CHAIN):
        rows, columns = (inner, width) if i % 2 == 0 else (width, inner)
        codes, limit = f"w{i}", 1 << (bits - 1)
        array = rng.integers(-limit, limit, (rows, columns))
        kind = TensorProto.INT8 if bits == 8 else TensorProto.INT4
        given.append(helper.make_tensor(codes, kind, array.shape, array.flatten().tolist()))
        shape, axes = ((columns,), {"axis": 1}) if bits == 8 else ((-(-rows // BLOCK), columns), {"axis": 0})
        if bits == 4:
            axes["block_size"] = BLOCK
        given.append(numpy_helper.from_array(rng.uniform(0.1, 1, shape).astype(np.float32) / limit, f"s{i}"))
        nodes += [
            helper.make_node("DequantizeLinear", [codes, f"s{i}"], [f"d{i}"], **axes),
            helper.make_node("MatMul", [value, f"d{i}"], [f"y{i}"]),
        ]
        value = f"y{i}"
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", inner])] for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", *ports, given)
    opsets = [helper.make_opsetid("", 21)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def main() -> None:
    """Print the times, then the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.15, help="time for each session")
    seconds = parser.parse_args().seconds
    taken: dict[str, list[tuple[list[float], float]]] = {}
    for bits in BITS:
        for inner, width in SIZES:
            model = chain(inner, width, bits)
            sessions = {
                "stored": open_session(model, session_options()),
                "computed": open_session(model, session_options(entries=ONCE)),
                "kernels": graphopt.Session(model, 1, kernels=True),
            }
            for rows in ROWS:
                feeds = {"x": np.random.default_rng(1).standard_normal((rows, inner)).astype(np.float32)}
                runs = {name: partial(session.run, None, feeds) for name, session in sessions.items()}
                timings = interleaved(runs, seconds=seconds, clock=own_clock())
                elements = rows * (inner + width) / 2
                work = [1.0, elements, elements, inner * width, rows * inner * width]
                times = {name: (timing.median * 1e6 - CALL[name]) / CHAIN for name, timing in zip(runs, timings)}
                for name, each in times.items():
                    taken.setdefault(f"{name} {bits}" if name == "kernels" else name, []).append((work, each))
                told = "  ".join(f"{name} {each:8.2f}" for name, each in times.items())
                print(f"{bits} bits {inner:4} x {width:4} {rows:4} rows  {told}", flush=True)
    for name, rows_of in taken.items():
        shares = np.array([[one / (1e3 * max(each, 0.1)) for one in work] for work, each in rows_of])
        shares[:, 1] += shares[:, 2]
        call, element, weight, mac = nnls(shares[:, [0, 1, 3, 4]], np.ones(len(shares)))[0]
        print(f"{name}: ({call:.0f}, {element / 2:.2f}, {element / 2:.2f}, {weight:.3f}, {mac:.4f})")


if __name__ == "__main__":
    main()
