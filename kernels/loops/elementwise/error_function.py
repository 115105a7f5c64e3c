"""The error function."""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np


def erf(lo, hi, worker, x, y):
    """y = erf(x), computed in float64 and rounded once."""
    for i in range(lo, hi):
        y[i] = np.float32(math.erf(np.float64(x[i])))
