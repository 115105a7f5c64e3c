"""Repros: a few nodes, cut out of a model with their input data, on which one pass still fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, ModelError
from ..ir import Model, Node, captures, clone_model
from ..rewrite import RewriteLog, retype
from .driver import Blame, OnBlame, PassError, run_pass
from .shrink import extract, name_values, neighbours, shrink

if TYPE_CHECKING:
    import onnx

    from ..equivalence.feeds import Feeds
    from ..onnx_io.source import ModelSource

_SAMPLES = 2  # samples on which each piece is compared
_STEPS = (2, 5, 12)  # radii around the blamed nodes, in uses, of the first candidate pieces
_WHOLE_NODES = 400  # nodes of the largest model to shrink as a whole where no candidate piece fails


@dataclass(frozen=True, slots=True)
class Repro:
    """A model on which the pass `guilty` fails, and inputs that reproduce the failure (none where the pass raises)."""

    model: onnx.ModelProto
    feeds: tuple[Feeds, ...]
    guilty: str
    nodes: int

    def save(self, stem: Path) -> Path:
        """Write `stem`.onnx and `stem`.npz, the inputs of the first sample; returns the path of the model."""
        import numpy as np
        import onnx

        stem.parent.mkdir(parents=True, exist_ok=True)
        path = stem.with_name(stem.name + ".onnx")
        onnx.save(self.model, path)
        if self.feeds and self.feeds[0]:
            np.savez(stem.with_name(stem.name + ".npz"), **self.feeds[0])
        return path


def make_repro(blame: Blame, feeds: Sequence[Feeds] = ()) -> Repro | None:
    """Cut out and shrink a piece of the model on which the blamed rewrite fails; None if no piece does.

    feeds: inputs of the whole model, by name. Inner values that become inputs of the piece are fed as computed in the
    whole model.
    """
    model = clone_model(blame.before)
    name_values(model)
    start = [node for node in model.graph.walk() if set(node.origins or (node.name,)) & set(blame.nodes)]
    large = len(model.graph) > _WHOLE_NODES
    seen = neighbours(model, start, max(_STEPS)) if large else list(model.graph)
    try:
        trial = _Raises(blame) if not blame.rewrite else _Differs(blame, model, feeds, seen)
    except ModelError:
        return None  # the model before the rewrite does not run
    for steps in _STEPS if start else ():
        near = neighbours(model, start, steps)
        if trial.holds(extract(model, near)):
            return trial.repro(shrink(model, trial.holds, near))
    if large or not trial.holds(extract(model, list(model.graph))):
        return None
    return trial.repro(shrink(model, trial.holds))


def leave_repros(model: Model | ModelSource, folder: Path, seed: int = 0) -> OnBlame:
    """A callback that writes a repro of each blame to `folder`, numbered and named after the pass."""
    feeds: list[Feeds] = []
    count = 0

    def on_blame(blame: Blame) -> str:
        nonlocal count
        if blame.rewrite and not feeds:
            feeds.extend(runnable_feeds(model, 4, seed))
        repro = make_repro(blame, feeds)
        if repro is None:
            return ""
        count += 1
        return str(repro.save(folder / f"{count:02d}-{blame.guilty.name}"))

    return on_blame


def runnable_feeds(model: Model | ModelSource, samples: int, seed: int) -> list[Feeds]:
    """Made-up inputs that the model runs on; none if it does not run."""
    from ..equivalence import synthesise

    try:
        return synthesise(model, samples, seed)
    except (ModelError, InputError):
        return []


class _Only(RewriteLog):
    """Permits one kind of rewrite."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def permits(self, what: str) -> bool:
        return what == self.what and super().permits(what)


@dataclass(slots=True)
class _Raises:
    blame: Blame

    def holds(self, piece: Model) -> bool:
        trial = clone_model(piece)
        try:
            run_pass(trial, self.blame.guilty, self.blame.context())
        except PassError:
            return True
        return False

    def repro(self, piece: Model) -> Repro:
        return Repro(_written(piece), (), self.blame.guilty.name, len(list(piece.graph.walk())))


class _Differs:
    """Whether a piece's results change when the blamed pass commits only the blamed kind of rewrite."""

    def __init__(self, blame: Blame, model: Model, feeds: Sequence[Feeds], nodes: Sequence[Node]) -> None:
        self.blame = blame
        self.values = _inner_values(model, feeds[:_SAMPLES], nodes)

    def holds(self, piece: Model) -> bool:
        from ..equivalence import compare

        feeds = self._feeds(piece)
        changed = self._changed(piece)
        if feeds is None or changed is None:
            return False
        return compare(piece, changed, feeds, power=False, intermediates=False, threads=1).status == "different"

    def repro(self, piece: Model) -> Repro:
        nodes = len(list(piece.graph.walk()))
        return Repro(_written(piece), tuple(self._feeds(piece) or ()), self.blame.guilty.name, nodes)

    def _feeds(self, piece: Model) -> list[Feeds] | None:
        """The values of the piece's inputs in the whole model, for each sample; None if one is not a tensor."""
        names = [v.name for v in piece.graph.inputs if v.default is None]
        if any(name not in known for known in self.values for name in names):
            return None
        return [{name: known[name] for name in names} for known in self.values]

    def _changed(self, piece: Model) -> Model | None:
        """The piece after the pass; None if the pass fails or does not make the rewrite."""
        changed = clone_model(piece)
        context = self.blame.context(_Only(self.blame.rewrite))
        retype([node for node in changed.graph.walk() if any(v.type is None for v in node.outputs)])
        try:
            run_pass(changed, self.blame.guilty, context)
        except PassError:
            return None
        return changed if context.log.entries else None


def _inner_values(
    model: Model, feeds: Sequence[Feeds], nodes: Sequence[Node]
) -> list[Feeds]:  # fmt: skip
    """The operands and results of `nodes`, by name, for each sample, as onnxruntime computes them unoptimized."""
    import numpy as np

    from ..equivalence.runnable import folder_of, open_runnable
    from ..onnx_io.emit import Emitter

    emitter = Emitter(model)
    source = open_runnable(emitter.model(), folder=folder_of(model))
    wanted = {v for node in nodes for v in (*node.inputs, *captures(node), *node.outputs) if v is not None}
    taps = {
        name: value.name for name, value in emitter.values.items() if value in wanted and value.producer is not None
    }
    session = source.session(optimize=False, threads=1, taps=taps)
    samples = []
    for feed in feeds:
        results = session.run(feed, [name for name in taps if name not in session.names])
        known = {**feed, **{taps[name]: value for name, value in results.items() if name in taps}}
        samples.append({name: value for name, value in known.items() if isinstance(value, np.ndarray)})
    return samples


def _written(piece: Model) -> onnx.ModelProto:
    """The piece as a proto that contains its weights."""
    import onnx

    from .. import onnx_io

    proto = onnx_io.to_proto(piece)
    if piece.folder:
        onnx.load_external_data_for_model(proto, piece.folder)
    return proto
