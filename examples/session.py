"""Run a model that someone else quantized on int8 kernels, beside onnxruntime: `python examples/session.py`."""

from pathlib import Path

import numpy as np

import graphopt
from graphopt.measure import compare_latency, ort_session

MODEL = Path(__file__).parent.parent / "models" / "fashion_qdq.onnx"


def main() -> None:
    session = graphopt.Session(MODEL, threads=1)
    print(session.describe())
    feeds = {session.get_inputs()[0].name: np.random.default_rng(0).random((1, 1, 28, 28), np.float32)}
    for timing in compare_latency({"onnxruntime": ort_session(str(MODEL)), "Session": session}, feeds, seconds=0.2):
        print(f"{timing.label}: {timing.median * 1e3:.3f} ms, {timing.ratio:.2f} times as fast as the first")


if __name__ == "__main__":
    main()
