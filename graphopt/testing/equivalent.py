"""An assertion that two models compute the same results."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import check_arguments
from ..errors import GraphoptError

if TYPE_CHECKING:
    from ..equivalence import Comparison, FeedData
    from ..ir import Model
    from ..onnx_io.source import ModelSource

_READ = 80
"""Nodes of the largest model printed as text: about as many as one reads at once."""


def assert_equivalent(
    a: ModelSource | Model, b: ModelSource | Model, inputs: FeedData | None = None, samples: int = 4,
    rtol: float = 1e-4, *, seed: int = 0, min_sqnr: float | None = None, power: bool = True,
    intermediates: bool = True, threads: int | None = None, min_power: float | None = None,
) -> Comparison:  # fmt: skip
    """Assert that the candidate `b` computes the results of the original `a`; the arguments are `graphopt.compare`'s.

    `min_power`: the least share of 1 % perturbations of single weights that the comparison must notice. Returns the
    comparison; raises AssertionError with its text unless the models are equal (unverified is not equal), and with a
    small original's text and the path where it was saved.
    """
    check_arguments(assert_equivalent, locals())
    from ..equivalence import compare

    comparison = compare(
        a, b, inputs, samples, rtol, seed=seed, min_sqnr=min_sqnr, power=power, intermediates=intermediates,
        threads=threads,
    )  # fmt: skip
    if comparison.status != "equal":
        raise AssertionError(f"the models are not equivalent\n{comparison}{failing_example(a)}")
    if min_power is not None and (comparison.power is None or comparison.power < min_power):
        raise AssertionError(f"the models agree, but the power to see a difference is below {min_power}\n{comparison}")
    return comparison


def failing_example(model: ModelSource | Model) -> str:
    """A small model as IR text, with the path of its saved file; "" for a large or broken model.

    The file is named after the running pytest test, so that the last example of a shrinking search remains.
    """
    from .. import onnx_io
    from ..ir import Model, to_text

    try:
        lifted = model if isinstance(model, Model) else onnx_io.load(model)
        if sum(1 for _ in lifted.graph.walk()) > _READ:
            return ""
        test = os.environ.get("PYTEST_CURRENT_TEST", "model").rpartition(" (")[0] or "model"
        path = Path(tempfile.gettempdir(), "graphopt-failing", re.sub(r"[^\w.-]+", "-", test)[-100:] + ".onnx")
        path.parent.mkdir(exist_ok=True)
        onnx_io.save(lifted, path)
    except (GraphoptError, OSError):
        return ""
    return f"\nopset {lifted.opset}, saved as {path}\n{to_text(lifted.graph, constants=True)}"
