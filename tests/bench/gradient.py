"""Gradients beside torch's backward: `python -m tests.bench.gradient [NAME …] [--threads N]`.

Each architecture of `tests.strangers` is exported, differentiated with respect to all its weights and run in
onnxruntime; torch runs the module that it was exported from. `gradient` is forward and backward with weights in the
file, `step` a whole step of AdamW on the mean square of all results, where weights are inputs. Columns are our time
over torch's: below 1 we are faster. Modules are in evaluation mode, so that exporters fold batch norms into
convolutions, which torch runs and differentiates. `fashion-B` is the net of `models/train_fashion.py` at batch B.
One thread: seconds of that thread, interleaved. Several: wall time of the shortest turns, each a run of steps as in
training, after a pause in which the threads of the other runtime stop spinning; the machine's load is printed, since
times on a busy machine say little. Needs torch, torchvision and transformers (the extra `strangers`).
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.gradient import Trainer, gradient_model
from graphopt.gradient.prepare import prepare
from graphopt.gradient.weights import chosen_weights
from graphopt.measure import geometric_mean, interleaved, ort_session, own_clock

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("resnet", "mobilenetv2", "convnext", "mixer", "bert", "gpt2", "vit", "unet")
"""Architectures measured unless others are named: convolutions dense and depthwise, encoders, a decoder."""
PAUSE = 0.05
"""Seconds before a turn of several threads: onnxruntime's and OpenMP's workers spin for some milliseconds."""
STEPS = 10
"""Steps of a turn of several threads: the first wakes workers and fills caches, which is no more than a tenth then."""


def clock_of(threads: int) -> Callable[[], float]:
    """The clock of a turn, which is read at its start and its end."""
    if threads == 1:
        return own_clock()
    starts = itertools.cycle((True, False))

    def clock() -> float:
        if next(starts):
            time.sleep(PAUSE)
        return time.perf_counter()

    return clock


def turn(run: Callable[[], object], threads: int) -> Callable[[], None]:
    """What is timed as one: a step on one thread, else steps one after the other."""

    def steps() -> None:
        for _ in range(1 if threads == 1 else STEPS):
            run()

    return steps


def architecture_of(name: str, wide: bool) -> Any:
    """An architecture of `tests.strangers`, or the Fashion CNN at a batch size."""
    import torch

    from tests.strangers.architectures import ARCHITECTURES, Architecture

    net, _, batch = name.partition("-")
    if net != "fashion":
        return ARCHITECTURES[name](wide)
    from models.train_fashion import fashion_cnn

    return Architecture(fashion_cnn().eval(), {"image": torch.rand(int(batch), 1, 28, 28)}, {"image": {0: "batch"}})


def measured(name: str, wide: bool, seconds: float, threads: int) -> tuple[float, float, float, float]:
    """Our time over torch's: of the gradient and its error as a share, of the step and its error."""
    import torch

    from tests.strangers.__main__ import export

    torch.manual_seed(0)
    architecture = architecture_of(name, wide)
    module, arguments = architecture.module, tuple(architecture.inputs.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(architecture, path, *(False, 17))
        proto = path.read_bytes()
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)

    def results() -> list[Any]:
        made = module(*arguments)
        return [y for y in (made if isinstance(made, tuple) else (made,)) if y.is_floating_point()]

    def torch_gradient() -> None:
        ys = results()
        torch.autograd.grad(ys, parameters, [torch.ones_like(y) for y in ys], allow_unused=True)

    def torch_step() -> None:
        optimizer.zero_grad()
        sum((y * y).mean() for y in results()).backward()
        optimizer.step()

    ready = prepare(proto)
    weights = list(chosen_weights(ready, ready.graph.outputs, None))
    session = ort_session(gradient_model(proto, weights).SerializeToString(), threads=threads)
    inputs = {i.name for i in session.get_inputs()}
    feeds = {n: v.numpy() for n, v in architecture.inputs.items() if n in inputs}
    targets = {}
    plain = ort_session(proto)
    for port, y in zip(plain.get_outputs(), plain.run(None, {n: feeds[n] for n in feeds})):
        if np.asarray(y).dtype.kind == "f":
            targets[port.name] = np.zeros_like(y)
    seeds = {f"{n}.cotangent": np.ones_like(y) for n, y in targets.items() if f"{n}.cotangent" in inputs}
    trainer = Trainer(proto, threads=threads)
    batch = {**feeds, **{f"{n}.target": y for n, y in targets.items()}}
    found: list[float] = []
    errors: list[float] = []
    for theirs, ours in (
        (torch_gradient, lambda: session.run(None, {**feeds, **seeds})),
        (torch_step, lambda: trainer.step(batch, 0.0)),
    ):
        turns = {name: turn(run, threads) for name, run in {"ours": ours, "torch": theirs}.items()}
        own, other = interleaved(turns, seconds=seconds, clock=clock_of(threads))
        found.append(other.ratio if threads == 1 else own.best / other.best)
        errors.append(other.error)
    return found[0], errors[0], found[1], errors[1]


def main() -> None:
    """A row an architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--size", choices=("tiny", "wide"), default="wide")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    import models.train_fashion  # noqa: F401 - while the root is on the path

    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]  # transformers finds kernels/
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    torch.backends.mha.set_fastpath_enabled(False)  # the older exporter does not know that operator
    gradient, step = [], []
    load = "" if arguments.threads == 1 else f"; load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
    print(f"{'architecture':<16}{'gradient':>16}{'step':>16}   our time over torch's{load}")
    for name in arguments.names:
        try:
            a, ea, b, eb = measured(name, arguments.size == "wide", arguments.seconds, arguments.threads)
        except GraphoptError as error:
            print(f"{name:<16}{error}", flush=True)
            continue
        gradient.append(a)
        step.append(b)
        print(f"{name:<16}{a:>9.2f} ± {ea * a:4.2f}{b:>9.2f} ± {eb * b:4.2f}", flush=True)
    if gradient:
        print(f"{'geometric mean':<16}{geometric_mean(gradient):>9.2f}{geometric_mean(step):>16.2f}")


if __name__ == "__main__":
    main()
