"""Tables of addresses: their files hold none, and point where they did once they are read."""

import pickle

import numpy as np

from graphopt.kernels.core.linked_table import LinkedTable


def table(target):
    """Three rows: a number, an address in `target`, a number."""
    made = LinkedTable(np.arange(9, dtype=np.int64).reshape(3, 3))
    made.link_column(1, target, np.array([0, 8, 16]))
    return made


def test_files_of_equal_tables_are_equal():
    arrays = [np.arange(4.0) for _ in range(2)]
    assert arrays[0].ctypes.data != arrays[1].ctypes.data
    assert len({pickle.dumps(table(array)) for array in arrays}) == 1


def test_a_table_that_is_read_points_at_its_array():
    made = table(np.arange(4.0))
    before = made.words.copy()
    read = pickle.loads(pickle.dumps(made))
    (target,) = read.arrays
    np.testing.assert_array_equal(read.words[:, 1], target.ctypes.data + np.array([0, 8, 16]))
    np.testing.assert_array_equal(read.words[:, ::2], before[:, ::2])
    np.testing.assert_array_equal(made.words, before)  # in use while it is saved
