"""Products of language models whose inputs must stay float in mode dynamic.

A few tokens, such as the first of a text, have activations thousands of times larger than others: one scale a tensor
rounds all others to zero (LLM.int8, Dettmers et al. 2022). One session measures the affected layers: a switch lets each
product read its input rounded or unrounded.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from ....compress.context import StageContext
from ....ir import Array, DType, Node, TensorType, Value
from ....ops import update_types
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..emit.mapped_clone import MappedClone, mapped_clone
from .variants import Variants

MARGIN = 0.8
"""The share of the limit available to rounded inputs: rounded weights take some, too, and the samples are few. In 8
bits SmolLM2-135M's weights take 0.008 of 0.05 nats."""


def harmful_inputs(
    assignment: Assignment, products: Container[Node], context: StageContext, limit: float
) -> tuple[list[Unit], int]:  # fmt: skip
    """The units with the most harmful inputs first, and how many of `products` must read floats, at least one, so that
    the divergence of the others together stays within `limit`."""
    place = assignment.order
    units = sorted(assignment.units, key=place.__getitem__)
    rounded = [u for u in units if u.linear is not None and not u.is_table and u.node in products]
    clone = mapped_clone(assignment.model)
    switches = {u: f"graphopt.switch{k}" for k, u in enumerate(rounded)}
    _add_switches(clone, switches)
    on, off = np.array(True), np.array(False)
    variants = Variants(clone.model, dict.fromkeys(switches.values(), off), context, len(rounded) + 8)  # and bisection
    harms = {}
    for count, unit in enumerate(rounded):
        context.tell(f"measure: layer {count + 1} of {len(rounded)}", count / len(rounded))
        harms[unit] = variants.harm({switches[unit]: on})
    rounded.sort(key=lambda u: -harms[u])

    def others(count: int) -> dict[str, Array]:
        return {switches[u]: on for u in rounded[count:]}

    low, high = 0, len(rounded)
    while high - low > 1:
        middle = (low + high) // 2
        if variants.harm(others(middle)) <= MARGIN * limit:
            high = middle
        else:
            low = middle
    return [*rounded, *(u for u in units if u not in harms)], high


def _add_switches(clone: MappedClone, switches: dict[Unit, str]) -> None:
    """Add model inputs that switch each product between its input and the rounded input."""
    graph, known = clone.model.graph, dict[Value, Value]()
    for unit, name in switches.items():
        node, x = clone.nodes[unit.node], clone.nodes[unit.node].inputs[0]
        assert x is not None
        switch = graph.add_input(Value(TensorType(DType.BOOL, ()), name))
        if x not in known:
            quantize = Node("DynamicQuantizeLinear", (x,), None, 3)
            read = Node("DequantizeLinear", quantize.outputs)
            for step in (quantize, read):
                graph.insert_before(node, step)
                update_types(step)
            known[x] = read.output
        choose = Node("Where", (switch, known[x], x), None, [x.type])
        graph.insert_before(node, choose)
        graph.set_input(node, 0, choose.output)
