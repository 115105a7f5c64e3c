"""Preparation of transpositions: axes of size 1 dropped, axes that stay neighbors merged, at most five runs remain."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.layout.moves import prepare_channel_shuffle

_SIZES = dict.fromkeys(("n1", "n2", "n3", "n4", "s0", "s1", "s2", "s3", "s4"), "i64")
_MOST = 5
"""The most runs of axes after merging, one for each of the kernel's loops: as many as DepthToSpace needs."""
_PIECE = 256
"""The most elements of a dense axis in a tile: a piece of three planes is 3 KB. Tiles of one pixel took six times as
long for an image of 224 × 224 (478 to 78 µs), and 1.6 times as long for 64 channels back to planes."""
PERMUTE = {
    itemsize: Kernel("graphopt.kernels.loops.layout.permute:permute", {"x": kind, "y": kind, **_SIZES})
    for itemsize, kind in ((1, "u8*"), (4, "i32*"))
}


def prepare_permute(shape: Sequence[int], permutation: Sequence[int], itemsize: int = 1) -> Routine:
    """ONNX Transpose of elements of 1 or 4 bytes: x dense of `shape` → y dense with axes in the order `permutation`.

    Raises ValueError where more than five runs of axes remain, or `permutation` is not one.
    """
    if sorted(permutation) != list(range(len(shape))):
        raise ValueError(f"{tuple(permutation)} is no permutation of {len(shape)} axes")
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    runs: list[tuple[int, int]] = []  # size, stride; axes that stay neighbors merged
    for axis in permutation:
        size, stride = shape[axis], strides[axis]
        if size == 1:
            continue
        if runs and runs[-1][1] == stride * size:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    if len(runs) > _MOST:
        raise ValueError(f"transposing {tuple(shape)} by {tuple(permutation)} moves {len(runs)} runs of axes")
    if itemsize == 1 and len(runs) == 3 and _is_shuffle(*runs):
        (rows, _), (each, _), (groups, _) = runs
        return prepare_channel_shuffle(rows, groups * each, groups)
    if len(runs) == 2 and runs[0][1] == 1:  # a tile takes a piece of it, not a single index
        size = runs[0][0]
        piece = max(count for count in range(1, min(size, _PIECE) + 1) if size % count == 0)
        runs[:1] = [(size // piece, piece), (piece, 1)]
    while 2 <= len(runs) < _MOST:  # the outermost axis of several is shared between workers
        runs.insert(1, (1, 0))
    while len(runs) < _MOST:
        runs.insert(0, (1, 0))
    (tiles, s0), (n1, s1), (n2, s2), (n3, s3), (n4, s4) = runs
    if tiles == 1 and s4 == 1 and n3 > 1:
        (tiles, s0), (n3, s3) = (n3, s3), (tiles, s0)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "n1": n1, "n2": n2, "n3": n3, "n4": n4, "s0": s0, "s1": s1, "s2": s2,
        "s3": s3, "s4": s4,
    }  # fmt: skip
    return Routine((Step(PERMUTE[itemsize], arguments, tiles=tiles if n1 * n2 * n3 * n4 else 0),))


def _is_shuffle(rows: tuple[int, int], each: tuple[int, int], groups: tuple[int, int]) -> bool:
    """Whether a few groups of bytes of dense rows are interleaved: an instruction or two for many bytes."""
    return 2 <= groups[0] <= 4 and each[1] == 1 and groups[1] == each[0] and rows[1] == each[0] * groups[0]
