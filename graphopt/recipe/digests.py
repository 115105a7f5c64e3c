"""Digests by which a recipe knows its model and its calibration data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ..calibration.observe import DigestedFeeds
from ..equivalence.feeds import Feeds
from ..ir import Constant, Graph, Model, Value

PREFIX = "sha256:"


def model_digest(model: Model) -> str:
    """A digest of a model's computation: operators, attributes and constants, wherever weights are stored; independent
    of names of inner values and sizes of inputs."""
    digest = hashlib.sha256()
    numbers: dict[Value, int] = {}
    for graph in (model.graph, *(function.body.graph for function in model.functions.values())):
        _add(digest, graph, numbers)
    return PREFIX + digest.hexdigest()


def _add(digest: hashlib._Hash, graph: Graph, numbers: dict[Value, int]) -> None:
    for value in graph.inputs:
        numbers[value] = len(numbers)
        digest.update(f"input {value.name}\n".encode())
        if value.default is not None:
            _add_constant(digest, value.default)
    for node in (*graph, graph.return_node):
        plain = sorted((k, v) for k, v in node.attrs.items() if isinstance(v, (int, float, str, bytes, list, tuple)))
        digest.update(f"{node.op} {node.overload} {plain!r}\n".encode())
        for value in node.inputs:
            if value is None or value.constant is None:
                digest.update(f"read {None if value is None else numbers[value]}\n".encode())
            else:
                _add_constant(digest, value.constant)
        for _, attribute in sorted(node.attrs.items(), key=lambda item: item[0]):
            if isinstance(attribute, Constant):
                _add_constant(digest, attribute)
            elif isinstance(attribute, Graph):
                _add(digest, attribute, numbers)
        for value in node.outputs:
            numbers[value] = len(numbers)


def _add_constant(digest: hashlib._Hash, constant: Constant) -> None:
    array = constant.array()
    digest.update(f"{constant.dtype} {constant.shape}".encode())
    if array.dtype.kind in "OSU":
        digest.update(repr(array.tolist()).encode())
    else:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def data_digest(samples: Iterable[Feeds]) -> str:
    """A digest of all samples as the model reads them, in order."""
    feeds = DigestedFeeds(samples)
    for _ in feeds:
        pass
    return PREFIX + feeds.digests[-1].hex()
