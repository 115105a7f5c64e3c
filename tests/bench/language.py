"""Weights of a decoder: `python -m tests.bench.language MODEL WINDOWS [--forms FORM …] [--windows N] [--prompts N]`.

MODEL takes tokens, and mask, positions and caches beside, as exporters of decoders write them. WINDOWS is an .npz with
token windows [N, S]: `calibration`, `calibration_without_bos` (optional) and `evaluation`, from different texts. A row
a file: megabytes, perplexity on `evaluation` and KL against the float model there, both from an empty cache, agreement
of the likeliest token, and the processor time that the file cost. Forms: int8 and int4 with data, int4 with prompts
that begin elsewhere (`int4-no-bos`), int4 without data (`int4-alone`), int3 and int2, mode dynamic, a budget of bits
a weight with data (`mixed-5.5`), and onnxruntime's `ort-rtn`, `ort-k-quant`, and, where they are asked for, `ort-hqq`
(needs torch) and `ort-gptq` (runs the whole model for each product): left out with a reason where it lacks them.
`python -m tests.strangers.smollm2 FOLDER` makes both files of SmolLM2-135M, `tests.strangers.gemma3` of Gemma-3-270M.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import graphopt
from graphopt.calibration import Prompts
from graphopt.equivalence.feeds import Feeds
from graphopt.equivalence.runnable import open_runnable
from graphopt.measure.tokens import TokenScores

OURS = {
    "int8": ("int8", "calibration"), "int4": ("int4", "calibration"),
    "int4-no-bos": ("int4", "calibration_without_bos"), "int4-alone": ("int4", ""), "int3": ("int3", "calibration"),
    "int2": ("int2", "calibration"), "dynamic": ("dynamic", "calibration"),
}  # fmt: skip
"""The weights' type, or mode dynamic, and the name of the data, "" for none."""
RIVALS = ("ort-rtn", "ort-k-quant", "ort-hqq", "ort-gptq")
MIXED = "mixed-"
"""Stands before a budget of bits a weight."""


def made(
    form: str, model: Path, windows: dict[str, np.ndarray], prompts: int, feed: Callable[[np.ndarray], Feeds],
    output: Path,
) -> str:  # fmt: skip
    """Write the form of the model, whose feeds of a window are `feed`'s; the reason where that cannot be, else ""."""
    if form in OURS or form.startswith(MIXED):
        kind, data = OURS.get(form, ("int8", "calibration"))
        if data and data not in windows:
            return f"WINDOWS holds no {data}"
        calibration = [*windows[data][:prompts]] if data else None
        budget = float(form.removeprefix(MIXED)) if form.startswith(MIXED) else None
        quantize = graphopt.Quantize(mode="dynamic")
        if kind != "dynamic":
            quantize = graphopt.Quantize(mode="weights", weight_type=kind, bits_per_weight=budget)
        graphopt.optimize(
            model, output, quantize=quantize, calibration=calibration, target="onnxruntime", validate=False
        )
        return ""
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer as rival
    except ImportError as error:
        return f"onnxruntime.quantization: {error}"
    configs = {
        "ort-rtn": lambda: rival.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4),
        "ort-k-quant": rival.KQuantWeightOnlyQuantConfig,
        "ort-hqq": lambda: rival.HQQWeightOnlyQuantConfig(block_size=32),
        "ort-gptq": lambda: rival.GPTQWeightOnlyQuantConfig([*map(feed, windows["calibration"][:prompts])]),
    }
    quantizer = rival.MatMulNBitsQuantizer(onnx.load(model), block_size=32, algo_config=configs[form]())
    try:
        quantizer.process()
    except ImportError as error:
        return str(error)
    quantizer.model.save_model_to_file(str(output), use_external_data_format=False)
    return ""


def form(word: str) -> str:
    """A form that is known, or a budget."""
    if word not in (*OURS, *RIVALS) and not re.fullmatch(rf"{MIXED}\d+(\.\d+)?", word):
        raise argparse.ArgumentTypeError(f"{word} is none of {', '.join((*OURS, *RIVALS))}, {MIXED}BITS")
    return word


def scores_on(session, prompts: Prompts, windows: np.ndarray, expected: Path) -> tuple[TokenScores, float]:
    """Sums over all windows, and the share of positions with the same likeliest token; fills `expected` if empty.

    Logits of the float model lie in the folder `expected`: with 262,144 words they are 0.5 GB a window of 512 tokens.
    """
    scores, same = TokenScores(), []
    for number, window in enumerate(windows):
        feed, kept = prompts.feed(window), expected / f"{number}.npy"
        result = _logits(session.run(feed))
        if not kept.exists():
            np.save(kept, result)
        reference = np.load(kept, mmap_mode="r")
        scores.add(reference, result, feed)
        same.append((reference.argmax(-1) == result.argmax(-1)).mean())
    return scores, float(np.mean(same))


def _logits(results) -> np.ndarray:
    return next(value for value in results.values() if np.ndim(value) == 3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("windows_file", type=Path, metavar="WINDOWS")
    parser.add_argument("--forms", nargs="*", default=[*OURS, *RIVALS[:2]], type=form)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=10)
    asked = parser.parse_args()
    for path in (asked.model, asked.windows_file):
        if not path.is_file():
            raise SystemExit(f"skipped: {path} is not there")
    windows = dict(np.load(asked.windows_file))
    prompts = Prompts.of(open_runnable(asked.model))
    if prompts is None:
        raise SystemExit(f"skipped: {asked.model} takes more than tokens, mask, positions and caches")
    evaluation = windows["evaluation"][: asked.windows]

    def judge(name: str, path: Path, seconds: float) -> None:
        scores, same = scores_on(open_runnable(path).session(optimize=True), prompts, evaluation, Path(folder))
        size, perplexity = os.path.getsize(path) / 1e6, (scores.perplexity or (0.0, 0.0))[1]
        cells = f"{size:.1f}", f"{perplexity:.2f}", f"{scores.divergence:.4f}", f"{same:.1%}", f"{seconds:.0f}"
        print(f"{name:14}" + "".join(f"{cell:>12}" for cell in cells), flush=True)

    print(f"{'form':14}" + "".join(f"{title:>12}" for title in ("MB", "perplexity", "KL", "same token", "CPU s")))
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        judge("float", asked.model, 0.0)
        for name in asked.forms:
            start, output = time.process_time(), Path(folder, f"{name}.onnx")
            reason = made(name, asked.model, windows, asked.prompts, prompts.feed, output)
            if reason:
                print(f"{name:14}left out: {reason}", flush=True)
            else:
                judge(name, output, time.process_time() - start)


if __name__ == "__main__":
    main()
