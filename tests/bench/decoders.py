"""Decoders with their caches: `python -m tests.bench.decoders FOLDER [TEXT …] [--rounds N] [--export PYTHON]`, or
`--session FILE …`.

FOLDER: written by `python -m tests.strangers.decoders FOLDER --wide`, which `--export` runs first, by an interpreter
that has torch and transformers, for the styles TEXT or for all. One row per model whose name contains a TEXT:
onnxruntime's time on the original, and the relative speed of `optimize(target="onnxruntime")` and of the portable
result, for one token after 128 and after 1,000 others (64 tokens without a cache); nodes of all three; and the largest
difference of any result by the largest result, over a step, a prompt, batches padded before and after and one with
holes in its mask. Sessions of one file differ by a tenth as long as they live: each round opens all anew, another one
first, and the ratios are means over the rounds, with the least. The mean of all is the mean over styles.

`--session`: the Session beside onnxruntime on the same files, a token after 128 and after 1,000 others and prompts as
long (the second of each length), in the loop of `generate`, where caches are handed on; the speed, and the share of
what one core reads from memory that a token reaches: weights once, the file's size, and caches once. A token on a
cache of 8 bits stands beside, where there can be one. With `--windows FILE` (an .npz with `evaluation`, tokens [N, S])
also the KL divergence of the next token between both caches, over eight windows; with `--float FILE`, the model in
float32, how many times as fast as onnxruntime on that a prompt of 128 is, here and in onnxruntime.

One thread, its own CPU time, interleaved. A folder without exports is reported as such.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime

import graphopt
from graphopt.errors import ModelError
from graphopt.measure import geometric_mean, interleaved, ort_session, own_clock
from graphopt.measure.tokens import TokenScores
from graphopt.options import Runtime
from graphopt.runtime.generate.kept import CacheType
from graphopt.runtime.generate.loop import _feeds, prompt_of
from tests.bench.nodes import count

Feed = dict[str, np.ndarray]
PASTS = (128, 1000)
"""Earlier tokens, as the issue of language models asks for: short and long."""
_ENCODED = 64
"""Tokens of the encoder of a pair."""
_TOKENS = 80
"""Tokens that are written behind a prompt; half of them are timed at least."""


def _bytes(path: Path) -> int:
    """Bytes of a file and of the data beside it."""
    return sum(one.stat().st_size for one in (path, path.with_name(f"{path.name}.data")) if one.exists())


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
    """The largest difference over all cases, by the largest result; infinite where only one result is not a number."""
    worst = 0.0
    names = [v.name for v in first.get_outputs()]
    for case in cases():
        given = feed(first, *case)
        for x, y in zip(first.run(names, given), second.run(names, given)):
            kept = ~np.isnan(x)
            if (kept == np.isnan(y)).any():
                return float("inf")
            apart = np.abs(x[kept] - y[kept]).max(initial=0)
            worst = max(worst, float(apart) / max(float(np.abs(x[kept]).max(initial=0)), 1e-6))
    return worst


def race(files: Mapping[str, str], fed: Feed, turn: int) -> tuple[float, ...]:
    """Seconds of the first file, and its time by each other's, in sessions opened anew, another one first by turns."""
    names, sessions = [*files], dict[str, onnxruntime.InferenceSession]()
    for at in range(turn, turn + len(names)):
        name = names[at % len(names)]
        sessions[name] = ort_session(files[name])
    timings = interleaved(
        {name: partial(sessions[name].run, None, fed) for name in names}, seconds=0.7, min_runs=9, clock=own_clock()
    )
    return (timings[0].median, *(timing.ratio for timing in timings[1:]))


def row(path: Path, label: str, rounds: int) -> list[float]:
    """Print the row of a model; returns the ratios of speed for onnxruntime's target."""
    with TemporaryDirectory() as folder:
        nodes, apart = [count(graphopt.optimize(path, passes=()).model.graph)], list[str]()
        files, first = {"before": str(path)}, ort_session(str(path))
        targets: tuple[Runtime, ...] = ("onnxruntime", "portable")
        for target in targets:
            result = graphopt.optimize(path, target=target, validate=False)
            nodes.append(count(result.model.graph))
            files[target] = str(Path(folder, f"{target}.onnx"))
            result.save(files[target])
            apart.append(f"{difference(first, ort_session(files[target])):.0e}")
        ratios = []
        for rows, past in [(1, past) for past in PASTS] if has_cache(first) else [(_ENCODED, 0)]:
            fed = feed(first, 1, rows, past, None)
            seconds, *taken = zip(*(race(files, fed, turn) for turn in range(rounds)))
            ratios.append(geometric_mean(taken[0]))
            cells = [f"{geometric_mean(ratio):.2f} ({min(ratio):.2f})" for ratio in taken]
            label += f" | {np.median(seconds) * 1e3:.2f} ms {', '.join(cells)}"
    print(f"{label} | {' → '.join(map(str, nodes))} | {', '.join(apart)}", flush=True)
    return ratios


def bandwidth() -> float:
    """Bytes a second that one core reads of memory, the best of a few sums over 256 MB."""
    memory = np.ones(1 << 25)

    def seconds() -> float:
        start = time.thread_time()
        memory.sum()
        return time.thread_time() - start

    return memory.nbytes / min(seconds() for _ in range(7))


def cache_divergence(session: graphopt.Session, windows: np.ndarray) -> float:
    """Mean KL(float32 cache ‖ 8-bit cache) in nats over all positions, each attending to the rows before it."""
    scores, decoder = TokenScores(), session._decoder
    for window in windows:
        tokens, mask = prompt_of(window)
        given = _feeds(decoder, tokens, mask, np.arange(tokens.size)[None], 0)
        logits = []
        for empty in (decoder.empty(1), decoder.kept(1, coded=True)):
            caches = {cache.past: one for cache, one in zip(decoder.caches, empty)}
            logits.append(session._step([decoder.logits], {**given, **caches}, every_row=True)[0])
        scores.add(*logits, given)
    return scores.divergence or 0.0


def prompt_ratios(sessions: Sequence[graphopt.Session], whole: graphopt.Session) -> list[float]:
    """A prompt of 128 in `whole` by that in each session, medians of seven in turn behind one of each."""
    tokens = np.random.default_rng(1).integers(5, 999, PASTS[0])
    seconds = []
    for _ in range(8):
        seconds.append([])
        for session in (whole, *sessions):
            steps = session.tokens(tokens, 2)
            start = time.thread_time()
            next(steps)
            seconds[-1].append(time.thread_time() - start)
    taken = np.array(seconds[1:])
    return [float(ratio) for ratio in np.median(taken[:, :1] / taken[:, 1:], axis=0)]


def session_row(path: Path, windows: np.ndarray | None, whole: graphopt.Session | None) -> list[float]:
    """Print a file's times in the Session and in onnxruntime; returns the ratios of a token."""
    sessions = {"onnxruntime": graphopt.Session(path, 1, kernels=False), "session": graphopt.Session(path, 1)}
    with suppress(ModelError):
        next(sessions["session"].tokens([5], 1, cache="int8"))
        sessions["int8 cache"] = sessions["session"]
    rng, ratios, read = np.random.default_rng(0), [], bandwidth()
    pasts = [given for given in sessions["session"].get_inputs() if "past" in given.name]
    row_bytes = sum(4 * given.shape[1] * given.shape[3] for given in pasts)  # type: ignore[operator]
    label = f"{path.name} | {sessions['session'].covered} products on kernels"
    for past in PASTS:
        steps, prompt = {}, {}
        for name, session in sessions.items():
            for _ in range(2):
                kept: CacheType = "int8" if name == "int8 cache" else "float32"
                steps[name] = session.tokens(rng.integers(5, 999, past), _TOKENS + 3, cache=kept)
                start = time.thread_time()
                next(steps[name])
                prompt[name] = time.thread_time() - start
        runs = {name: partial(next, step) for name, step in steps.items()}
        taken = interleaved(runs, min_runs=_TOKENS // 2, max_runs=_TOKENS // 2, clock=own_clock())
        stock, ours, coded = [*(timing.median for timing in taken), float("nan")][:3]
        ratios.append(taken[1].ratio)
        share = (_bytes(path) + past * row_bytes) / ours / read
        label += (
            f" | past {past}: {stock * 1e3:.2f} → {ours * 1e3:.2f} ms, {taken[1].ratio:.2f}, {share:.0%} of "
            f"{read / 1e9:.0f} GB/s, 8-bit cache {coded * 1e3:.2f} ms, prompt {prompt['onnxruntime']:.2f} → "
            f"{prompt['session']:.2f} s"
        )
    if whole is not None:
        there, here = prompt_ratios([sessions["onnxruntime"], sessions["session"]], whole)
        label += f" | prompt of 128 by float {there:.2f} → {here:.2f}"
    if windows is not None:
        label += f" | KL of the 8-bit cache {cache_divergence(sessions['session'], windows):.5f}"
    print(label, flush=True)
    return ratios


def main() -> None:
    """Print the rows and their geometric mean."""
    if sys.argv[1:2] == ["--session"]:
        files, given = sys.argv[2:], dict[str, str]()
        for option in {"--windows", "--float"} & set(files):
            place = files.index(option)
            given[option] = files[place + 1]
            del files[place : place + 2]
        windows = np.load(given["--windows"])["evaluation"][:8] if "--windows" in given else None
        whole = graphopt.Session(given["--float"], 1, kernels=False) if "--float" in given else None
        found = [r for path in files for r in session_row(Path(path), windows, whole)]
        print(f"{len(found)} ratios: mean {geometric_mean(found):.2f}, least {min(found):.2f}")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--export", metavar="PYTHON")
    asked = parser.parse_args()
    if asked.export:
        command = [asked.export, "-m", "tests.strangers.decoders", str(asked.folder), *asked.texts, "--wide"]
        subprocess.run(command, check=True)
    paths = [p for p in sorted(asked.folder.rglob("*.onnx")) if any(t in str(p) for t in asked.texts or [""])]
    if not paths:
        sys.exit(
            f"{asked.folder} holds no such export: `python -m tests.strangers.decoders {asked.folder}` writes them, "
            "with torch"
        )
    found = dict[str, list[float]]()
    for path in paths:
        label = str(path.relative_to(asked.folder).with_suffix(""))
        found.setdefault(label.split("-")[0], []).extend(row(path, label, asked.rounds))
    for style, ratios in found.items():
        print(f"{style}: mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}")
    every = [ratio for ratios in found.values() for ratio in ratios]
    means = geometric_mean([geometric_mean(ratios) for ratios in found.values()])
    print(f"{len(every)} ratios of {len(found)} styles: mean {means:.3f}, least {min(every):.2f}")


if __name__ == "__main__":
    main()
