"""Memory of constants: on cache lines with slack behind, many in one piece, each its own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from graphopt.kernels.core.memory import LINE, SLACK, aligned_copy


@pytest.mark.parametrize("size", [1, 3000, 70_001, 300_000, 1 << 22])
def test_constants_are_copies_on_cache_lines(size: int) -> None:
    rng = np.random.default_rng(size)
    sources = [rng.integers(0, 256, size, np.uint8) for _ in range(60)]
    copies = [aligned_copy(source) for source in sources]
    for source, copy in zip(sources, copies):
        assert copy.ctypes.data % LINE == 0
        np.testing.assert_array_equal(copy, source)
        assert copy.base is not None
        assert copy.ctypes.data + size + SLACK <= copy.base.ctypes.data + copy.base.nbytes
        (buffer,) = _buffers(copy)
        assert buffer.raw().nbytes == size  # not the piece
    copies[0][:] = 0
    np.testing.assert_array_equal(copies[1], sources[1])


def test_middling_constants_lie_side_by_side() -> None:
    """They share large pages."""
    places = [aligned_copy(np.ones(100_000, np.uint8)).ctypes.data for _ in range(40)]
    steps = np.diff(places)
    assert np.median(steps) == 100_000 + SLACK + -(100_000 + SLACK) % LINE


def _buffers(array: np.ndarray) -> list[pickle.PickleBuffer]:
    taken = list[pickle.PickleBuffer]()
    pickle.dumps(array, protocol=5, buffer_callback=taken.append)
    return taken
