"""The trials of a search: candidates measured one by one, each on disk before the next begins."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import onnx_io
from ..errors import GraphoptError, InputError, one_line
from ..measure import Quality, metric_name
from ..parallel import digest_of, ordered
from ..recipe import Recipe, data_digest, model_digest
from ..recommendation.workbench import LEAST, Part, Workbench
from .building import Builder, Built, build_sent, recipe_of
from .front import Front, front_from, write_front
from .lane import Lane
from .point import ORIGINAL, Point
from .storage import Store
from .tables import Tables

VERSION = 2
"""The version of the history's format; a later version does not resume an earlier one's search."""


@dataclass(slots=True)
class Trials:
    """The trials of a search. lane: measures time. samples: calibrate candidates; quality: judges them, on other
    samples; held: confirms on a third part, None for too few samples. seconds: spent in this run and earlier ones.
    run_seconds: of one run of the original, None where it was not timed.
    """

    bench: Workbench
    lane: Lane
    objectives: tuple[str, ...]
    out: str | os.PathLike[str] | None
    asked: Mapping[str, Any]
    executor: Executor | None = None
    history: list[Point] = field(init=False, default_factory=list)
    notes: list[str] = field(init=False, default_factory=list)
    store: Store = field(init=False)
    quality: Quality = field(init=False)
    held: Quality | None = field(init=False, default=None)
    samples: list[dict[str, Any]] = field(init=False)
    builder: Builder = field(init=False)
    tables: Tables | None = field(init=False, default=None)
    run_seconds: float | None = field(init=False, default=None)
    _replayed: list[dict[str, Any]] = field(init=False)
    _spent: float = field(init=False)
    _start: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        bench = self.bench
        self._part()
        self.builder = Builder(bench.model, self.samples)
        header = {
            "version": VERSION, "model": model_digest(bench.original), "data": data_digest(self.samples),
            "objectives": self.objectives, "seed": bench.seed, "target": bench.target,
            "metric": None if bench.metric is None else metric_name(bench.metric), **self.asked,
        }  # fmt: skip
        self.store = Store.open(self.out, header)
        self._replayed = list(self.store.records)
        self._spent = sum(record.get("seconds", 0.0) for record in self._replayed)

    def _part(self) -> None:
        """Split the samples: half calibrate candidates, a quarter judges, a quarter confirms; too few are not split."""
        given, bench = self.bench.calibration, self.bench
        assert given is not None
        if given.note:
            self.notes.append(given.note)
        if len(given.first(LEAST)) < LEAST:
            self.notes.append(f"fewer than {LEAST} samples: none was held out to judge or to confirm by")
            self.samples, self.quality = list(given), bench.quality_on(given)
            return
        made, judging, held = (Part(given, 4, frozenset(places)) for places in ((0, 2), (1,), (3,)))
        self.samples, self.quality = list(made), bench.quality_on(judging)
        self.held = Quality(bench.original, self.quality.session, held)

    @property
    def seconds(self) -> float:
        """Seconds spent, those of earlier runs included."""
        return self._spent + time.monotonic() - self._start

    @property
    def last(self) -> Point:
        """The latest point."""
        return self.history[-1]

    def front(self) -> Front:
        """The front of the trials so far."""
        metric = self.bench.metric
        quality = "SQNR" if metric is None else metric_name(metric)
        return front_from(self.history, self.objectives, quality, self.notes, (), self.tables, self.store.keep_alive)

    def replay(self, kind: str) -> dict[str, Any] | None:
        """The next unread record of a kind from an earlier run; None if there is none."""
        for place, record in enumerate(self._replayed):
            if record.get("kind") == kind:
                return self._replayed.pop(place)
        return None

    def original(self) -> None:
        """Add the given model as the first point."""
        record = self.replay(ORIGINAL)
        if record is None:
            bench, start = self.bench, time.monotonic()
            measured = self.lane.latency(bench.original)
            metric = None if bench.metric is None else self.quality.base
            point = Point(
                name=ORIGINAL, latency=None if measured is None else 1.0, metric=metric,
                metric_error=self._metric_error(metric), size=onnx_io.file_bytes(bench.original, bench.model) or 0,
                path=os.fspath(bench.model) if isinstance(bench.model, (str, os.PathLike)) else "",
            )  # fmt: skip
            run = None if measured is None else measured.seconds
            record = {"point": point.to_dict(), "run": run, "seconds": time.monotonic() - start}
            self.store.add(ORIGINAL, record)
        elif self.bench.metric is not None:
            _ = self.quality.base  # runs the metric, which counts its rows
        self.run_seconds = record["run"]
        if self.run_seconds is None:
            self.notes.append("no inputs were found that the model runs on: nothing was timed")
        self.add(Point.of(record["point"]))

    def run(self, recipes: Sequence[dict[str, Any]]) -> Iterator[Point]:
        """Build recipes, several at a time where there is an executor; then measure one after the other."""
        bench, known = self.bench, [self.replay("trial") for _ in recipes]
        wanted = [recipe for recipe, record in zip(recipes, known) if record is None]
        start = time.monotonic()
        built = self._built([recipe_of(recipe, bench.target, bench.seed) for recipe in wanted])
        for recipe, record in zip(recipes, known):
            if record is None:
                point = self.measured(recipe, next(built), start)
                record = {"point": point.to_dict(), "seconds": time.monotonic() - start}
                self.store.add("trial", record)
                start = time.monotonic()
            self.add(Point.of(record["point"]))
            yield self.last

    def _sent(self) -> Any:
        """The model as sent to a worker: whole if possible, since a worker may not share our disk."""
        model = self.bench.model
        if not isinstance(model, (str, os.PathLike)) or self.executor is None:
            return model
        return model if onnx_io.external_bytes(self.bench.original) else Path(model).read_bytes()

    def _built(self, recipes: Sequence[Recipe]) -> Iterator[Built]:
        """The built recipes; an executor builds all of them before any time is measured. If workers are lost, this
        process builds instead."""
        here = map(self.builder.build, recipes)
        if self.executor is None or not recipes:
            return here
        data = pickle.dumps((self._sent(), self.samples))
        calls = [((recipe, digest_of(data)), {digest_of(data): data}) for recipe in recipes]
        try:
            return iter(list(ordered(self.executor, build_sent, calls)))
        except InputError as error:
            self.notes.append(f"the workers are gone, this process went on alone: {one_line(error)}")
            self.executor = None
            return here

    def measured(self, recipe: dict[str, Any], built: Built, start: float) -> Point:
        """The point of a candidate: judged, timed, and written. GraphoptError where the metric fails."""
        name, made = f"trial {len(self.history)}", time.monotonic() - start
        predicted = {} if self.tables is None else self.tables.predicted(recipe)
        failed = Point(name=name, recipe=recipe, sqnr_db=-math.inf, low_db=-math.inf, predicted=predicted, seconds=made)
        if built.why:
            return replace(failed, why=built.why)
        try:
            model = built.ir if built.ir is not None else onnx_io.load(built.data)
            fidelity = self.quality.fidelity(model)
            measured = self.lane.latency(model)
        except GraphoptError as error:
            return replace(failed, why=one_line(error))
        if "layers" in recipe:  # the actual word of a layer, where it differs from the recipe's
            got = {name: built.layers.get(name, word) for name, word in recipe["layers"].items()}
            recipe = {**recipe, "layers": got}
        metric = None if self.bench.metric is None else self.quality.score(model)
        return Point(
            name=name, recipe=recipe, latency=None if measured is None else measured.latency,
            error=0.0 if measured is None else measured.error, sqnr_db=fidelity.sqnr_db, low_db=fidelity.low_db,
            metric=metric, metric_error=self._metric_error(metric), size=len(built.data), predicted=predicted,
            path=self._write(name, recipe, built), seconds=made,
        )  # fmt: skip

    def _metric_error(self, metric: float | None) -> float | None:
        """The standard error of a metric that is a share of rows; None for any other."""
        rows = self.quality.rows
        return math.sqrt(metric * (1 - metric) / rows) if metric is not None and 0 <= metric <= 1 and rows > 1 else None

    def _write(self, name: str, recipe: dict[str, Any], built: Built) -> str:
        """Write a candidate and its recipe."""
        stem = name.replace(" ", "-")
        full = recipe_of(recipe, self.bench.target, self.bench.seed)
        replace(full, model=model_digest(self.bench.original)).save(self.store.folder / f"{stem}.toml")
        return self.store.write_model(stem, built.data)

    def add(self, point: Point) -> None:
        """Add a point, write the front, and remove the models no longer on it."""
        self.history.append(point)
        self.show()

    def show(self) -> None:
        """Write the front, and remove the models no longer on it."""
        front, model = self.front(), self.bench.model
        title = Path(model).name if isinstance(model, (str, os.PathLike)) else "a model"
        kept, gone = {one.name for one in front.points}, []
        for place, one in enumerate(self.history):
            if one.path and not one.is_original and one.name not in kept:
                gone.append(Path(one.path))
                self.history[place] = replace(one, path="")
        write_front(front, self.store.folder, title)
        for path in gone:  # a front on disk never names a missing model
            for suffix in (".onnx", ".toml"):
                path.with_suffix(suffix).unlink(missing_ok=True)

    def confirm(self) -> None:
        """Measure the front's points on samples that the search never saw."""
        if self.held is None:
            return
        known = {record["name"]: record["held_db"] for record in self.store.of("held")}
        for point in self.front().points[1:]:
            if point.name not in known and Path(point.path).is_file():
                decibels = self.held.fidelity(onnx_io.load(point.path)).sqnr_db
                known[point.name] = decibels if math.isfinite(decibels) else None
                self.store.add("held", {"name": point.name, "held_db": known[point.name]})
        self.history = [replace(p, held_db=known.get(p.name, p.held_db)) for p in self.history]
        self.show()
