"""Runs passes in order, verifies the graph after each, checks results, and rolls back guilty rewrites."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..ir import IRError, Model, Node, Value, VerifyError, clone_model, collector_paused, verify
from ..rewrite import Context, RewriteLog, Rewritten, apply_rules, retype
from .passes import Pass

_log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parent.parent

CheckPolicy = Literal["end", "each", "off"]
Progress = Callable[[str, float], None]
"""Called with the name of the current step and the completed fraction, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one pass: changes, how often each rule fired, seconds, and the model's size before and after."""

    name: str
    exact: bool
    changes: int
    fired: dict[str, int]
    seconds: float
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    error: float | None = None  # largest error of an output, with check="each"; up to 1 counts as equal


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A pass or rewrite that was rolled back, with the failed check."""

    what: str  # the pass
    rewrite: str  # the rule or kind of change within the pass; empty for the whole pass
    nodes: tuple[str, ...]  # the original nodes of the rewrite
    reason: str
    repro: str = ""  # the path of a small model that shows the failure, if one was written
    cause: Exception | None = field(default=None, repr=False, compare=False)  # the error that the pass raised, if any

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cause"}


@dataclass(frozen=True, slots=True)
class Blame:
    """A rewrite that the check refused, or a pass that raised (then `rewrite` is empty), with the model just before."""

    before: Model
    guilty: Pass
    rewrite: str
    nodes: tuple[str, ...]
    reason: str
    target: str
    size_limit: int | None

    def context(self, log: RewriteLog | None = None) -> Context:
        """A context to run the guilty pass in."""
        return Context(self.target, self.size_limit, log or RewriteLog())


@dataclass(slots=True)
class Outcome:
    """The rewritten model, the effects and log of its passes, and the verdict of the last check."""

    model: Model
    effects: list[Effect] = field(default_factory=list)
    rolled_back: list[RolledBack] = field(default_factory=list)
    verdict: Verdict | None = None
    log: RewriteLog = field(default_factory=RewriteLog)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check: whether a candidate may be kept, why not, and its largest error (see `Effect`)."""

    ok: bool
    reason: str = ""
    error: float | None = None


Check = Callable[[Model], Verdict]
OnBlame = Callable[[Blame], str]
"""Called with each rewrite before it is rolled back; returns the path of a repro, or an empty text."""


def _place_of(error: Exception) -> str:
    """Where a pass raised: the last line outside of this package, or else within it; "" for a broken graph."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is the driver's own
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(_PACKAGE)]
    if isinstance(error, (VerifyError, IRError)) and not outside:
        return ""
    known = outside or list(frames)
    return f" at {Path(known[-1].filename).name}:{known[-1].lineno}" if known else ""


class PassError(Exception):
    """A pass raised, or left a broken graph."""

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(f"pass {name!r} failed{_place_of(cause)}: {type(cause).__name__}: {cause}")
        self.name, self.cause = name, cause


def run(
    model: Model, schedule: Sequence[Pass], *, target: str = "portable", size_limit: int | None = None,
    check: Check | None = None, policy: CheckPolicy = "end", progress: Progress | None = None,
    on_blame: OnBlame | None = None,
) -> Outcome:  # fmt: skip
    """Run `schedule` on copies of `model`, which is never edited.

    target, size_limit: see `graphopt.rewrite.Context`. A pass that raises or breaks the graph is left out. When `check`
    refuses the result, bisection over the rewrites finds the guilty one, its rule (or its pass, where the change has no
    rule) is rolled back, and so on until the check accepts; in the worst case the model itself is the result.
    `on_blame` is called before each roll-back.
    """
    with collector_paused():
        return _Driver(model, list(schedule), target, size_limit, check, policy, progress, on_blame).run()


@dataclass(slots=True)
class _Driver:
    """Runs `passes`, without `banned` rewrites, until the check accepts the result."""

    model: Model
    passes: list[Pass]
    target: str
    size_limit: int | None
    check: Check | None
    policy: CheckPolicy
    progress: Progress | None
    on_blame: OnBlame | None
    banned: set[str] = field(default_factory=set)
    rolled_back: list[RolledBack] = field(default_factory=list)

    def run(self) -> Outcome:
        while True:
            try:
                outcome = self._attempt()
            except PassError as error:
                repro = "" if self.on_blame is None else self._blame_raiser(error, self.on_blame)
                self.rolled_back.append(RolledBack(error.name, "", (), str(error), repro, error.cause))
                _log.warning("rolled back %s: %s", error.name, error)
                self._drop(error.name)
                continue
            outcome.rolled_back = self.rolled_back
            if self.check is None or self.policy == "off" or outcome.verdict is None or outcome.verdict.ok:
                return outcome
            if not self._roll_back(outcome.verdict.reason, outcome.log.count, self.check):
                return Outcome(clone_model(self.model), [], self.rolled_back, self.check(self.model))

    def _attempt(self) -> Outcome:
        copy, context = clone_model(self.model), self._context()
        outcome = Outcome(copy, log=context.log)
        size = _Size.of(copy)
        for i, item in enumerate(self.passes):
            if self.progress is not None:
                self.progress(item.name, i / len(self.passes))
            effect, size = _run_measured(copy, item, context, size)
            if self.policy == "each" and self.check is not None and effect.changes:
                outcome.verdict = self.check(copy)
                effect = replace(effect, error=outcome.verdict.error)
            outcome.effects.append(effect)
            _tell(effect)
            if outcome.verdict is not None and not outcome.verdict.ok:
                break
        if self.check is not None and self.policy != "off" and not context.log.count:
            outcome.verdict = getattr(self.check, "unchanged", _accept)(copy)
        elif self.check is not None and self.policy == "end":
            if self.progress is not None:
                self.progress("validate", 1.0)
            outcome.verdict = self.check(copy)
        return outcome

    def _roll_back(self, reason: str, total: int, check: Check) -> bool:
        """Ban the first of `total` rewrites that the check refuses, or drop its pass; False if no rewrite is guilty."""
        number, entry = self._bisect(check, total)
        if entry is None:
            self.rolled_back.append(RolledBack("*", "", (), f"{reason}; the original is kept"))
            return False
        name, rewrite, nodes = entry
        repro = ""
        if self.on_blame is not None:
            before = self._replay(self.passes, number - 1)[0]
            guilty = next(item for item in self.passes if item.name == name)
            repro = self.on_blame(Blame(before, guilty, rewrite, nodes, reason, self.target, self.size_limit))
        self.rolled_back.append(RolledBack(name, rewrite, nodes, reason, repro))
        _log.warning("rolled back %s%s: %s", name, f" ({rewrite})" if rewrite else "", reason)
        if rewrite and rewrite != name and rewrite not in self.banned:
            self.banned.add(rewrite)
        else:
            self._drop(name)
        return True

    def _bisect(self, check: Check, total: int) -> tuple[int, Rewritten | None]:
        """The first rewrite after which the check fails: its number from 1 and its log entry, in log2(total) runs; None
        if the check fails without any rewrite."""
        low, high = 0, total  # the first `low` rewrites pass, the first `high` fail
        check = getattr(check, "probe", check)  # a check may offer a cheaper probe that fails on the same models
        if total == 0 or not check(self.model).ok:
            return 0, None
        while high - low > 1:
            middle = (low + high) // 2
            if check(self._replay(self.passes, middle)[0]).ok:
                low = middle
            else:
                high = middle
        entries = self._replay(self.passes, high)[1].entries
        return high, entries[high - 1] if len(entries) >= high else None

    def _blame_raiser(self, error: PassError, on_blame: OnBlame) -> str:
        """Blame the first pass of the error's name that raises again on the result of the passes before it."""
        for place, item in enumerate(self.passes):
            if item.name != error.name:
                continue
            before, _ = self._replay(self.passes[:place], None)
            try:
                run_pass(clone_model(before), item, self._context())
            except PassError:
                return on_blame(Blame(before, item, "", (), str(error), self.target, self.size_limit))
        return ""

    def _replay(self, passes: Sequence[Pass], limit: int | None) -> tuple[Model, RewriteLog]:
        """A copy of the model after the first `limit` rewrites of `passes`, and the log."""
        copy, context = clone_model(self.model), self._context(limit)
        for item in passes:
            run_pass(copy, item, context)
        return copy, context.log

    def _context(self, limit: int | None = None) -> Context:
        return Context(self.target, self.size_limit, RewriteLog(limit, frozenset(self.banned)))

    def _drop(self, name: str) -> None:
        self.passes = [item for item in self.passes if item.name != name]


def _tell(effect: Effect) -> None:
    """Log a pass: at INFO where it changed something, else at DEBUG."""
    nodes, milliseconds = effect.nodes_after - effect.nodes_before, effect.seconds * 1e3
    level = logging.INFO if effect.changes else logging.DEBUG
    _log.log(level, "%s: %d changes, %+d nodes, %.1f ms", effect.name, effect.changes, nodes, milliseconds)


def _accept(model: Model) -> Verdict:
    """Accepts a model that no pass changed, for checks without a method `unchanged`."""
    return Verdict(True)


def run_pass(model: Model, item: Pass, context: Context | None = None) -> Effect:
    """Run one pass on a model in place, verify the structure, re-infer the types it touched. PassError if it fails."""
    return _run_measured(model, item, context or Context(), _Size.of(model))[0]


@dataclass(frozen=True, slots=True)
class _Size:
    nodes: int
    constants: int

    @classmethod
    def of(cls, model: Model) -> _Size:
        return cls(count_nodes(model), constant_bytes(model))


def _run_measured(model: Model, item: Pass, context: Context, size: _Size) -> tuple[Effect, _Size]:
    start, log = time.perf_counter(), context.log
    before, log.scope = len(log.entries), item.name
    with context.collecting() as touched:
        try:
            with context.watching(model):
                fired, changes = _apply(model, item, context)
            if touched or changes:
                retype(list(touched))
                verify(model)
        except Exception as error:  # a third-party pass may raise anything
            raise PassError(item.name, error) from error
        if changes and len(log.entries) == before:
            log.record(item.name, ())  # a pass that does not commit each change counts as one rewrite
        _stamp(touched, item.name)
        after = _Size.of(model) if touched or changes else size
    seconds = time.perf_counter() - start
    effect = Effect(
        item.name, item.exact, changes, dict(fired), seconds, size.nodes, after.nodes, size.constants, after.constants
    )
    return effect, after


def _apply(model: Model, item: Pass, context: Context) -> tuple[Counter[str], int]:
    if item.rules:
        fired = Counter[str]()
        for function in model.functions.values():  # a separate context: types in function bodies are not re-inferred
            apart = Context(context.target, context.size_limit, context.log)
            fired += apply_rules(function.body.graph, item.rules, item.name, apart)
        fired += apply_rules(model.graph, item.rules, item.name, context)
        return fired, fired.total()
    if context.log.is_spent:
        return Counter(), 0
    done = item.run(model.graph, context)
    if done is None and context.touched:
        raise TypeError("it edited the graph and returned None: a pass returns the number of changes")
    return Counter(), int(done or 0)


def _stamp(touched: dict[Node, None], name: str) -> None:
    for node in touched:
        if node.graph is not None and not node.origins and not node.made_by:
            node.made_by = name
            sources = (v.producer for v in node.inputs if v is not None and v.producer is not None)
            node.origins = tuple(dict.fromkeys(origin for source in sources for origin in source.origins))


def count_nodes(model: Model) -> int:
    """Number of nodes in the root graph, its nested graphs and functions; constants are no nodes."""
    return sum(len(g) for g in model.graph.graphs()) + sum(count_nodes(f.body) for f in model.functions.values())


def constant_bytes(model: Model) -> int:
    """Bytes of all constants and defaults, each value once, without those of functions."""
    sizes: dict[Value, int] = {}
    for graph in model.graph.graphs():
        for value in graph.inputs:
            if value.default is not None:
                sizes[value] = value.default.nbytes
        for node in (*graph.snapshot(), graph.return_node):
            for used in node.inputs:
                if used is not None and used.constant is not None and used not in sizes:
                    sizes[used] = used.constant.nbytes
    return sum(sizes.values())
