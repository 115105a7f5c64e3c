"""Select the kept channels of a group: those with the best scores, equally many in every part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....analysis.channels import ChannelGroup, Classes

Scores = np.ndarray[Any, np.dtype[np.float64]]

_NODES = 2000
"""Nodes of the search tree after which HiGHS returns its best choice so far: a bound, not tuned, and not in seconds, so
that a busy machine chooses the same channels."""


def positions_per_class(group: ChannelGroup) -> int:
    """Positions of the first maker's output in one class: 1 for a channel, the head's size for an attention head."""
    for layer in group.makers:
        if layer.kind != "depthwise" and layer.outputs is not None:
            inside = np.isin(layer.outputs, group.classes)
            classes = np.unique(layer.outputs[inside]).size
            return max(1, int(inside.sum()) // classes) if classes else 1
    return 1


def rounded_width(group: ChannelGroup, keep: float, round_to: int) -> int:
    """The number of classes to keep: at least `keep`, for a layer width that is a multiple of `round_to` if
    possible."""
    step = max(1, math.ceil(round_to / positions_per_class(group)))
    return min(group.size, max(1, math.ceil(max(keep, 1) / step - 1e-9) * step))


def choose_classes(group: ChannelGroup, scores: Scores, keep: int) -> Classes | None:
    """About `keep` classes of a group, those with the largest scores; `scores` are those of `group.classes`.

    Where layers have groups, equally many are kept in every part of each: an integer program, solved by HiGHS. None
    when no such choice exists.
    """
    if not group.partitions:
        order = np.argsort(-scores, kind="stable")
        return np.sort(group.classes[order[:keep]])
    return _solve(group, scores, keep)


def _solve(group: ChannelGroup, scores: Scores, keep: int) -> Classes | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    n, share = group.size, keep / group.size
    place = {int(c): k for k, c in enumerate(group.classes)}
    distinct = {parts.tobytes(): parts for parts in group.partitions}
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    bounds: list[float] = []
    most: list[int] = []
    row = 0
    for number, parts in enumerate(distinct.values()):
        most.append(max(1, math.ceil(parts.shape[1] * share - 1e-9)))
        for part in parts:
            free = [place[int(c)] for c in part if int(c) in place]
            rows += [row] * (len(free) + 1)
            columns += [*free, n + number]
            values += [1.0] * len(free) + [-1.0]
            bounds.append(float(len(free) - len(part)))  # positions that cannot be removed are kept
            most[number] = max(most[number], len(part) - len(free))
            row += 1
    span = float(scores.max() - scores.min()) or 1.0
    gain = np.concatenate([1.0 + 0.5 * (scores - scores.min()) / span / n, np.zeros(len(distinct))])
    total = coo_array((np.ones(n), (np.zeros(n, int), np.arange(n))), (1, n + len(distinct)))
    equal = coo_array((values, (rows, columns)), (row, n + len(distinct)))
    upper = np.concatenate([np.ones(n), most])
    lower = np.concatenate([np.zeros(n), np.ones(len(distinct))])
    solution = milp(
        -gain, integrality=np.ones(n + len(distinct)), bounds=Bounds(lower, upper),
        constraints=[LinearConstraint(equal, bounds, bounds), LinearConstraint(total, 1, max(keep, 1))],
        options={"node_limit": _NODES, "mip_rel_gap": 0.0},
    )  # fmt: skip
    if solution.x is None:
        return None
    chosen: Classes = group.classes[np.round(solution.x[:n]).astype(bool)]
    return chosen
