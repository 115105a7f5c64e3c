"""The loop: which weights of a run are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from graphopt.distillation.loop import Judged, Task, run


def kept(start: Judged, *found: Judged) -> Any:
    """What a run keeps that finds this at its looks, one a step."""
    looks = iter(found)
    state: dict[str, Any] = {"w": 0}

    def step(feeds: Any, rate: float) -> float:
        state["w"] += 1
        return 1.0

    trainer: Any = SimpleNamespace(step=step, state=lambda: dict(state), weights=("w",))
    epochs: Any = SimpleNamespace(batch=lambda number: SimpleNamespace(feeds={}))
    targets: Any = SimpleNamespace(of=lambda batch: {})
    task = Task(trainer, epochs, targets, lambda weights: next(looks), len(found), "")
    done = run(task, start, 1e-3, None, lambda what, share: None)
    return done.at, done.error, done.best


@pytest.mark.parametrize(
    ("found", "at", "error"),
    [
        ([0.5, 0.4, 0.41], 3, 0.41),  # about as good, and later
        ([0.5, 0.4, 0.43], 2, 0.4),
        ([0.5, 0.4, 0.415, 0.425], 3, 0.415),  # measured by the least, not by the last that was kept
        ([1.01, 1.0], 0, 1.0),
        ([0.99, 1.02], 1, 0.99),  # never above the start
    ],
)
def test_later_weights_are_kept_that_are_about_as_good(found, at, error):
    best = {"w": at} if at else None
    assert kept(Judged(1.0, 0.9), *(Judged(e, 0.9) for e in found)) == (at, error, best)


def test_weights_that_decide_less_well_are_not_kept():
    assert kept(Judged(1.0, 0.9), Judged(0.8, 0.9), Judged(0.5, 0.8), Judged(0.7, 0.95))[:2] == (3, 0.7)


@pytest.mark.parametrize(
    ("gains", "alone", "beside"),
    [
        ((0.3, 0.1, 0.2, 0.2), 1, 1),
        ((0.9, -0.1, 0.1, -0.1), 0, 1),  # one row alone: 2.6 standard errors are 0.62, the mean 0.2
        ((-0.3, -0.1, -0.2, -0.2), 0, 0),
        ((0.2,), 0, 1),
    ],
)
def test_labels_decide_where_their_rows_gain_or_lose_beyond_chance(gains, alone, beside):
    """Alone they must gain; beside a teacher, whose results judge, they must not lose."""
    rows = tuple(1.0 - gain for gain in gains)
    for must_gain, at in ((True, alone), (False, beside)):
        start, found = Judged(1.0, 0.9, (1.0,) * len(gains), must_gain), Judged(0.8, 0.9, rows, must_gain)
        assert kept(start, found)[0] == at
