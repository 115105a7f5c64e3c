"""Linear Resize equals the oracle, bit for bit, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.layout.interpolate import Coordinates, Taps, linear_taps, prepare_resize_linear
from graphopt.kernels.tensors.windows import Image
from tests.kernels import naive


@pytest.mark.parametrize("level", [level.name for level in available_levels()])
@pytest.mark.parametrize("how", ["half_pixel", "align_corners"])
@pytest.mark.parametrize(
    ("image", "height", "width"),
    [
        (Image(2, 4, 5, 3), 9, 10),
        (Image(1, 3, 7, 33), 3, 20),
        (Image(1, 8, 8, 16), 3, 1),
        (Image(0, 2, 2, 4), 4, 4),
        (Image(3, 1, 1, 1), 2, 5),
        (Image(1, 4, 4, 70), 8, 0),
    ],
)
def test_linear(
    level: str, how: Coordinates, image: Image, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    x = naive.placed(np.random.default_rng(0).normal(0, 3, image.shape).astype(np.float32))
    rows = linear_taps(image.height, height, height / image.height, how)
    columns = linear_taps(image.width, width, width / image.width, how)
    y = naive.empty((image.batch, height, width, image.channels), np.float32)
    run_routine(prepare_resize_linear(image, rows, columns), {"x": x, "y": y}, workers=2)
    np.testing.assert_array_equal(y, naive.resize_linear(x, rows, columns))


def test_taps_outside_the_image_are_refused() -> None:
    outside = Taps(np.full((2, 1), 4, np.int32), np.full((2, 1), 0.5, np.float32))
    with pytest.raises(ValueError, match="indices"):
        prepare_resize_linear(Image(1, 4, 4, 1), outside, linear_taps(4, 1, 0.25, "asymmetric"))
