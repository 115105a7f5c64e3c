"""One page for each pass, generated from the code: equation, pattern, conditions, IR text before and after."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from graphopt.pipeline import Pass, listed, rule_pass
from graphopt.rewrite import Rule
from graphopt.rewrite.describe import describe
from tests.docs.conditions import reasons
from tests.docs.examples import Example, shown

FOLDER = Path(__file__).parents[2] / "docs" / "passes"
_PATTERNS, _LINES, _WIDTH = 3, 26, 150
MADE = "<!-- Made from the code by `python -m tests.docs`; do not edit. -->"


def passes() -> list[tuple[Pass, bool]]:
    """Every built-in pass once, in the order of the schedule, and whether it is in there."""
    found: dict[str, tuple[Pass, bool]] = {}
    for item, scheduled in listed():
        if item.source == "graphopt":
            found.setdefault(item.name, (item, scheduled))
    return list(found.values())


def rules_of(item: Pass) -> dict[str, list[Rule]]:
    """The rules of a pass by name; a rule of many spellings is one."""
    named: dict[str, list[Rule]] = {}
    for rule in item.rules:
        named.setdefault(rule.name, []).append(rule)
    return named


def subjects() -> Iterator[tuple[str, Pass, Pass, list[Rule]]]:
    """The passes and rules that need an example: key, pass to run on it, pass that contains it, rules."""
    for item, _ in passes():
        if not item.rules:
            yield item.name, item, item, []
        for name, rules in rules_of(item).items():
            yield f"{item.name}/{name}", rule_pass(name, *rules), item, rules


def write_all(examples: dict[str, Example]) -> dict[str, str]:
    """Every page by file name."""
    pages = {f"{item.name}.md": page(item, scheduled, examples) for item, scheduled in passes()}
    return {"README.md": index(), **pages}


def index() -> str:
    """The list of passes in the order they run."""
    lines = ["# Passes", "", MADE, "", "`graphopt passes` prints this list for what is installed.", ""]
    lines += ["| runs | pass | kind | what it does |", "| --- | --- | --- | --- |"]
    for item, scheduled in listed():
        if item.source == "graphopt":
            kind = "exact" if item.exact else "lossy"
            runs = "in order" if scheduled else "when named"
            lines.append(f"| {runs} | [{item.name}]({item.name}.md) | {kind} | {_cell(item.summary)} |")
    return "\n".join(lines) + "\n"


def page(item: Pass, scheduled: bool, examples: dict[str, Example]) -> str:
    """The page of one pass."""
    kind = "exact: results stay equal up to rounding" if item.exact else "lossy"
    order = ["the start", *(p.name for p, on in listed() if on)]
    places = dict.fromkeys(before for before, name in pairwise(order) if name == item.name)
    when = f"[runs](README.md) after {' and after '.join(places)}" if scheduled else "runs when named"
    lines = [f"# {item.name}", "", MADE, "", f"*{kind}; {when}.*", "", *_prose(item.doc), ""]
    if not item.rules:
        why = reasons(item.run)
        lines += _declines(why)
        lines += _example(item.name, item, examples)
    for name, rules in rules_of(item).items():
        lines += [f"## {name}", "", f"> {rules[0].doc.splitlines()[0] if rules[0].doc else name}", ""]
        lines += [*_prose("\n".join(rules[0].doc.splitlines()[1:])), ""] if "\n" in rules[0].doc else []
        lines += _patterns(rules)
        lines += _declines([*_bounds(rules[0]), *reasons(rules[0].handler)])
        lines += _example(f"{item.name}/{name}", rule_pass(name, *rules), examples)
    return "\n".join(lines).rstrip() + "\n"


def _prose(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _patterns(rules: list[Rule]) -> list[str]:
    texts = list(dict.fromkeys(describe(rule.pattern) for rule in rules))
    shown_texts = [_cut(text) for text in texts[:_PATTERNS]]
    more = [f"and {len(texts) - _PATTERNS} other spellings"] if len(texts) > _PATTERNS else []
    return ["Matches", "", "```", *shown_texts, *more, "```", ""]


def _bounds(rule: Rule) -> list[str]:
    found = []
    if rule.min_opset > 1 or rule.max_opset < 1000:
        upper = f" to {rule.max_opset}" if rule.max_opset < 1000 else " or later"
        found.append(f"the opset is not {rule.min_opset}{upper}")
    if rule.targets:
        found.append(f"the target is not {' or '.join(rule.targets)}")
    return found


def _declines(why: list[str]) -> list[str]:
    return ["Declines where", "", *(f"- {reason}" for reason in why), ""] if why else []


def _example(key: str, item: Pass, examples: dict[str, Example]) -> list[str]:
    texts = shown(examples[key], item) if key in examples else None
    if texts is None:
        return []
    before, after = ([_cut(line) for line in text.splitlines()] for text in texts)
    if len(before) > _LINES:
        changed = list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
        body = [*changed[:_LINES], *(["…"] if len(changed) > _LINES else [])]
        return ["```diff", *body, "```", ""]
    return ["Before", "", "```mlir", *before, "```", "", "After", "", "```mlir", *after[:_LINES], "```", ""]


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
