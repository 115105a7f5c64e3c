"""Fix sizes of the model's inputs, everywhere they reach: `input_shapes={"x": (1, 3, 224, 224)}`, `dims={"N": 1}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import InputError
from ...ir import Dim, Graph, Model, OptionalType, Port, SequenceType, TensorType, Type
from ...rewrite import retype


def specialise_inputs(model: Model, shapes: Mapping[str, Sequence[int | str | None]]) -> None:
    """Set input shapes in place. None or -1 leaves a size as it is; a name that gets a number gets it everywhere.

    InputError names the input where a name, a rank or a fixed size does not fit.
    """
    by_name = {value.name: value for value in model.graph.inputs}
    fixed: dict[str, Dim] = {}
    for name, shape in shapes.items():
        if name not in by_name:
            raise InputError(f"input shape for {name!r}: the model's inputs are {', '.join(map(repr, by_name))}")
        known = by_name[name].type
        if not isinstance(known, TensorType):
            raise InputError(f"input shape for {name!r}: it is no tensor")
        wanted = tuple(None if d is None or d == -1 else d if isinstance(d, str) else int(d) for d in shape)
        by_name[name].type = TensorType(known.dtype, _merge(name, known.shape, wanted, fixed))
    for graph in model.graph.graphs():
        _substitute(graph, fixed)
    _require_elements(model, fixed)
    retype(list(model.graph.walk()))


def fix_dims(model: Model, sizes: Mapping[str, int]) -> None:
    """Set sizes by name, in place, wherever the name occurs. InputError for a name that no input has."""
    if not sizes:
        return
    types = [value.type for value in model.graph.inputs]
    names = {d for t in types if isinstance(t, TensorType) for d in t.shape or () if isinstance(d, str)}
    for name, size in sizes.items():
        if name not in names:
            known = ", ".join(sorted(names)) or "all fixed, or without names"
            raise InputError(f"size {name!r}: the sizes of the model's inputs are {known}")
        if size < 0:
            raise InputError(f"size {name!r} cannot be {size}")
    fixed = {name: int(size) for name, size in sizes.items()}
    for graph in model.graph.graphs():
        _substitute(graph, fixed)
    _require_elements(model, fixed)
    retype(list(model.graph.walk()))


def _require_elements(model: Model, fixed: Mapping[str, Dim]) -> None:
    """InputError where sizes of 0 leave no input an element; an empty cache beside tokens is fine."""
    types = [value.type for value in model.graph.inputs if value.default is None]
    shapes = [t.shape for t in types if isinstance(t, TensorType) and t.shape is not None]
    if 0 in fixed.values() and all(0 in shape for shape in shapes):
        names = ", ".join(repr(name) for name, size in fixed.items() if size == 0)
        raise InputError(f"size {names} cannot be 0: no input would hold an element")


def _merge(name: str, known: tuple[Dim, ...] | None, wanted: tuple[Dim, ...], fixed: dict[str, Dim]) -> tuple[Dim, ...]:
    if known is None:
        return wanted
    if len(known) != len(wanted):
        raise InputError(f"input shape for {name!r}: it has {len(known)} axes, not {len(wanted)}")
    merged: list[Dim] = []
    for axis, (old, new) in enumerate(zip(known, wanted)):
        if isinstance(new, int) and new < 0:
            raise InputError(f"input shape for {name!r}: axis {axis} cannot be {new}")
        if isinstance(old, int) and isinstance(new, int) and old != new:
            raise InputError(f"input shape for {name!r}: axis {axis} is {old} in the model, not {new}")
        if isinstance(old, str) and new is not None:
            if fixed.setdefault(old, new) != new:
                raise InputError(f"input shape for {name!r}: {old!r} cannot be both {fixed[old]} and {new}")
            merged.append(new)
        else:
            merged.append(old if new is None or isinstance(old, int) else new)
    return tuple(merged)


def _substitute(graph: Graph, fixed: Mapping[str, Dim]) -> None:
    for value in graph.inputs:
        value.type = _fix(value.type, fixed)
    for node in graph:
        for value in node.outputs:
            value.type = _fix(value.type, fixed)
    graph.ports = tuple(Port(p.name, _fix(p.type, fixed), p.doc, p.metadata) for p in graph.ports)


def _fix(type: Type | None, fixed: Mapping[str, Dim]) -> Type | None:
    if isinstance(type, SequenceType):
        return SequenceType(_fix(type.element, fixed))
    if isinstance(type, OptionalType):
        return OptionalType(_fix(type.element, fixed))
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    return TensorType(type.dtype, tuple(fixed.get(d, d) if isinstance(d, str) else d for d in type.shape))
