"""Decoders with their caches, exact: `python -m tests.bench.decoders FOLDER [TEXT]`.

FOLDER is what `python -m tests.strangers.decoders FOLDER` writes. A row a model whose name holds TEXT: onnxruntime's
time on the original and its speed on the optimised file over that, one token after 128 and after 1,000 others (64
tokens where there is no cache); nodes before and after `optimize(target="onnxruntime")`; and the largest difference of
any result by the largest result, over a step, a prompt, batches padded before and after and one with holes in its mask.
One thread, its own time, interleaved. Exports, for which torch is needed, are not made here: a folder without them is
said so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

import graphopt
from graphopt.measure import geometric_mean, interleaved, ort_session, own_clock
from tests.bench.nodes import count

Feed = dict[str, np.ndarray]
PASTS = (128, 1000)
"""Earlier tokens, as the issue of language models asks for: short and long."""
_ENCODED = 64
"""Tokens of the encoder of a pair."""


def has_cache(session: onnxruntime.InferenceSession) -> bool:
    """The model takes keys and values of earlier tokens."""
    return any("past" in given.name for given in session.get_inputs())


def feed(session: onnxruntime.InferenceSession, batch: int, rows: int, past: int, mask: np.ndarray | None) -> Feed:
    """Random inputs by their names: `rows` tokens after `past` others; `mask` bool[batch, past + rows]."""
    rng, made = np.random.default_rng(rows + past), Feed()
    kept = np.ones((batch, past + rows), np.int64) if mask is None else mask.astype(np.int64)
    encoded = np.ones((batch, _ENCODED), np.int64)
    encoded[1:, -7:] = 0
    for given in session.get_inputs():
        name, shape = given.name, given.shape
        if name == "input_ids":
            made[name] = rng.integers(2, 200, (batch, shape[1] if isinstance(shape[1], int) else rows))
        elif name == "position_ids":
            made[name] = np.maximum(kept.cumsum(1) - 1, 0)[:, past:]
        elif name == "attention_mask":
            made[name] = kept if has_cache(session) else kept[:, past:]
        elif name == "encoder_attention_mask":
            made[name] = encoded
        else:
            length = past if "past_key" in name and ".encoder." not in name else _ENCODED
            sizes = [n if isinstance(n, int) else (batch if axis == 0 else length) for axis, n in enumerate(shape)]
            made[name] = rng.standard_normal(sizes).astype(np.float32)
    return made


def cases() -> Iterator[tuple[int, int, int, np.ndarray | None]]:
    """Batch, new tokens, earlier tokens and mask: a step, a prompt, padded batches, and holes."""
    yield 1, 1, 7, None
    yield 1, 6, 0, None
    for rows, past in ((1, 8), (6, 0), (4, 7)):
        before, after = (np.ones((2, past + rows), bool) for _ in range(2))
        before[0, :3], after[0, 4:6] = False, False
        yield 2, rows, past, before
        yield 2, rows, past, after


def difference(first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession) -> float:
    """The largest difference over all cases, by the largest result."""
    worst = 0.0
    names = [v.name for v in first.get_outputs()]
    for case in cases():
        given = feed(first, *case)
        for x, y in zip(first.run(names, given), second.run(names, given)):
            worst = max(worst, float(np.abs(x - y).max(initial=0)) / max(float(np.abs(x).max(initial=0)), 1e-6))
    return worst


def row(path: Path, label: str) -> list[float]:
    """Print the row of a model; returns the ratios of speed."""
    result = graphopt.optimize(path, target="onnxruntime", validate=False)
    sessions = {"before": ort_session(str(path)), "after": ort_session(result.model.SerializeToString())}
    first, second = sessions.values()
    apart = difference(first, second)
    ratios = []
    steps = [(1, past) for past in PASTS] if has_cache(first) else [(_ENCODED, 0)]
    for rows, past in steps:
        given = feed(first, 1, rows, past, None)
        runs = {name: (lambda s=session, g=given: s.run(None, g)) for name, session in sessions.items()}
        timings = interleaved(runs, seconds=2.0, clock=own_clock())
        ratios.append(timings[1].ratio)
        label += f" | {timings[0].median * 1e3:.2f} ms {timings[1].ratio:.2f}"
    nodes = " → ".join(
        str(count(model)) for model in (graphopt.optimize(path, passes=()).model.graph, result.model.graph)
    )
    print(f"{label} | {nodes} | {apart:.0e}", flush=True)
    return ratios


def main() -> None:
    """Print the rows and their geometric mean."""
    folder, text = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    paths = [p for p in sorted(folder.rglob("*.onnx")) if text in str(p.relative_to(folder))]
    if not paths:
        sys.exit(
            f"{folder} holds no such export: `python -m tests.strangers.decoders {folder}` writes them, with torch"
        )
    ratios = [r for path in paths for r in row(path, str(path.relative_to(folder).with_suffix("")))]
    print(f"{len(ratios)} ratios: mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
