"""The training loop: a learning rate schedule, held-out errors, the best weights, and a resumable state."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..gradient import Trainer
from ..ir import Array
from .checkpoint import Progressed, load
from .epochs import Epochs
from .teacher import Targets

RATES = (2e-4, 1e-3, 2e-3)
"""Peak learning rates tried where none is given; 4e-3 ends half a point below 2e-3
(`python -m tests.bench.distillation --sweep`)."""
TRIED = 0.02
"""Steps of a learning rate trial, as a share of all; each trial has a schedule of its own. A choice."""
WARM_UP = 0.05
"""The share of steps over which the learning rate rises: a convention, not tuned."""
LOOKS = 25
"""Evaluations of the held-out error in a run: a choice between their cost and missed minima."""
LATER = 1.05
"""Later weights replace kept ones up to this multiple of the least held-out error: 51 samples resolve less than the end
of a schedule gains. Fashion CNN at 50 % of channels, 6,000 steps: held-out error 0.0143 at step 4,800 and 0.0146 at the
end, divergence on 2,000 other images 0.0062 and 0.0057."""
DECIDED = 0.02
"""How far the agreement with the teacher's classes may fall below the start's: one of 51 samples is no evidence. One
such sample cut a run of 1,500 steps at step 960."""
CLEAR = 2.6
"""Standard errors beyond which the mean gain of held-out rows is significant: 1 of 200 exceeds them by chance, for 25
evaluations a run. Fashion CNN at half of its multiply-accumulates, 512 labels: 128 rows gained 2.15 at the last
evaluation of 8, and the test images lost 0.28 points."""
PATIENCE = 15
"""Evaluations without a lower error that end a run: 60 % of it, since errors fall late on a cosine schedule."""

Weights = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Judged:
    """Held-out figures of weights: the loss, and the share of rows with the target's class, 1 without classes. rows:
    each row's loss against its labels. must_gain: there are labels alone, no teacher."""

    error: float
    agreement: float
    rows: tuple[float, ...] = ()
    must_gain: bool = False

    def bears_out(self, start: Judged) -> bool:
        """Whether label losses fall significantly below those of `start` or, beside a teacher, do not rise
        significantly; with fewer than two rows, whether there is a teacher."""
        if len(self.rows) < 2:
            return not self.must_gain
        gains = np.subtract(start.rows, self.rows)
        margin = CLEAR * gains.std(ddof=1) / math.sqrt(len(gains))
        return bool(gains.mean() > (margin if self.must_gain else -margin))


@dataclass(frozen=True, slots=True)
class Task:
    """A training task. judge: evaluates the student with given weights on held-out samples."""

    trainer: Trainer
    epochs: Epochs
    targets: Targets
    judge: Callable[[Weights], Judged]
    steps: int
    digest: str

    def step(self, number: int, rate: float) -> float:
        """Run one step; returns its loss."""
        batch = self.epochs.batch(number)
        return self.trainer.step({**batch.feeds, **self.targets.of(batch)}, rate)

    def weights(self) -> Weights:
        """The current weights."""
        state = self.trainer.state()
        return {name: state[name] for name in self.trainer.weights}


def cosine(step: int, steps: int, peak: float) -> float:
    """The learning rate: linear warm-up times half a cosine that falls to zero (Loshchilov and Hutter 2017, arXiv
    1608.03983)."""
    warm = max(1, round(WARM_UP * steps))
    return peak * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def run(
    task: Task, start: Judged, rate: float | None, path: str | os.PathLike[str] | None,
    tell: Callable[[str, float], None],
) -> Progressed:  # fmt: skip
    """Run all steps, or the rest after a checkpoint. start: figures of the untrained student.

    A non-finite loss ends the run, as does a held-out error that no longer falls; the best weights are kept.
    """
    done = None if path is None else load(path, task.digest)
    if done is None:
        done = Progressed(task.digest, rate=rate or _rate(task, tell), error=start.error)
    else:
        task.trainer.restore(done.state)
    every = max(1, task.steps // LOOKS)
    since: list[float] = []
    while done.step < task.steps and not done.stopped:
        try:
            since.append(task.step(done.step, cosine(done.step, task.steps, done.rate)))
        except (InputError, MemoryError) as error:
            reason = str(error) if isinstance(error, InputError) else "distil: memory does not suffice for a step"
            if done.step == 0:
                raise InputError(reason) from error
            done.stopped = f"stopped: {reason}"
        else:
            done.step += 1
        if done.stopped or done.step % every == 0 or done.step == task.steps:
            _look(task, done, since, start)
            since.clear()
            if path is not None:
                done.state = task.trainer.state()
                done.save(path)
        tell("distil", done.step / task.steps)
    return done


def _look(task: Task, done: Progressed, since: list[float], start: Judged) -> None:
    """Evaluate the held-out error; keep weights below the start's error, the latest of about equal ones; stop a run
    whose error no longer falls."""
    weights = task.weights()
    try:
        found = task.judge(weights)
    except InputError as error:
        done.stopped = done.stopped or f"stopped: {error}"
        return
    done.history.append((done.step, float(np.mean(since)) if since else math.nan, found.error))
    decides = found.agreement >= start.agreement - DECIDED
    if decides and found.error < min(start.error, LATER * done.least) and found.bears_out(start):
        done.error, done.best, done.at = found.error, weights, done.step
        done.least = min(done.least, found.error)
    looks = sum(1 for step, _, _ in done.history if step > done.at)
    if looks >= PATIENCE and not done.stopped and done.step < task.steps:
        done.stopped = f"stopped early: no lower error in {looks} looks"


def _rate(task: Task, tell: Callable[[str, float], None]) -> float:
    """The rate of RATES whose trial leaves the least held-out error; the least of them where all diverge."""
    start = task.trainer.state()
    steps = max(1, round(TRIED * task.steps))
    errors = []
    for number, rate in enumerate(RATES):
        tell("try learning rates", number / len(RATES))
        try:
            for step in range(steps):
                task.step(step, cosine(step, steps, rate))
            errors.append(task.judge(task.weights()).error)
        except InputError:
            if number == 0:
                raise
            errors.append(math.inf)
        task.trainer.restore(start)
    finite = [error if math.isfinite(error) else math.inf for error in errors]
    return RATES[finite.index(min(finite))]


def digest_of(*parts: object) -> str:
    """A digest of parts: bytes as they are, all others by their repr."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()
