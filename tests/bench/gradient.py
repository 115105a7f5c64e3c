"""Gradients beside torch's backward: `python -m tests.bench.gradient [NAME …] [--size tiny|wide] [--seconds S]`.

Each architecture of `tests.strangers` is exported, differentiated with respect to all its weights and run in
onnxruntime; torch runs the module that it was exported from. `gradient` is forward and backward with weights in the
file, `step` a whole step of AdamW on the mean square of all results, where weights are inputs. Columns are our time
over torch's: below 1 we are faster. Modules are in evaluation mode, so that exporters fold batch norms into
convolutions, which torch runs and differentiates. One thread; seconds of that thread, interleaved. Needs torch,
torchvision and transformers (the extra `strangers`).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
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


def measured(name: str, wide: bool, seconds: float) -> tuple[float, float, float, float]:
    """Our time over torch's: of the gradient and its error as a share, of the step and its error."""
    import torch

    from tests.strangers.__main__ import export
    from tests.strangers.architectures import ARCHITECTURES

    torch.manual_seed(0)
    architecture = ARCHITECTURES[name](wide)
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
    session = ort_session(gradient_model(proto, weights).SerializeToString())
    inputs = {i.name for i in session.get_inputs()}
    feeds = {n: v.numpy() for n, v in architecture.inputs.items() if n in inputs}
    targets = {}
    plain = ort_session(proto)
    for port, y in zip(plain.get_outputs(), plain.run(None, {n: feeds[n] for n in feeds})):
        if np.asarray(y).dtype.kind == "f":
            targets[port.name] = np.zeros_like(y)
    seeds = {f"{n}.cotangent": np.ones_like(y) for n, y in targets.items() if f"{n}.cotangent" in inputs}
    trainer = Trainer(proto)
    batch = {**feeds, **{f"{n}.target": y for n, y in targets.items()}}
    found: list[float] = []
    errors: list[float] = []
    for theirs, ours in (
        (torch_gradient, lambda: session.run(None, {**feeds, **seeds})),
        (torch_step, lambda: trainer.step(batch, 0.0)),
    ):
        timing = interleaved({"ours": ours, "torch": theirs}, seconds=seconds, clock=own_clock())[1]
        found.append(timing.ratio)
        errors.append(timing.error)
    return found[0], errors[0], found[1], errors[1]


def main() -> None:
    """A row an architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--size", choices=("tiny", "wide"), default="wide")
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]  # transformers finds kernels/
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # the older exporter does not know that operator
    gradient, step = [], []
    print(f"{'architecture':<16}{'gradient':>16}{'step':>16}   our time over torch's")
    for name in arguments.names:
        try:
            a, ea, b, eb = measured(name, arguments.size == "wide", arguments.seconds)
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
