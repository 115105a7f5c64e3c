"""Why a rule did not match: `graphopt passes --trace RULE model.onnx`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import onnx_io
from ..errors import OptionError, did_you_mean
from ..ir import Node
from ..pipeline import Pass, current, entry_points, listed, run_pass
from ..rewrite import Attempt, Context, Rule, explain
from .tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from ..onnx_io.source import ModelSource


@dataclass(frozen=True, slots=True)
class Miss:
    """A failed match at a node: how many of the pattern's nodes matched, of how many, and the failed condition."""

    rule: str
    node: str
    fitted: int
    wanted: int
    reason: str
    place: str = ""  # "" where the reason concerns the node itself


@dataclass(frozen=True, slots=True)
class Traced:
    """The pass `by`, how often each of its rules fired, and the nodes where they declined, the nearest miss first."""

    by: str
    fired: dict[str, int]
    misses: tuple[Miss, ...]


def trace_rule(model: ModelSource, name: str, target: str = "portable") -> Traced:
    """Run the schedule through the pass `name`, or through the pass that contains the rule `name`; list the misses.

    OptionError for a name of neither a rule nor a pass made of rules.
    """
    item, rules = _find(name)
    lifted = onnx_io.load(model)
    context = Context(target)
    for before in _up_to(item):
        run_pass(lifted, before, context)
    fired = run_pass(lifted, item, context).fired
    misses = [
        Miss(tried.rule.name, _label(tried.node), tried.fitted, tried.rule.pattern.size, declined.reason, _place(tried))
        for tried in explain(rules, lifted.graph, context)
        if (declined := tried.declined) is not None
    ]
    names = {rule.name for rule in rules}
    misses.sort(key=lambda miss: miss.wanted - miss.fitted)
    return Traced(item.name, {k: n for k, n in fired.items() if k in names}, tuple(misses))


def _find(name: str) -> tuple[Pass, list[Rule]]:
    known = [item for item, _ in listed()]
    offered = [offer.name for offer in entry_points() if offer.name not in {item.name for item in known}]
    known += [current().get(offer) for offer in offered if name == offer]
    if not any(name == item.name or name in {rule.name for rule in item.rules} for item in known):
        known += [item for item in map(_loaded, offered) if item is not None]
    for item in known:
        if item.name == name:
            if not item.rules:
                raise OptionError(f"pass {name!r} looks at whole graphs; only rules can be traced")
            return item, list(item.rules)
    for item in known:
        rules = [rule for rule in item.rules if rule.name in (name, name.replace("-", "_"))]
        if rules:
            return item, rules
    names = sorted({rule.name for item in known for rule in item.rules})
    close = did_you_mean(name, [*names, *(item.name for item in known)])
    raise OptionError(f"no rule is named {name!r}{close}; there are: {', '.join(names)}")


def _loaded(name: str) -> Pass | None:
    """The pass that a package offers; None where loading fails, which is an error only when requested by name."""
    try:
        return current().get(name)
    except OptionError:
        return None


def _up_to(item: Pass) -> Iterator[Pass]:
    """The passes that the schedule runs before `item`; none if it is not in the schedule."""
    schedule = current().schedule()
    names = [other.name for other in schedule]
    yield from schedule[: names.index(item.name)] if item.name in names else ()


def _label(node: Node) -> str:
    return f"{node.op_type} {node.name or node.output.name}".strip()


def _place(tried: Attempt) -> str:
    place = None if tried.declined is None else tried.declined.place
    return _label(place) if isinstance(place, Node) and place is not tried.node else ""


def trace_table(traced: Traced, most: int = 40) -> Table:
    """A table of misses; those with the same reason share a row."""
    from rich.markup import escape

    fired = ", ".join(f"{name} ×{n}" for name, n in traced.fired.items()) or "nothing"
    headings = ("rule", "fitted", "at", "why not")
    table = plain_table(headings, right=("fitted",), caption=f"fired in {traced.by}: {fired}")
    groups: dict[tuple[str, int, int, str], list[Miss]] = {}
    for miss in traced.misses:
        key = (miss.rule, miss.fitted, miss.wanted, miss.reason)
        groups.setdefault(key, []).append(miss)
    for (rule, fitted, wanted, _), alike in list(groups.items())[:most]:
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        place = f", at {alike[0].place}" if alike[0].place else ""
        cells = rule, f"{fitted} of {wanted}", alike[0].node + more, alike[0].reason + place
        table.add_row(*map(escape, cells))
    if len(groups) > most:
        table.add_row("…", "", f"{len(groups) - most} more reasons", "", style="dim")
    return table
