"""Choices for single layers, in words: the values of `layers=` in stage options and recipes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..errors import OptionError, did_you_mean
from ..ir import Node

_PLAIN: dict[str, tuple[str, int]] = {
    "static int8": ("static", 8), "static int4": ("static", 4), "static int3": ("static", 3),
    "static int2": ("static", 2), "dynamic": ("dynamic", 8), "weights8": ("weights", 8), "weights4": ("weights", 4),
    "weights3": ("weights", 3), "weights2": ("weights", 2),
}  # fmt: skip
BLOCKS = {
    f"{word} block{size}": size
    for word, (mode, _) in _PLAIN.items() if mode == "weights" for size in (16, 32, 64, 128, 256)
}  # fmt: skip
"""The inputs that share a scale, where a choice names them: "weights4 block64"."""
QUANTIZED = {**_PLAIN, **{word: _PLAIN[word.partition(" ")[0]] for word in BLOCKS}}
"""(mode, bits of a weight's code) of each choice that quantizes."""
FLOAT32, FLOAT16, STORED16, STORED8 = "float32", "float16", "weights16", "weights8"
CHOICES = (*_PLAIN, FLOAT16, STORED16, FLOAT32)
"""All choices for a layer but for blocks; "weights16" computes in float32 on weights stored in float16."""
_WORDS = {meant: word for word, meant in _PLAIN.items()}


def word_of(mode: str, bits: int, block: int | None = None) -> str:
    """The choice that quantizes in this mode with so many bits; of stored weights also by the inputs of a block."""
    return _WORDS[mode, bits] if block is None else f"{_WORDS[mode, bits]} block{block}"


def check_choices(what: str, layers: object) -> None:
    """OptionError, beginning with `what`, where `layers` is no mapping from names to choices."""
    if not isinstance(layers, Mapping) or not all(isinstance(name, str) for name in layers):
        raise OptionError(f"{what}: layers are choices by the names of layers, got {type(layers).__name__}")
    for name, choice in layers.items():
        if choice not in CHOICES and choice not in BLOCKS:
            close = did_you_mean(str(choice), (*CHOICES, *BLOCKS))
            raise OptionError(f"{what}: layers: {name}: {choice!r} is not one of {', '.join(CHOICES)}{close}")


def layer_names(nodes: Iterable[Node]) -> dict[Node, str]:
    """A unique name for each of `nodes` (a graph will do): its own, its first output's or its operator's, with #2 and
    so on where repeated."""
    names: dict[Node, str] = {}
    seen: Counter[str] = Counter()
    for node in nodes:
        name = node.name or (node.outputs[0].name if node.outputs else "") or node.op
        seen[name] += 1
        names[node] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


def branch_name(node: Node, slot: str) -> str:
    """The name of an If's branch, such as "If_0, then branch": with a colon, the prefix of its layers' names."""
    return f"{node.name or node.output.name or node.op}, {slot.replace('_', ' ')}"


def chosen_for(names: Mapping[Node, str], layers: Mapping[str, str]) -> dict[Node, str]:
    """The choice of each node that has one, by its name or by an origin's name that no other node bears itself: a bias
    split off a convolution does not inherit the convolution's choice."""
    found, own = {}, {*names.values()}
    for node, name in names.items():
        origins = (origin for origin in node.origins if origin not in own)
        choice = next((layers[known] for known in (name, *origins) if known in layers), None)
        if choice is not None:
            found[node] = choice
    return found


def bits_for(nodes: Iterable[Node], layers: Mapping[str, str], mode: str) -> dict[Node, int]:
    """The weight code's bits of each of `nodes` whose choice is this mode of quantization."""
    chosen = chosen_for(layer_names(nodes), layers)
    return {node: QUANTIZED[word][1] for node, word in chosen.items() if QUANTIZED.get(word, ("",))[0] == mode}


def block_sizes(nodes: Iterable[Node], layers: Mapping[str, str]) -> dict[Node, int]:
    """The inputs that share a scale, of each of `nodes` whose choice names them."""
    chosen = chosen_for(layer_names(nodes), layers)
    return {node: BLOCKS[word] for node, word in chosen.items() if word in BLOCKS}


def check_names(what: str, layers: Iterable[str], known: Iterable[str]) -> None:
    """OptionError for a name that no layer has."""
    known = set(known)
    for name in layers:
        if name not in known:
            raise OptionError(f"{what}: layers: the model has no {name!r}{did_you_mean(name, known)}")
