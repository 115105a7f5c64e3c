"""The search for recipes: per-layer decisions, predicted, built and measured, until a Pareto front emerges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from ..arguments import check_arguments
from ..errors import OptionError
from ..options import Runtime, runtime_named
from ..pipeline import Progress
from ..recommendation.workbench import Workbench
from .front import Front
from .lane import MachineLane
from .loop import Search
from .point import Point
from .trials import Trials
from .words import OBJECTIVES, budget_named, objectives_named, space_named

if TYPE_CHECKING:
    from ..calibration import CalibrationData, Preprocess
    from ..measure import Metric
    from ..onnx_io.source import ModelSource

__all__ = ["Front", "Point", "search"]


def search(
    model: ModelSource,
    *,
    calibration: CalibrationData,
    metric: Metric | None = None,
    budget: str | float = "10min",
    objectives: Sequence[str] = OBJECTIVES,
    space: Sequence[str] | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    out: str | os.PathLike[str] | None = None,
    target: Runtime = "portable",
    preprocess: str | Preprocess | None = None,
) -> Front:
    """Search for the Pareto front of a model's recipes in latency, quality and size, within a budget.

    model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`. calibration: typical inputs, as for `optimize`; of every
    four samples two calibrate the candidates, one judges them, and one, which the search never sees, confirms the
    returned points. metric: a function of a session, higher is better; without a metric, quality is SQNR in dB to the
    original. budget: "10min", "1h", or a number of trials, "30 trials". objectives: two or three of latency, quality
    and size. space: words for the decisions: "float16", "static int8", "dynamic", "weights8", "weights4" for a layer's
    precision, "channels", "calibration" (the method for activation ranges), and, not in the default space, "recovery"
    (training of the final points). executor: builds candidates, several at a time; time is measured
    by this process alone, while nothing else of the search runs. out: a folder for the front, its models and recipes,
    and the history, which is on disk after every trial: the same call resumes a search that was killed. target: the
    runtime that candidates are for.

    Same seed and same measured times: same recipes, whatever the number of workers. Raises `graphopt.GraphoptError`
    subclasses with one line; the points found until then are in the folder.
    """
    check_arguments(search, locals())
    if calibration is None:
        raise OptionError("search: give calibration= (--calibration samples.npz): candidates are judged by it")
    asked = budget_named(budget)
    goals, words = objectives_named(objectives), space_named(space)
    bench = Workbench(model, calibration, preprocess, metric, runtime_named(target), seed)
    trials = Trials(bench, MachineLane(bench), goals, out, {"space": words}, executor)
    return Search(trials, asked, words, progress).run()
