"""Runs passes in order, verifies after each, checks the numbers, and takes back what broke them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..ir import Model, Node, RewriteLog, Value, clone_model, collector_paused, verify
from ..rewrite import apply_rules, retype
from .passes import Pass

CheckPolicy = Literal["end", "each", "off"]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one pass did: how many changes, which rules fired, what it cost."""

    name: str
    exact: bool
    changes: int
    fired: dict[str, int]
    seconds: float
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    error: float | None = None  # the largest error of an output in units of what equality allows, with check="each"


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A pass or rewrite that was undone, with the check that it failed."""

    what: str  # the pass
    rewrite: str  # the rule or kind of change within the pass, as far as it was narrowed down
    nodes: tuple[str, ...]  # the original nodes it touched
    reason: str
    repro: str = ""  # where a small model lies that shows it, if one was asked for


@dataclass(frozen=True, slots=True)
class Blame:
    """A rewrite that the check refused, or a pass that raised (then `rewrite` is empty), on the model just before."""

    before: Model
    guilty: Pass
    rewrite: str
    nodes: tuple[str, ...]
    reason: str


@dataclass(slots=True)
class Outcome:
    """The rewritten model, and how it came about. `verdict` is what the last check said."""

    model: Model
    effects: list[Effect] = field(default_factory=list)
    taken_back: list[TakenBack] = field(default_factory=list)
    verdict: Any = None
    log: RewriteLog = field(default_factory=RewriteLog)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of a candidate: whether it may be kept, and why not."""

    ok: bool
    reason: str = ""
    error: float | None = None
    detail: Any = None


Check = Callable[[Model], Verdict]
OnBlame = Callable[[Blame], str]
"""Told of each rewrite that is taken back; returns where it left a repro, or an empty text."""


class PassError(Exception):
    """A pass raised, or left a broken graph."""

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(f"pass {name!r} failed: {type(cause).__name__}: {cause}")
        self.name, self.cause = name, cause


def run(
    model: Model,
    schedule: Sequence[Pass],
    *,
    check: Check | None = None,
    policy: CheckPolicy = "end",
    progress: Progress | None = None,
    on_blame: OnBlame | None = None,
) -> Outcome:
    """Run `schedule` on copies of `model`, which stays as it is.

    A pass that raises or breaks the graph is left out. When `check` refuses the result, the guilty rewrite is found by
    bisection over the rewrites, its rule (or its pass, where the change has no rule) is taken back, and so on until the
    check agrees; in the end the model itself is the result. `on_blame` is told of each before it goes.
    """
    with collector_paused():
        return _run(model, list(schedule), check, policy, progress, on_blame)


def _run(
    model: Model, passes: list[Pass], check: Check | None, policy: CheckPolicy, progress: Progress | None,
    on_blame: OnBlame | None,
) -> Outcome:  # fmt: skip
    taken: list[TakenBack] = []
    banned: set[str] = set()
    while True:
        try:
            outcome = _run_once(model, passes, RewriteLog(None, frozenset(banned)), check, policy, progress)
        except PassError as error:
            repro = "" if on_blame is None else _blame_raiser(model, passes, frozenset(banned), error, on_blame)
            taken.append(TakenBack(error.name, "", (), str(error), repro))
            passes = [p for p in passes if p.name != error.name]
            continue
        outcome.taken_back = taken
        if check is None or policy == "off" or outcome.verdict is None or outcome.verdict.ok:
            return outcome
        number, entry = _bisect(model, passes, frozenset(banned), check, outcome.log.count)
        if entry is None:
            taken.append(TakenBack("*", "", (), f"{outcome.verdict.reason}; the original is kept"))
            return Outcome(clone_model(model), [], taken, check(model))
        name, rewrite, nodes = entry
        repro = ""
        if on_blame is not None:
            before = _run_once(model, passes, RewriteLog(number - 1, frozenset(banned)), None, "off").model
            guilty = next(item for item in passes if item.name == name)
            repro = on_blame(Blame(before, guilty, rewrite, nodes, outcome.verdict.reason))
        taken.append(TakenBack(name, rewrite, nodes, outcome.verdict.reason, repro))
        if rewrite and rewrite != name and rewrite not in banned:
            banned.add(rewrite)
        else:
            passes = [p for p in passes if p.name != name]


def _blame_raiser(
    model: Model, passes: Sequence[Pass], banned: frozenset[str], error: PassError, on_blame: OnBlame
) -> str:
    """Blame the first pass of that name that raises, on what the passes before it leave."""
    for place, item in enumerate(passes):
        if item.name != error.name:
            continue
        before = _run_once(model, passes[:place], RewriteLog(None, banned), None, "off").model
        trial = clone_model(before)
        trial.log = RewriteLog(None, banned)
        try:
            run_pass(trial, item)
        except PassError:
            return on_blame(Blame(before, item, "", (), str(error)))
    return ""


def _run_once(
    model: Model, passes: Sequence[Pass], log: RewriteLog, check: Check | None, policy: CheckPolicy,
    progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    copy = clone_model(model)
    copy.log = log
    outcome = Outcome(copy, log=log)
    size = _Size.of(copy)
    for i, item in enumerate(passes):
        if progress is not None:
            progress(item.name, i / len(passes))
        effect, size = _run_measured(copy, item, size)
        if policy == "each" and check is not None and effect.changes:
            outcome.verdict = check(copy)
            effect = replace(effect, error=outcome.verdict.error)
        outcome.effects.append(effect)
        if outcome.verdict is not None and not outcome.verdict.ok:
            break
    if check is not None and policy == "end":
        outcome.verdict = check(copy) if log.count else Verdict(True)
    copy.log = None
    return outcome


def run_pass(model: Model, item: Pass) -> Effect:
    """Run one pass on a model in place, verify the structure, re-infer the types it touched. PassError if it fails."""
    return _run_measured(model, item, _Size.of(model))[0]


@dataclass(frozen=True, slots=True)
class _Size:
    nodes: int
    constants: int

    @classmethod
    def of(cls, model: Model) -> _Size:
        return cls(count_nodes(model), constant_bytes(model))


def _run_measured(model: Model, item: Pass, size: _Size) -> tuple[Effect, _Size]:
    start, log = time.perf_counter(), model.log
    before = len(log.entries) if log is not None else 0
    if log is not None:
        log.scope = item.name
    touched: dict[Node, None] = {}
    model.touched = touched
    try:
        fired, changes = _apply(model, item)
        model.touched = None
        if touched or changes:
            retype(list(touched))
            verify(model)
    except Exception as error:  # a pass may come from anywhere; whatever it raises, the model survives
        raise PassError(item.name, error) from error
    finally:
        model.touched = None
    if log is not None and changes and len(log.entries) == before:
        log.count += 1  # a pass from outside that does not ask for each change counts as one rewrite
        log.entries.append((item.name, item.name, ()))
    _stamp(touched, item.name)
    after = _Size.of(model) if touched or changes else size
    seconds = time.perf_counter() - start
    effect = Effect(
        item.name, item.exact, changes, dict(fired), seconds, size.nodes, after.nodes, size.constants, after.constants
    )
    return effect, after


def _apply(model: Model, item: Pass) -> tuple[Counter[str], int]:
    if item.rules:
        fired = Counter[str]()
        for function in model.functions.values():
            function.body.target = model.target
            fired += apply_rules(function.body.graph, item.rules, item.name)
        fired += apply_rules(model.graph, item.rules, item.name)
        return fired, fired.total()
    log = model.log
    if log is not None and log.limit is not None and log.count >= log.limit:
        return Counter(), 0
    return Counter(), int(item.run(model.graph) or 0)


def _stamp(touched: dict[Node, None], name: str) -> None:
    for node in touched:
        if node.graph is not None and not node.origins and not node.made_by:
            node.made_by = name
            sources = (v.producer for v in node.inputs if v is not None and v.producer is not None)
            node.origins = tuple(dict.fromkeys(origin for source in sources for origin in source.origins))


def _bisect(
    model: Model, passes: Sequence[Pass], banned: frozenset[str], check: Check, total: int
) -> tuple[int, tuple[str, str, tuple[str, ...]] | None]:
    """The first rewrite with which the check fails: its number from 1 and its entry in the log, found with log2(total)
    runs; None if even none fails.
    """
    low, high = 0, total  # the first `low` rewrites pass, the first `high` fail
    check = getattr(check, "probe", check)  # a check may offer a cheaper one that fails on the same models
    if total == 0 or not check(model).ok:
        return 0, None
    while high - low > 1:
        middle = (low + high) // 2
        log = RewriteLog(middle, banned)
        if check(_run_once(model, passes, log, None, "off").model).ok:
            low = middle
        else:
            high = middle
    log = RewriteLog(high, banned)
    _run_once(model, passes, log, None, "off")
    return high, log.entries[high - 1] if len(log.entries) >= high else None


def count_nodes(model: Model) -> int:
    """Nodes of the root graph and of all graphs nested in it, and of functions; constants are no nodes."""
    return sum(len(g) for g in model.graph.graphs()) + sum(count_nodes(f.body) for f in model.functions.values())


def constant_bytes(model: Model) -> int:
    """Bytes all constants and defaults take, each value once."""
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
