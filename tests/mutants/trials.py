"""Trials of mutants: whether one changes a result, whether bisection names it, how small the repro is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import onnx

import graphopt
from graphopt.passes import SCHEDULE
from graphopt.pipeline import Pass
from graphopt.rewrite import Rule
from graphopt.testing import random_graph

from ..fuzz.trial import attempt
from .mutator import KINDS, Mutant, mutants

GRAPHS = 300
SHOWN = 5  # graphs that show a mutant, on which bisection is tried


@dataclass(frozen=True, slots=True)
class Verdict:
    """status: "same" (an equivalent mutant, by this check), "raises", "changes" (a result) or "unnoticed" (by bisect).

    `named` says whether bisection named a rewrite that uses the mutated function; `nodes` is the size of the repro.
    """

    mutant: Mutant
    status: str
    graphs: int = 0
    guilty: str = ""
    named: bool = False
    nodes: int | None = None


def judge(mutant: Mutant, graphs: int = GRAPHS) -> Verdict:
    """The stated check: on `graphs` random graphs rich in what the mutated rules match, three inputs each, does a
    result differ from the original's that does not differ without the mutant? If none does, it counts as equivalent.
    """
    users = users_of(mutant.function)
    shown = 0
    for number, model in enumerate(_graphs(users, graphs), 1):
        with mutant.alive():
            trial = attempt(model, SCHEDULE, _target(users))
        if not trial.failed or attempt(model, SCHEDULE, _target(users)).failed:
            continue
        if trial.status == "crashed":
            return Verdict(mutant, "raises", number, trial.reason)
        with mutant.alive():
            found = graphopt.bisect(model, target=_target(users))
        shown += 1
        if found:
            return _verdict(mutant, users, number, found.findings[0])
        if shown == SHOWN:
            break
    return Verdict(mutant, "unnoticed" if shown else "same", graphs)


def _verdict(mutant: Mutant, users: Users, number: int, finding: Any) -> Verdict:
    named = finding.rewrite in users.rules or finding.guilty in users.passes
    nodes = None if finding.repro is None else finding.repro.nodes
    return Verdict(mutant, "changes", number, f"{finding.guilty}/{finding.rewrite}", named, nodes)


def _target(users: Users) -> str:
    return (
        "portable" if all("portable" in (rule.targets or ("portable",)) for rule in users.patterns) else "onnxruntime"
    )


def _graphs(users: Users, count: int) -> Iterator[onnx.ModelProto]:
    """Half of short graphs around the rules alone, half of everything."""
    for seed in range(count):
        if seed % 2 or not users.patterns:
            yield random_graph(seed, matching=users.patterns)
        else:
            yield random_graph(seed, blocks=3, families=("idioms", "linear"), matching=users.patterns)


# -- which rules use which functions


@dataclass(frozen=True, slots=True)
class Users:
    """Names of the rules and passes that use a function, and those rules."""

    rules: frozenset[str]
    passes: frozenset[str]
    patterns: tuple[Rule, ...]


@cache
def _reached() -> dict[FunctionType, Users]:
    found: dict[FunctionType, tuple[set[str], set[str], list[Rule]]] = {}
    for item in {p.name: p for p in SCHEDULE}.values():
        for root, rule in _roots(item):
            for function in _callees(root, set()):
                rules, passes, patterns = found.setdefault(function, (set(), set(), []))
                if rule is None:
                    passes.add(item.name)
                else:
                    rules.add(rule.name)
                    patterns.append(rule)
    return {f: Users(frozenset(r), frozenset(p), tuple(q)) for f, (r, p, q) in found.items()}


def users_of(function: FunctionType) -> Users:
    return _reached()[function]


def _roots(item: Pass) -> Iterator[tuple[Any, Rule | None]]:
    if not item.rules:
        yield item.run, None
    for rule in item.rules:
        yield rule.handler, rule


def _callees(function: Any, seen: set[Any]) -> set[FunctionType]:
    """Functions and methods of graphopt.passes that a function reaches by name."""
    if not isinstance(function, FunctionType) or function in seen:
        return seen
    if not function.__module__.startswith("graphopt.passes"):
        return seen
    seen.add(function)
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, type) and value.__module__.startswith("graphopt.passes"):
            for method in vars(value).values():
                _callees(method, seen)
        else:
            _callees(value, seen)
    return seen


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


@cache
def all_mutants() -> tuple[Mutant, ...]:
    """Every mutant of every function that a rule or pass of the schedule uses, in a fixed order."""
    functions = sorted(_reached(), key=lambda f: (f.__module__, f.__code__.co_firstlineno))
    return tuple(mutant for function in functions if _is_plain(function) for mutant in mutants(function))


def _is_plain(function: FunctionType) -> bool:
    """Written out as a function of its own: no lambda, no closure, nothing that dataclass generates."""
    written = "passes" in function.__code__.co_filename and not function.__name__.startswith("__")
    return written and not function.__closure__ and "<" not in function.__qualname__


def drawn(seed: int, count: int, rules_only: bool = True) -> list[Mutant]:
    """`count` mutants drawn by seed, as many of each kind."""
    rng = random.Random(seed)
    pool = [m for m in all_mutants() if users_of(m.function).patterns or not rules_only]
    by_kind: dict[str, list[Mutant]] = {kind: [m for m in pool if m.kind == kind] for kind in KINDS}
    for mutants_of_kind in by_kind.values():
        rng.shuffle(mutants_of_kind)
    turns = max(map(len, by_kind.values()))
    order = [by_kind[kind][turn] for turn in range(turns) for kind in KINDS if turn < len(by_kind[kind])]
    return order[:count]


def table(verdicts: Sequence[Verdict]) -> str:
    """One line a mutant."""
    lines = []
    for v in verdicts:
        told = v.guilty if v.status in ("changes", "raises") else ""
        size = "" if v.nodes is None else f"{v.nodes} nodes"
        right = {True: "named", False: "NOT NAMED"}[v.named] if v.status == "changes" else ""
        lines.append(f"{v.status:9} {right:9} {size:9} {v.graphs:4d} {v.mutant} | {told}"[:230])
    return "\n".join(lines)
