"""A plan as a recipe: which layers compute how, which channels go, in plain data and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .words import CHANNELS, FLOAT, METHODS, RECOVERY

Plan = tuple[int, ...]
"""The number of the choice that is taken of each decision."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, with its choices, the first of which leaves the model as it is.

    parts: the names of the layers that it is for, or of the layer that makes the channels.
    """

    name: str
    choices: tuple[str, ...]
    parts: tuple[str, ...] = ()


def recipe_of(decisions: Sequence[Decision], plan: Plan) -> dict[str, Any]:
    """The recipe of a plan.

    layers: the word of each layer that is not float32, by its name. channels: the share of channels that goes, by the
    name of a layer that makes them. calibration, recovery: the words of these decisions, where they are not the usual.
    """
    recipe: dict[str, Any] = {}
    for decision, chosen in zip(decisions, plan):
        word = decision.choices[chosen]
        if chosen == 0:
            continue
        if decision.name in (METHODS, RECOVERY):
            recipe[decision.name] = word
        elif decision.name.startswith(CHANNELS):
            recipe.setdefault("channels", {}).update(dict.fromkeys(decision.parts, float(word)))
        else:
            recipe.setdefault("layers", {}).update(dict.fromkeys(decision.parts, word))
    return recipe


def describe(recipe: Mapping[str, Any]) -> str:
    """A recipe in a line: how many layers compute how, the mean share of channels that goes, the rest by its words."""
    counts = Counter(word for word in recipe.get("layers", {}).values() if word != FLOAT)
    parts = [f"{count} × {word}" for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    shares = list(recipe.get("channels", {}).values())
    if shares:
        parts.append(f"{sum(shares) / len(shares):.0%} of {len(shares)} channel groups")
    parts += [f"{key} {recipe[key]}" for key in (METHODS, RECOVERY) if key in recipe]
    return ", ".join(parts)
