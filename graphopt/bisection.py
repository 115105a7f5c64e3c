"""`graphopt bisect`: find each rewrite that changes a model's results, with a small model that reproduces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .api import optimize_as
from .arguments import check_arguments
from .options import Options, Runtime, Schedule, Target, Validation
from .pipeline import Blame, PassLike, Progress
from .pipeline.repro import Repro, make_repro, runnable_feeds
from .report import Report

if TYPE_CHECKING:
    from .onnx_io.source import ModelSource


@dataclass(frozen=True, slots=True)
class Finding:
    """A rewrite that broke the tolerance, or a pass that raised (then `rewrite` is empty)."""

    guilty: str
    rewrite: str
    nodes: tuple[str, ...]
    reason: str
    repro: Repro | None


@dataclass(frozen=True, slots=True)
class Bisection:
    """The guilty rewrites, in order of discovery, and the report of the run with all of them rolled back."""

    findings: tuple[Finding, ...]
    report: Report

    def __bool__(self) -> bool:
        return bool(self.findings)


def bisect(
    model: ModelSource, *, passes: Sequence[PassLike] | None = None, skip: Sequence[str] = (),
    target: Runtime = "portable",
    samples: int = 4, seed: int = 0, progress: Progress | None = None,
) -> Bisection:  # fmt: skip
    """Run the schedule on a model and find every rewrite that changes a result, one after the other.

    The arguments are those of `graphopt.optimize`; `samples` inputs are made up to reproduce each finding. A repro
    holds the few nodes around the rewrite, shrunk while they still fail, and their input data.
    """
    check_arguments(bisect, locals())
    findings: list[Finding] = []
    feeds = runnable_feeds(model, samples, seed)

    def on_blame(blame: Blame) -> str:
        repro = make_repro(blame, feeds)
        findings.append(Finding(blame.guilty.name, blame.rewrite, blame.nodes, blame.reason, repro))
        return ""

    options = Options(
        target=Target(runtime=target), schedule=Schedule(passes=passes, skip=skip),
        validation=Validation(on_blame=on_blame), seed=seed,
    )  # fmt: skip
    result = optimize_as(model, options, progress)
    return Bisection(tuple(findings), result.report)
