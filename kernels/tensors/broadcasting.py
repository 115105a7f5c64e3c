"""Broadcasting of a smaller tensor to a larger one in elementwise kernels: rows and strides."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

TILE = 4096  # elements of a tile where both tensors are flat


class Broadcast(NamedTuple):
    """Rows of the larger tensor, and the smaller one's strides in elements: of `rows` rows, of one, within one."""

    row_elements: int
    rows: int  # rows per outer index
    outer: int
    row: int
    inner: int

    def tiles(self, elements: int) -> int:
        """The number of rows of a larger tensor with `elements`."""
        return -(-elements // self.row_elements) if elements else 0

    @property
    def grain(self) -> int:
        """Rows that a worker claims at a time: about `TILE` elements."""
        return max(1, TILE // max(1, self.row_elements))


def broadcast(a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> Broadcast:
    """Row and stride structure of b under a. Raises ValueError where b broadcasts in more than one run of axes."""
    padded = (1,) * (len(a_shape) - len(b_shape)) + b_shape
    if len(padded) != len(a_shape) or any(m not in (1, n) for n, m in zip(a_shape, padded, strict=False)):
        raise ValueError(f"{b_shape} does not broadcast to {a_shape}")
    if prod(padded) == prod(a_shape):
        return Broadcast(TILE, 1 << 62, 0, TILE, 1)
    if prod(padded) == 1:
        return Broadcast(TILE, 1 << 62, 0, 0, 0)
    runs: list[tuple[bool, int]] = []  # (b has the axis, elements), neighbours of one kind merged
    for n, m in zip(a_shape, padded, strict=True):
        if n == 1:
            continue
        present = m == n
        if runs and runs[-1][0] == present:
            runs[-1] = (present, runs[-1][1] * n)
        else:
            runs.append((present, n))
    presence, sizes = [run[0] for run in runs], [run[1] for run in runs]
    if presence == [False, True]:
        return Broadcast(sizes[1], 1 << 62, 0, 0, 1)
    if presence == [True, False]:
        return Broadcast(sizes[1], 1 << 62, 0, 1, 0)
    if presence == [True, False, True]:
        return Broadcast(sizes[2], sizes[1], sizes[2], 0, 1)
    if presence == [False, True, False]:
        return Broadcast(sizes[2], sizes[1], 0, 1, 0)
    raise ValueError(f"{b_shape} broadcasts to {a_shape} in more than one run")
