"""Language models that ship quantized in packages, as float decoders with their cache, and windows of text for them.

Weights on a grid of few bits would cost nothing when rounded to as many: `write` has them moved off it by an equivalent
model, exports that as FOLDER/NAME.onnx, and writes FOLDER/windows.npz, which `tests.bench.language` and
`tests.bench.decoders` take; each file is written once, the same bytes each time. Needs the extra `strangers`, and
accelerate, gguf and gensim, none of them a dependency of graphopt.

Windows [N, 512] int64 of plain English that ships in packages: `calibration` from news (gensim's lee_background) and
Python's documentation (pydoc_data) in turn, `evaluation` from Wikipedia (gensim), each window after the token that
begins a text; `calibration_without_bos` as `calibration`, other windows and without that token.
"""

from __future__ import annotations

import bz2
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.strangers.decoders import write_decoder

WINDOW, CALIBRATION, EVALUATION = 512, 32, 32
"""Tokens of a window, and windows of each kind."""
SEED = 0


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


def write(folder: Path, name: str, source: Path, leave_grid: Callable[[Any, int], None]) -> None:
    """Write what is missing of the model in the .gguf file `source`; `leave_grid(model, seed)` edits it in place."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != root]  # transformers finds kernels/
    warnings.filterwarnings("ignore")
    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    tokens = transformers.AutoTokenizer.from_pretrained(source.parent, **options)
    if not (folder / "windows.npz").exists():
        bos = [tokens.bos_token_id]
        both = windows(tokens, news_and_manual(), 2 * CALIBRATION, [])
        np.savez(
            folder / "windows.npz", calibration_without_bos=both[CALIBRATION:],
            calibration=np.concatenate([np.full((CALIBRATION, 1), bos[0]), both[:CALIBRATION, :-1]], axis=1),
            evaluation=windows(tokens, encyclopedia(), EVALUATION, bos),
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, **options, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.from_numpy(np.load(folder / "windows.npz")["evaluation"][:1])
    with torch.no_grad():
        before = model(ids).logits
        leave_grid(model, SEED)
        after = model(ids).logits
        loss = torch.nn.functional.cross_entropy(after[0, :-1], ids[0, 1:])
        moved = float((after - before).norm() / before.norm())
    del before, after  # large where the vocabulary is
    print(f"logits moved by {moved:.2%}; perplexity of the first window {float(loss.exp()):.2f}", flush=True)
    write_decoder(model, folder / f"{name}.onnx", "script")
