from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.equivalence import compare
from graphopt.equivalence.metrics import cosine, max_error, same_specials, sqnr_db, top1_agreement
from graphopt.errors import OptionError
from tests.equivalence.nets import dense


def test_sqnr():
    a = np.array([3.0, 4.0])
    assert sqnr_db(a, a) == math.inf
    assert sqnr_db(a, 1.1 * a) == pytest.approx(20.0)
    assert sqnr_db(np.zeros(2), a) == -math.inf


def test_cosine():
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == 0.0
    assert cosine(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == pytest.approx(1.0)
    assert cosine(np.zeros(2), np.zeros(2)) == 1.0
    assert cosine(np.zeros(2), np.ones(2)) == 0.0


def test_top1():
    assert top1_agreement(np.eye(2), np.array([[2.0, 1.0], [3.0, 1.0]])) == 0.5
    assert top1_agreement(np.ones((3, 1)), np.ones((3, 1))) is None


def test_specials():
    a = np.array([np.nan, np.inf, 1.0])
    assert same_specials(a, a.copy())
    assert not same_specials(a, np.array([np.nan, -np.inf, 1.0]))
    assert max_error(a, np.array([np.nan, np.inf, 1.5])) == 0.5


WRONG = [{"samples": 0}, {"samples": "4"}, {"seed": "a"}, {"seed": -1}, {"rtol": -1.0}, {"rtol": float("nan")},
         {"rtol": None}, {"min_sqnr": "20"}, {"min_sqnr": float("nan")}]  # fmt: skip


@pytest.mark.parametrize("keywords", WRONG)
def test_numbers_that_make_no_sense_are_refused(keywords):
    """No samples, or a tolerance below zero, would be equality or difference of nothing."""
    (name,) = keywords
    with pytest.raises(OptionError, match=f"^{name} is a "):
        compare(dense("Neg"), dense("Neg"), **keywords)
