"""Power: the share of 1 % perturbations of single weights that a comparison would have noticed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from ..ir import Array
from ..ops import nested_graphs
from .runnable import PACKED, RunnableModel

_MAX_BYTES = 1 << 28
"""Weights above 256 MiB are not perturbed: each perturbation copies the tensor into the session."""
_AT_LEAST = 8
"""The least number of perturbations, whatever their time: fewer would give a share in steps of more than an eighth."""
_FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_INT_TYPES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight tensor as an input of a session: its name and values, lent, or the input's default in the model."""

    name: str
    values: onnx.TensorProto | Array


@dataclass(frozen=True, slots=True)
class Perturbable:
    """A copy of a model in which some weights can be overridden."""

    proto: onnx.ModelProto
    weights: tuple[Weight, ...]

    @property
    def fed(self) -> dict[str, Array]:
        """The lent weights, which have no default: a session would hold a copy of each."""
        return {w.name: w.values for w in self.weights if not isinstance(w.values, onnx.TensorProto)}


@dataclass(frozen=True, slots=True)
class Power:
    """The share of perturbations that were noticed (None if there were none), and their number.

    is_least: the share is a lower bound, as some perturbations were tried on one sample alone.
    """

    share: float | None = None
    perturbations: int = 0
    is_least: bool = False


def make_perturbable(model: RunnableModel, count: int) -> Perturbable | None:
    """A copy of the model with up to `count` weight tensors, evenly spread over the file, as overridable inputs.

    Weights are float initializers and Constant nodes of more than one element, also of nested graphs, and 8-bit tensors
    of at least 16 elements. None if the model has no such weight.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    places = list(_places(proto.graph, True))
    if not places:
        return None
    order = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    chosen = [places[i] for i in dict.fromkeys(order.tolist())]
    names = {p.name for p in proto.graph.input}
    weights = []
    for number, place in enumerate(chosen):
        name = _lift(proto.graph, place, f"weight::{number}")
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        if name not in names:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        weights.append(Weight(name, model.lent.get(name, tensor)))
    fed = model.lent.keys() & {weight.name for weight in weights}
    for at in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[at].name in fed:
            del proto.graph.initializer[at]
    proto.ir_version = max(proto.ir_version, 4)
    return Perturbable(proto, tuple(weights))


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a weight: a graph, and an initializer or the value of a Constant `node`."""

    graph: onnx.GraphProto
    tensor: onnx.TensorProto
    node: onnx.NodeProto | None
    is_root: bool


def _places(graph: onnx.GraphProto, is_root: bool) -> Iterable[_Place]:
    inputs = {v.name for v in graph.input}
    inputs |= {name for node in graph.node if node.op_type in PACKED for name in node.input}
    outputs = {v.name for v in graph.output}
    for tensor in graph.initializer:
        if _is_weight(tensor) and tensor.name not in inputs and (is_root or tensor.name not in outputs):
            yield _Place(graph, tensor, None, is_root)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in outputs:
            for attr in node.attribute:
                if attr.name == "value" and _is_weight(attr.t):
                    yield _Place(graph, attr.t, node, is_root)
        for nested in nested_graphs(node):
            yield from _places(nested, False)


def _is_weight(tensor: onnx.TensorProto) -> bool:
    size = int(np.prod(tensor.dims))
    if tensor.data_type in _FLOAT_TYPES:
        return size > 1 and size * 4 <= _MAX_BYTES
    return tensor.data_type in _INT_TYPES and 16 <= size <= _MAX_BYTES


def _lift(root: onnx.GraphProto, place: _Place, fresh: str) -> str:
    """Move a weight to the initializers of the root graph; returns its name there."""
    if place.is_root and place.node is None:
        return place.tensor.name
    old = place.tensor.name if place.node is None else place.node.output[0]
    name = old if place.is_root else fresh
    moved = root.initializer.add()
    moved.CopyFrom(place.tensor)
    moved.name = name
    if place.node is None:
        del place.graph.initializer[[t.name for t in place.graph.initializer].index(old)]
    else:
        del place.graph.node[[n.output[0] if n.output else "" for n in place.graph.node].index(old)]
    if name != old:
        _rename(place.graph, old, name)
    return name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
        for nested in nested_graphs(node):
            _rename(nested, old, new)


def measure_power(
    perturbable: Perturbable,
    model: RunnableModel,
    notices: Callable[[dict[str, Array], bool], bool],
    count: int,
    seed: int,
    seconds: float,
) -> Power:
    """The share of perturbations for which `notices(weights, quick)` returned True.

    At most `count` are tried, and at most eight once `seconds` have passed: the latter, quickly, on the first sample
    only, so that the share is a lower bound.

    Each multiplies one element of one weight tensor by 1.01, or moves an 8-bit element by a step; the tensors take
    turns and the element is drawn with a probability proportional to its magnitude.
    """
    rng = np.random.default_rng(seed)
    base = str(model.folder) if model.folder is not None else ""
    noticed = perturbed = 0
    is_least = False
    until = time.perf_counter() + seconds
    for turn in rng.permutation(count):
        late = time.perf_counter() > until
        if perturbed >= _AT_LEAST and late:
            break
        weight = perturbable.weights[turn % len(perturbable.weights)]
        given = weight.values
        values = onnx.numpy_helper.to_array(given, base) if isinstance(given, onnx.TensorProto) else given
        changed = _perturbed(values, rng)
        if changed is None:
            continue
        perturbed += 1
        found = notices({weight.name: changed}, late)
        del changed  # before the next copy is made
        noticed, is_least = noticed + found, is_least or (late and not found)
    return Power(noticed / perturbed if perturbed else None, perturbed, is_least)


def _perturbed(values: Array, rng: np.random.Generator) -> Array | None:
    flat = values.reshape(-1)
    candidates = rng.integers(flat.size, size=min(flat.size, 1024))
    size = np.abs(flat[candidates].astype(np.float64))
    total = float(size.sum())
    if not np.isfinite(total) or total == 0.0:
        return None
    at = int(candidates[rng.choice(candidates.size, p=size / total)])
    changed = np.array(values, copy=True)
    target = changed.reshape(-1)
    if changed.dtype.kind == "f":
        target[at] = target[at] * changed.dtype.type(1.01)
    else:
        info = np.iinfo(changed.dtype)
        target[at] += 1 if target[at] < info.max else -1
    return changed
