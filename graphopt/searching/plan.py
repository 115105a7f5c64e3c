"""Plans and recipes: the precision of each layer and the width of each group, in plain data and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..compress.choices import FLOAT32
from .words import METHODS, RECOVERY, ROUNDING

Plan = tuple[int, ...]
"""The index of the selected choice of each decision."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, with its choices, the first of which leaves the model unchanged.

    parts: the names of the layers decided, or of the layer that produces the channels. is_width: a width is decided,
    else a precision.
    """

    name: str
    choices: tuple[str, ...]
    parts: tuple[str, ...]
    is_width: bool = False


def recipe_of(decisions: Sequence[Decision], plan: Plan) -> dict[str, Any]:
    """The recipe of a plan: `layers`, the word of each layer by its name; `channels`, the number kept by layer name,
    where any is removed."""
    recipe: dict[str, Any] = {}
    is_narrowed = any(chosen for decision, chosen in zip(decisions, plan) if decision.is_width)
    for decision, chosen in zip(decisions, plan):
        word = decision.choices[chosen]
        if decision.is_width and not is_narrowed:
            continue
        if decision.is_width:
            recipe.setdefault("channels", {}).update(dict.fromkeys(decision.parts, int(word)))
        else:
            recipe.setdefault("layers", {}).update(dict.fromkeys(decision.parts, word))
    return recipe


def plan_of(decisions: Sequence[Decision], recipe: Mapping[str, Any]) -> Plan | None:
    """The plan of a recipe; None where the recipe has an entry that no decision offers."""
    plan = []
    for decision in decisions:
        held = recipe.get("channels" if decision.is_width else "layers", {})
        words = {str(held[part]) for part in decision.parts if part in held} or {decision.choices[0]}
        if len(words) > 1 or not words <= {*decision.choices}:
            return None
        plan.append(decision.choices.index(words.pop()))
    return tuple(plan)


def alternating(decisions: Sequence[Decision], word: str) -> Plan:
    """The plan that gives a word to every other layer that can have it: the most borders."""
    plan, turn = [], False
    for decision in decisions:
        turn ^= word in decision.choices
        plan.append(decision.choices.index(word) if turn and word in decision.choices else 0)
    return tuple(plan)


def describe(recipe: Mapping[str, Any]) -> str:
    """A recipe in one line: the layers per word, the channels kept, other entries by their words."""
    counts = Counter(word for word in recipe.get("layers", {}).values() if word != FLOAT32)
    parts = [f"{count} × {word}" for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if recipe.get("channels"):
        widths = recipe["channels"].values()
        parts.append(f"{sum(widths)} channels in {len(widths)} groups")
    parts += [str(recipe[key]) for key in (METHODS, ROUNDING, RECOVERY) if key in recipe]
    return ", ".join(parts)
