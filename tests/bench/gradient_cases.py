"""Gradients of every float backend case: `python -m tests.bench.gradient_cases [--part I/N]`.

All of ONNX's backend cases that onnxruntime runs, with floats in and out. The gradient model runs in onnxruntime in
single precision; central differences come from torch in double precision, by `graphopt.torch` on the original model, so
that the two sides share only the expansion of composites, whose definitions cast to single precision unless they are
expanded before floats become doubles. Prints the number of passed cases, the reasons of declined cases, the cases that
torch does not run, and the failed cases. Needs torch (the extra `train`).
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx

from graphopt.errors import GraphoptError, ModelError, one_line
from graphopt.gradient import gradient_model
from graphopt.gradient.prepare import prepare
from graphopt.onnx_io import to_proto
from tests.gradient.checking import is_float, session, to_double, with_inputs
from tests.gradient.test_rules import feeds_of
from tests.test_conformance import cases, run

STEP, NEAR = 1e-6, 5e-3
"""The step of central differences in double precision, and the relative error of a gradient in single precision that
passes: saturated activations leave 2e-3."""
HALF = 5e-2
"""The same of a gradient in half precision, whose rounding is 1e-3 an operation."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


class NoDouble(Exception):
    """Torch does not run the case in double precision."""


def error_of(model: onnx.ModelProto, values: list[Any]) -> float:
    """The largest error of ⟨gradient, d⟩ for random d, relative to the gradient's size."""
    import torch

    import graphopt.torch

    values = [np.asarray(v) if np.isscalar(v) else v for v in values]
    feeds, wrt = feeds_of(model, values)
    feeds = {n: np.asarray(v, given.dtype) if is_float(v) else v for (n, v), given in zip(feeds.items(), values)}
    model, feeds = with_inputs(model, feeds, wrt)
    gradient = gradient_model(model, wrt)
    rng = np.random.default_rng(0)
    wide = {n: np.asarray(v, np.float64) if is_float(v) else v for n, v in feeds.items()}
    try:
        module = graphopt.torch.to_module(to_double(to_proto(prepare(model))))

        def forward(given: dict[str, Any]) -> dict[str, Any]:
            with torch.no_grad():
                return dict(zip(module.output_names, map(np.asarray, module.results(given))))

        plain = forward(wide)
    except Exception as error:
        raise NoDouble(one_line(error)) from error
    seeds = {i.name: i for i in gradient.graph.input if i.name.endswith(".cotangent")}
    cotangents = {n: rng.standard_normal(plain[n.removesuffix(".cotangent")].shape) for n in seeds}
    typed = {
        n: c.astype(onnx.helper.tensor_dtype_to_np_dtype(seeds[n].type.tensor_type.elem_type))
        for n, c in cotangents.items()
    }
    names = [o.name for o in gradient.graph.output]
    found = dict(zip(names, session(gradient).run(None, {**feeds, **typed})))
    worst = 0.0
    for name in wrt:
        g = found[f"{name}.gradient"].astype(np.float64)
        d, ends = rng.standard_normal(g.shape), []
        for sign in (1, -1):
            made = forward({**wide, name: np.asarray(wide[name] + sign * STEP * d)})
            ends.append(sum(float(np.sum(made[n.removesuffix(".cotangent")] * c)) for n, c in cotangents.items()))
        measured = (ends[0] - ends[1]) / (2 * STEP)
        scale = max(abs(measured), 1e-3, float(np.sqrt(np.sum(g * g))))
        worst = max(worst, abs(measured - float(np.sum(g * d))) / scale)
    return worst


def main() -> None:
    """Counts, reasons and failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="0/1", help="every Nth case from the Ith on")
    part, parts = map(int, parser.parse_args().part.split("/"))
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    unable: Counter[str] = Counter()
    failed: list[str] = []
    for name, model, data in cases()[part::parts]:
        floats = bool(data) and any(is_float(v) for v in data[0] if isinstance(v, np.ndarray))
        if not floats or not any(o.type.tensor_type.elem_type in FLOATS for o in model.graph.output):
            continue
        if run(model, data[:1]) is None:
            continue
        try:
            error = error_of(model, data[0])
        except ModelError as declined:
            counts["declined"] += 1
            reasons[re.sub(r"'[^']*'", "…", str(declined))[:90]] += 1
            continue
        except NoDouble as reason:
            counts["not run by torch"] += 1
            unable[re.sub(r"'[^']*'", "…", str(reason))[:90]] += 1
            continue
        except (GraphoptError, Exception) as broken:
            error, name = np.inf, f"{name}: {one_line(broken)[:90]}"
        half = any(isinstance(v, np.ndarray) and is_float(v) and v.dtype.itemsize < 4 for v in data[0])
        if error < (HALF if half else NEAR):
            counts["passed"] += 1
        else:
            counts["failed"] += 1
            failed.append(f"{name} ({error:.1e})")
    total = sum(counts.values())
    for outcome, count in counts.most_common():
        print(f"{outcome:<18}{count:>6}{100 * count / total:>8.1f} %")
    for reason, count in reasons.most_common():
        print(f"  declined {count:>4}  {reason}")
    for reason, count in unable.most_common():
        print(f"  not run  {count:>4}  {reason}")
    for line in failed:
        print(f"  failed         {line}")


if __name__ == "__main__":
    main()
