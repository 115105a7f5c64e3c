"""Memory and time of large models: `python -m tests.bench.memory [GB …] [--bits 16 32] [--forms FORM …]`.

A model of each size is generated in a temporary folder: blocks of MatMul, Relu and Gemm between residuals, random
weights by seed in external data of 16 or 32 bits, written one by one. Forms: exact, int8 and int4, all with default
options; `int4` is for target onnxruntime. `--rivals NAME …` adds `quantize_dynamic` and onnxruntime's `MatMulNBits`
quantizer. One row per form: peak anonymous memory (RssAnon; mapped files do not count), processor seconds of the whole
process, size of the result, whether onnxruntime opens it; and the memory and seconds of `graphopt inspect` on the
source.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

HIDDEN = 2048
"""Width of the blocks; inside they are four times as wide, as transformers are."""
OURS = """
import sys, graphopt
source, output, form = sys.argv[1:]
options = {"exact": {}, "int8": {"quantize": "weights"},
           "int4": {"quantize": graphopt.Quantize(mode="weights", weight_type="int4"), "target": "onnxruntime"}}[form]
result = graphopt.optimize(source, output, **options)
print(result.report.status, *(stage.summary for stage in result.report.stages))
"""
THEIRS = """
import sys, onnx, logging
logging.disable(logging.WARNING)
source, output, form = sys.argv[1:]
if form == "quantize_dynamic":
    from onnxruntime.quantization import quantize_dynamic
    quantize_dynamic(source, output, use_external_data_format=True)
else:
    from onnxruntime.quantization import matmul_nbits_quantizer as rival
    config = rival.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer = rival.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(output, use_external_data_format=True)
print("done")
"""
OPEN = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.disable_prepacking", "1")
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print("opens")
"""
FORMS = ("exact", "int8", "int4")
RIVALS = ("quantize_dynamic", "MatMulNBits")


def large_model(path: Path, gigabytes: float, bits: int, hidden: int = HIDDEN, seed: int = 0) -> Path:
    """Write a model of about that size, its weights of 16 or 32 bits beside it one by one; returns `path`.

    Weights are the same random numbers by factors of their own: to draw 4 GB takes longer than to quantize them. In
    turn they are read from the end: a product with its own transpose would grow, block by block, out of 16 bits. So
    would many blocks that add alike to the residual: each adds less, the more there are.
    """
    kind, inside = (np.float16 if bits == 16 else np.float32), 4 * hidden
    elem = TensorProto.FLOAT16 if bits == 16 else TensorProto.FLOAT
    count = max(1, round(gigabytes * 1e9 / (2 * hidden * inside * bits // 8)))
    drawn = np.random.default_rng(seed).standard_normal(hidden * inside, np.float32)
    data = path.with_name(f"{path.name}.data")
    nodes, weights, x = [], [], "x"
    with data.open("wb") as stream:

        def weight(name: str, *shape: int, scale: float) -> str:
            factor = np.float32(scale * (1 + len(weights) / 1024))
            numbers = drawn[::-1] if len(weights) % 2 else drawn
            array = (numbers[: int(np.prod(shape))] * factor).astype(kind).reshape(shape)
            tensor = TensorProto(name=name, data_type=elem, dims=shape, data_location=TensorProto.EXTERNAL)
            place = {"location": data.name, "offset": stream.tell(), "length": array.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            stream.write(array.tobytes())
            weights.append(tensor)
            return name

        for index in range(count):
            name = f"block{index}"
            up = weight(f"{name}.up", hidden, inside, scale=hidden**-0.5)
            down = weight(f"{name}.down", hidden, inside, scale=4 / count * inside**-0.5)
            bias = weight(f"{name}.bias", hidden, scale=0.01)
            nodes += [
                helper.make_node("MatMul", [x, up], [f"{name}.wide"], f"{name}/up"),
                helper.make_node("Relu", [f"{name}.wide"], [f"{name}.relu"], f"{name}/relu"),
                helper.make_node("Identity", [f"{name}.relu"], [f"{name}.same"], f"{name}/same"),
                helper.make_node("Gemm", [f"{name}.same", down, bias], [f"{name}.narrow"], f"{name}/down", transB=1),
                helper.make_node("Add", [x, f"{name}.narrow"], [f"{name}.sum"], f"{name}/add"),
            ]
            x = f"{name}.sum"
    given, result = (helper.make_tensor_value_info(name, elem, ["N", hidden]) for name in ("x", x))
    graph = helper.make_graph(nodes, "large", [given], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process, 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def watched(*command: str) -> tuple[str, int, float, bool]:
    """(last words, peak of anonymous bytes, processor seconds, success) of a process."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, text=True)
        peak = 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        words = told.read().strip().splitlines() or [""]
    return words[-1], peak, usage.ru_utime + usage.ru_stime, process.returncode == 0


def stored_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(source: Path, forms: list[str], name: str) -> None:
    """Print a row for each form."""
    python = sys.executable
    _, _, inspected, _ = watched(python, "-m", "graphopt", "inspect", str(source))
    for form in forms:
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            output = Path(folder, "out.onnx")
            code = THEIRS if form in RIVALS else OURS
            told, peak, used, fine = watched(python, "-c", code, str(source), str(output), form)
            opens = watched(python, "-c", OPEN, str(output))[0] if fine else ""
            cells = f"{peak / 1e6:,.0f} MB", f"{used:.1f} s", f"{stored_bytes(Path(folder)) / 1e9:.2f} GB", opens
            row = f"{name:>12} {form:>17}" + "".join(f"{cell:>12}" for cell in cells) + f"  inspect {inspected:.2f} s"
            print(f"{row}  {told[:160]}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gigabytes", nargs="*", type=float, default=[1.5])
    parser.add_argument("--bits", nargs="*", type=int, choices=(16, 32), default=[32])
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=[*FORMS])
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=[])
    parser.add_argument("--folder", help="where the files lie, by default the system's temporary folder")
    asked = parser.parse_args()
    for gigabytes in asked.gigabytes:
        for bits in asked.bits:
            with tempfile.TemporaryDirectory(dir=asked.folder, prefix="graphopt-") as folder:
                source = large_model(Path(folder, "large.onnx"), gigabytes, bits)
                measure(source, [*asked.forms, *asked.rivals], f"{gigabytes:g} GB f{bits}")


if __name__ == "__main__":
    main()
