"""A digest of all in a model on which the time of a run depends: its structure, not its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from ..ir import Model, Node, Value


def structure_digest(model: Model, feed: Mapping[str, Any], facts: str = "", chosen: Set[Node] = frozenset()) -> str:
    """24 hexadecimal digits for operators, attributes, shapes and the flow of values, nested graphs included.

    feed: inputs, of which the shapes count. facts: whatever else times depend on. chosen: nodes told from the others.
    """
    names: dict[Value, str] = {v: f"i{i}" for i, v in enumerate(model.graph.inputs)}
    digest = hashlib.sha256(facts.encode())
    digest.update(repr(sorted((n, np.shape(v)) for n, v in feed.items())).encode())
    for i, node in enumerate(model.graph.walk()):
        reads = [_read(v, names) for v in node.inputs]
        attrs = sorted((k, v) for k, v in node.attrs.items() if isinstance(v, (int, float, str, tuple)))
        digest.update(f"{node.op}{reads}{attrs!r}{node in chosen}".encode())
        names.update((v, f"n{i}.{v.index}") for v in node.outputs)
    return digest.hexdigest()[:24]


def _read(value: Value | None, names: Mapping[Value, str]) -> str:
    if value is None:
        return ""
    return f"c{value.constant.shape}{value.constant.dtype}" if value.constant is not None else names.get(value, "?")
