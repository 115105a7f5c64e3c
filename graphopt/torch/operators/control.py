"""If, Loop and Scan, whose nested programs read outer values by number; and sequences, which are lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def branch(call: Any, condition: Any) -> Any:
    """One of two programs"""
    chosen = call.nested["then_branch" if bool(condition) else "else_branch"]
    return tuple(chosen.run(call.values, []))


def loop(call: Any, count: Any, condition: Any, *carried: Any) -> Any:
    """A program while its condition holds, at most `count` times; what it returns beyond the carried is stacked"""
    body, n = call.nested["body"], len(carried)
    limit = None if count is None else int(count)
    going, state, rows, i = condition is None or bool(condition), list(carried), [], 0
    while going and (limit is None or i < limit):
        made = body.run(call.values, [torch.tensor(i, dtype=torch.int64), torch.tensor(True), *state])
        going, state = bool(made[0]), made[1 : 1 + n]
        rows.append(made[1 + n :])
        i += 1
    stacked = [torch.stack(parts) for parts in zip(*rows)]
    missing = len(body.results) - 1 - n - len(stacked)
    return (*state, *stacked, *[torch.zeros(0)] * missing)


def scan(call: Any, *operands: Any) -> Any:
    """A program over slices of its operands; what it returns beyond the states is stacked"""
    body, given = call.nested["body"], int(call.attr("num_scan_inputs"))
    states, inputs = list(operands[: len(operands) - given]), operands[len(operands) - given :]
    results = len(body.results) - len(states)
    axes = [int(a) for a in call.attr("scan_input_axes") or [0] * given]
    back = list(call.attr("scan_input_directions") or [0] * given)
    out_axes = [int(a) for a in call.attr("scan_output_axes") or [0] * results]
    out_back = list(call.attr("scan_output_directions") or [0] * results)
    slices = [t.unbind(axis)[:: -1 if b else 1] for t, axis, b in zip(inputs, axes, back)]
    rows = []
    for parts in zip(*slices):
        made = body.run(call.values, [*states, *parts])
        states = made[: len(states)]
        rows.append(made[len(states) :])
    stacked = [
        torch.stack(list(parts)[:: -1 if b else 1], axis) for parts, axis, b in zip(zip(*rows), out_axes, out_back)
    ]
    return (*states, *stacked)


def insert(call: Any, sequence: Any, tensor: Any, place: Any = None) -> Any:
    """A sequence with one tensor more"""
    copy = list(sequence)
    copy.insert(len(copy) if place is None else int(place) if int(place) >= 0 else int(place) + len(copy), tensor)
    return copy


def erase(call: Any, sequence: Any, place: Any = None) -> Any:
    """A sequence without one of its tensors, by default the last"""
    copy = list(sequence)
    del copy[-1 if place is None else int(place)]
    return copy


def concatenate(call: Any, sequence: Any) -> Any:
    """The tensors of a sequence along an axis, or a new one"""
    function = torch.stack if call.attr("new_axis", 0) else torch.cat
    return function(list(sequence), int(call.attr("axis")))


def divide(call: Any, x: Any, sizes: Any = None) -> Any:
    """A tensor as a sequence of its parts along an axis"""
    axis = int(call.attr("axis", 0))
    if sizes is None:
        parts = x.split(1, axis)
        return [list(parts if call.attr("keepdims", 1) else [p.squeeze(axis) for p in parts])]
    return [list(x.split(int(sizes) if sizes.dim() == 0 else [int(s) for s in sizes], axis))]


OPERATORS: dict[str, Callable[..., Any]] = {
    "If": branch, "Loop": loop, "Scan": scan, "SequenceConstruct": lambda call, *parts: (list(parts),),
    "SequenceEmpty": lambda call: ([],), "SequenceInsert": lambda call, *operands: (insert(call, *operands),),
    "SequenceErase": lambda call, *operands: (erase(call, *operands),),
    "SequenceAt": lambda call, sequence, place: sequence[int(place)],
    "SequenceLength": lambda call, sequence: torch.tensor(len(sequence), dtype=torch.int64),
    "ConcatFromSequence": concatenate, "SplitToSequence": lambda call, *operands: tuple(divide(call, *operands)),
}  # fmt: skip
