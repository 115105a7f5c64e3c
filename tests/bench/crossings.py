"""What a value costs that passes from a region of kernels to onnxruntime: `python -m tests.bench.crossings`.

A product of codes is cut into 4 to 192 slices, of each of which onnxruntime computes the sine. A row a number of
slices: microseconds of the thread in the session, in onnxruntime alone, and of the sines alone there; the last line is
what each slice adds. `graphopt.runtime.place.rates.CROSSING` is the first of its figures less the last.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import graphopt
from graphopt.measure import ort_session

COUNTS, WIDTH, RUNS = (4, 64, 192), 16, 200


def _parsed(body: str, width: int, constants: dict[str, Any]) -> bytes:
    head = '<ir_version: 9, opset_import: ["" : 18]>'
    model = onnx.parser.parse_model(f"{head} net (float[1,{width}] x) => (float[1,M] y) {{ {body} }}")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    return model.SerializeToString()


def sliced(count: int) -> bytes:
    """A product of codes, its slices, and the sine of each."""
    rng, body = np.random.default_rng(0), "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
    body += "v = DequantizeLinear(w, s) m = MatMul(d, v) c = QuantizeLinear(m, s, z) "
    constants: dict[str, Any] = {"s": np.float32(0.05), "z": np.uint8(128), "axis": np.array([1])}
    constants["w"] = rng.integers(-100, 100, (64, WIDTH * count), np.int8)
    for i in range(count):
        constants[f"a{i}"], constants[f"b{i}"] = np.array([WIDTH * i]), np.array([WIDTH * (i + 1)])
        body += f"c{i} = Slice(c, a{i}, b{i}, axis) f{i} = DequantizeLinear(c{i}, s, z) r{i} = Sin(f{i}) "
    return _parsed(f"{body} y = Concat<axis = 1>({_names('r', count)})", 64, constants)


def sines(count: int) -> bytes:
    """The sines alone."""
    body = f"{_names('p', count)} = Split<axis = 1, num_outputs = {count}>(x) "
    body += " ".join(f"r{i} = Sin(p{i})" for i in range(count))
    return _parsed(f"{body} y = Concat<axis = 1>({_names('r', count)})", WIDTH * count, {})


def _names(letter: str, count: int) -> str:
    return ", ".join(f"{letter}{i}" for i in range(count))


def microseconds(count: int) -> list[float]:
    """The least times of the session, of the same file in onnxruntime, and of the sines alone."""
    whole = sliced(count)
    sessions = [graphopt.Session(whole, 1, kernels=True), ort_session(whole), ort_session(sines(count))]
    assert sessions[0].regions, "nothing ran on kernels"
    least = [float("inf")] * len(sessions)
    for _ in range(RUNS):
        for place, session in enumerate(sessions):
            (given,) = session.get_inputs()
            feed = {"x": np.ones(given.shape, np.float32)}
            start = time.thread_time()
            session.run(None, feed)
            least[place] = min(least[place], time.thread_time() - start)
    return [1e6 * seconds for seconds in least]


def main() -> None:
    """Print the rows, and the last line."""
    rows = {count: microseconds(count) for count in COUNTS}
    for count, times in rows.items():
        print(f"{count:4} slices", *(f"{time:8.1f}" for time in times))
    first, last = COUNTS[0], COUNTS[-1]
    slopes = [(b - a) / (last - first) for a, b in zip(rows[first], rows[last])]
    print("a slice    ", *(f"{slope:8.2f}" for slope in slopes))


if __name__ == "__main__":
    main()
