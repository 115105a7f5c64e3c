"""One buffer for earlier and present keys: `python -m tests.bench.shared_caches FILE [--genai FOLDER]`.

FILE: a decoder that `optimize(target="onnxruntime")` wrote, with ONNX's Attention, as an int4 file. Times of a token
after 128 and after 1,000 others in onnxruntime: of the file with caches that it copies in each step, and of the same
behind the pass share-caches with one buffer bound to past and present. `--genai`: onnxruntime-genai on a folder of its
own beside them, which shares buffers, too. Each writes what it finds likeliest. One thread, the process's CPU time,
interleaved; the ratios are the first one's time by each other's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

import graphopt
from graphopt.measure import interleaved, ort_session
from tests.bench.decoders import PASTS
from tests.bench.nodes import count

_TOKENS = 60
"""Tokens that each form writes, all of them timed."""


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


def shared(session: onnxruntime.InferenceSession, prompt: np.ndarray, longest: int) -> Iterator[int]:
    """Greedy tokens by one buffer of `longest` rows a cache, bound to the earlier and to the present keys or values."""
    binding, tokens, length = session.io_binding(), prompt, 0
    logits, *presents = [made.name for made in session.get_outputs()]
    pasts = [given for given in session.get_inputs() if "past" in given.name]
    for past, present in zip(pasts, presents):
        buffer = onnxruntime.OrtValue.ortvalue_from_numpy(_zeros(past, longest))
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


def _zeros(past: onnxruntime.NodeArg, rows: int) -> np.ndarray:
    return np.zeros((1, past.shape[1], rows, past.shape[3]), np.float32)


def _step(session: onnxruntime.InferenceSession, tokens: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """The inputs beside caches: new tokens int64[n], the last of `length`."""
    fed = {
        "input_ids": tokens[None].astype(np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length - tokens.size, length)[None],
    }
    return {given.name: fed[given.name] for given in session.get_inputs() if given.name in fed}


def main() -> None:
    """Print a line for each length."""
    files, folder = sys.argv[1:], None
    if "--genai" in files:
        place = files.index("--genai")
        folder = Path(files[place + 1])
        del files[place : place + 2]
    path = Path(files[0])
    result = graphopt.optimize(path, passes=["share-caches"], target="onnxruntime", validate=False)
    if not any(node.op.endswith("GroupQueryAttention") for node in result.ir.graph):
        sys.exit(f"{path}: its caches cannot be shared")
    copying, sharing = ort_session(str(path)), ort_session(result.model.SerializeToString())
    nodes = [count(model.graph) for model in (graphopt.optimize(path, passes=()).model, result.model)]
    print(f"{path.name}: {nodes[0]} → {nodes[1]} nodes")
    rng = np.random.default_rng(0)
    for past in PASTS:
        prompt, longest = rng.integers(5, 999, past), past + _TOKENS + 10
        forms = {"copied": partial(grown, copying, prompt), "shared": partial(shared, sharing, prompt, longest)}
        if folder is not None:
            forms = {"genai": partial(generated, folder, prompt, longest), **forms}
        steps = {name: form() for name, form in forms.items()}
        for step in steps.values():
            next(step)
        runs = {name: partial(next, step) for name, step in steps.items()}
        timings = interleaved(runs, min_runs=_TOKENS, max_runs=_TOKENS, clock=time.process_time)
        found = (f"{name} {t.median * 1e3:.2f} ms, {t.ratio:.2f}" for name, t in zip(runs, timings))
        print(" | ".join([f"past {past}", *found]), flush=True)


if __name__ == "__main__":
    main()
