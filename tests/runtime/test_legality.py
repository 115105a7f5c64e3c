"""The legality table is whole: every operation of the region IR has one row, whose functions are for that operation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args

from graphopt.runtime.compile import orders, shapes
from graphopt.runtime.compile.emit import decoders, elementwise, floats, images, moves, products, selections
from graphopt.runtime.compile.legality import LEGALITY
from graphopt.runtime.lower import operations
from graphopt.runtime.lower.decoders import operations as decoder_operations
from graphopt.runtime.lower.floats import operations as float_operations
from graphopt.runtime.lower.traits import Element, Operation
from tests.runtime import reference


def kinds() -> Iterator[type[Operation]]:
    """The operations that a graph can be lowered to: the classes that no other one specialises."""
    named = {**vars(operations), **vars(float_operations), **vars(decoder_operations)}
    classes = [c for c in named.values() if inspect.isclass(c) and issubclass(c, Operation)]
    return (c for c in classes if not any(c in other.__bases__ for other in classes))


def public(module: Any) -> set[Callable[..., Any]]:
    functions = {f for name, f in vars(module).items() if inspect.isfunction(f) and not name.startswith("_")}
    return {f for f in functions if f.__module__ == module.__name__}


def accepts(function: Callable[..., Any], kind: type[Operation]) -> bool:
    """Whether the parameter `operation` of a function is declared for this kind of operation."""
    declared = inspect.signature(function, eval_str=True).parameters["operation"].annotation
    return any(issubclass(kind, one) for one in get_args(declared) or (declared,))


def test_every_operation_has_its_row() -> None:
    assert set(LEGALITY) == {*kinds()}
    for kind, row in LEGALITY.items():
        for function in (row.shape, row.emit, row.order):
            assert accepts(function, kind), f"{function.__name__} is not for {kind.__name__}"


def test_every_emitter_and_shape_is_used() -> None:
    emitters = set().union(*map(public, (decoders, elementwise, floats, images, moves, products, selections)))
    assert emitters - {selections.repeated} == {row.emit for row in LEGALITY.values()}
    helpers = {shapes.operation_window, shapes.permutation_of, shapes.cuts_of, shapes.mean_axes}
    assert public(shapes) - helpers == {row.shape for row in LEGALITY.values()}
    assert public(orders) == {row.order for row in LEGALITY.values()}


def test_every_operation_has_a_reference() -> None:
    assert all(reference.compute.dispatch(kind) is not reference.compute.dispatch(object) for kind in kinds())


def test_traits_name_attributes_that_exist() -> None:
    for kind in kinds():
        for element in (kind.traits.reads, kind.traits.writes):
            assert element in (Element.CODE, Element.FLOAT) or hasattr(kind, element.value), kind
