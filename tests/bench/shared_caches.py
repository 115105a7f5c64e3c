"""One buffer for earlier and present keys: `python -m tests.bench.shared_caches FILE [--genai FOLDER] [--rounds N]`.

FILE: a decoder that `optimize(target="onnxruntime")` wrote, with ONNX's Attention, as an int4 file. Times of a token
after 128 and after 1,000 others in onnxruntime: of the file with caches that it copies in each step, and of the same
behind the pass share-caches with one buffer bound to past and present. `--genai`: beside them a folder of
onnxruntime-genai, its file in the same onnxruntime with shared buffers, and its own loop where it is installed. Each
writes what it finds likeliest. One thread, the process's CPU time, interleaved; the ratios are the first one's time by
each other's. Sessions of one file differ by a tenth as long as they live: each round opens all anew, another one first,
and the ratios are means over the rounds, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

import graphopt
from graphopt.measure import interleaved, ort_session
from tests.bench.decoders import PASTS, feed
from tests.bench.nodes import count

_TOKENS = 60
"""Tokens that each form writes, all of them timed."""
_STEPS = (6, 1, 1, 3)
"""Tokens of a prompt and of steps behind it, over which an export and its form with one buffer are compared."""


def grown(session: onnxruntime.InferenceSession, prompt: np.ndarray) -> Iterator[int]:
    """Greedy tokens by caches that each step returns anew."""
    outputs = [made.name for made in session.get_outputs()]
    caches = {given.name: _zeros(given, 0) for given in session.get_inputs() if "past" in given.name}
    tokens, length = prompt, 0
    while True:
        length += tokens.size
        logits, *presents = session.run(outputs, {**_step(session, tokens, length), **caches})
        caches = dict(zip(caches, presents))
        tokens = logits[0, -1:].argmax(-1)
        yield int(tokens[0])


def shared(
    session: onnxruntime.InferenceSession, prompt: np.ndarray, longest: int, size: int | None = None
) -> Iterator[int]:
    """Greedy tokens by one buffer of `longest` rows a cache, bound to the earlier and to the present keys or values.

    size: of a head, where the file does not tell.
    """
    binding, tokens, length = session.io_binding(), prompt, 0
    logits, *presents = [made.name for made in session.get_outputs()]
    pasts = [given for given in session.get_inputs() if "past" in given.name]
    for past, present in zip(pasts, presents):
        buffer = onnxruntime.OrtValue.ortvalue_from_numpy(_zeros(past, longest, size))
        binding.bind_ortvalue_input(past.name, buffer)
        binding.bind_ortvalue_output(present, buffer)
    while True:
        length += tokens.size
        for name, array in _step(session, tokens, length).items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(logits)
        session.run_with_iobinding(binding)
        tokens = binding.get_outputs()[-1].numpy()[0, -1:].argmax(-1)
        yield int(tokens[0])


def generated(folder: Path, prompt: np.ndarray, longest: int) -> Iterator[int]:
    """Greedy tokens of onnxruntime-genai on a folder with its configuration."""
    import onnxruntime_genai

    options = onnxruntime_genai.GeneratorParams(model := onnxruntime_genai.Model(str(folder)))
    options.set_search_options(max_length=longest, min_length=longest, do_sample=False)
    generator = onnxruntime_genai.Generator(model, options)
    generator.append_tokens(prompt.astype(np.int32))
    while True:
        generator.generate_next_token()
        yield int(generator.get_next_tokens()[0])


def _zeros(past: onnxruntime.NodeArg, rows: int, size: int | None = None) -> np.ndarray:
    return np.zeros((1, past.shape[1], rows, size or past.shape[3]), np.float32)


def _step(session: onnxruntime.InferenceSession, tokens: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """The inputs beside caches: new tokens int64[n], the last of `length`."""
    fed = {
        "input_ids": tokens[None].astype(np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length - tokens.size, length)[None],
    }
    return {given.name: fed[given.name] for given in session.get_inputs() if given.name in fed}


def race(path: Path, model: bytes, folder: Path | None, past: int, turn: int) -> dict[str, tuple[float, float]]:
    """Seconds of a token after `past` others and the ratio to the first of each form, in sessions opened anew, another
    one first in each turn."""
    prompt, longest = np.random.default_rng(0).integers(5, 999, past), past + _TOKENS + 10
    forms: dict[str, Callable[[], Iterator[int]]] = {
        "copied": lambda: grown(ort_session(str(path)), prompt),
        "shared": lambda: shared(ort_session(model), prompt, longest),
    }
    if folder is not None:
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        file, size = str(folder / decoder["filename"]), decoder["head_size"]
        forms = {"genai's file": lambda: shared(ort_session(file), prompt, longest, size), **forms}
        if find_spec("onnxruntime_genai") is not None:
            forms["genai's loop"] = lambda: generated(folder, prompt, longest)
    names, steps = [*forms], dict[str, Iterator[int]]()
    for at in range(turn, turn + len(names)):
        name = names[at % len(names)]
        steps[name] = forms[name]()
        next(steps[name])
    runs = {name: partial(next, steps[name]) for name in names}
    timings = interleaved(runs, min_runs=_TOKENS, max_runs=_TOKENS, clock=time.process_time)
    return {name: (timing.median, timing.ratio) for name, timing in zip(runs, timings)}


def difference(first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession) -> float:
    """The largest difference of tokens that the mask keeps, by the largest result; `second` on one buffer a cache."""
    logits, *presents = [made.name for made in first.get_outputs()]
    pasts, worst = [given for given in first.get_inputs() if "past" in given.name], 0.0
    masks = [np.ones((1, sum(_STEPS)), bool), *(np.ones((2, sum(_STEPS)), bool) for _ in range(2))]
    masks[1][0, :3], masks[2][0, 2:4] = False, False
    for mask in masks:
        sizes = [(len(mask), past.shape[1], mask.shape[1] + 5, past.shape[3]) for past in pasts]
        buffers = [onnxruntime.OrtValue.ortvalue_from_numpy(np.full(size, 7, np.float32)) for size in sizes]
        caches = [np.zeros((*size[:2], 0, size[3]), np.float32) for size in sizes]
        for end, rows in zip(np.cumsum(_STEPS), _STEPS):
            fed = feed(first, len(mask), rows, int(end) - rows, mask[:, :end])
            fed |= {past.name: cache for past, cache in zip(pasts, caches)}
            expected, *caches = first.run([logits, *presents], fed)
            binding = second.io_binding()
            for given in second.get_inputs():
                if "past" not in given.name:
                    binding.bind_cpu_input(given.name, np.ascontiguousarray(fed[given.name]))
            for past, present, buffer in zip(pasts, presents, buffers):
                binding.bind_ortvalue_input(past.name, buffer)
                binding.bind_ortvalue_output(present, buffer)
            binding.bind_output(logits)
            second.run_with_iobinding(binding)
            kept, tokens = mask[:, :end], mask[:, end - rows : end]
            found = [binding.get_outputs()[-1].numpy()[tokens]]
            found += [buffer.numpy().transpose(0, 2, 1, 3)[:, :end][kept] for buffer in buffers]
            wanted = [expected[tokens], *(cache.transpose(0, 2, 1, 3)[kept] for cache in caches)]
            apart = [float(np.abs(x - y).max() / np.abs(x).max()) for x, y in zip(wanted, found)]
            worst = max(worst, *(float("inf") if np.isnan(one) else one for one in apart))
    return worst


def counts(path: Path) -> None:
    """Print the row of an export."""
    whole = graphopt.optimize(path, target="onnxruntime", validate=False)
    result = graphopt.optimize(whole.model, passes=["share-caches"], target="onnxruntime", validate=False)
    nodes = [count(one.model.graph) for one in (graphopt.optimize(path, passes=()), whole, result)]
    kinds = [sum(node.op.endswith(kind) for node in result.ir.graph) for kind in ("GroupQueryAttention", "Attention")]
    cell = f"{path.stem} | {' → '.join(map(str, nodes))} | {kinds[0]} of {kinds[1]} share"
    if kinds[0]:
        cell += f" | {difference(ort_session(str(path)), ort_session(result.model.SerializeToString())):.0e}"
    print(cell, flush=True)


def main() -> None:
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--counts", type=Path, nargs="+", metavar="FILE", default=[])
    parser.add_argument("--genai", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for path in asked.counts:
        counts(path)
    if asked.file is None:
        return
    result = graphopt.optimize(asked.file, passes=["share-caches"], target="onnxruntime", validate=False)
    if not any(node.op.endswith("GroupQueryAttention") for node in result.ir.graph):
        sys.exit(f"{asked.file}: its caches cannot be shared")
    nodes = [count(model.graph) for model in (graphopt.optimize(asked.file, passes=()).model, result.model)]
    print(f"{asked.file.name}: {nodes[0]} → {nodes[1]} nodes")
    for past in PASTS:
        model = result.model.SerializeToString()
        rounds = [race(asked.file, model, asked.genai, past, turn) for turn in range(asked.rounds)]
        cells = [f"past {past}"]
        for name in rounds[0]:
            seconds, ratios = zip(*(one[name] for one in rounds))
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            cells.append(f"{name} {np.median(seconds) * 1e3:.2f} ms, {np.exp(np.log(ratios).mean()):.3f} ({spread})")
        print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
