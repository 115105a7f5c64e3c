"""The padding of sliding windows: ONNX's `auto_pad`, resolved for known sizes."""

from __future__ import annotations

from collections.abc import Sequence


def resolve_pads(
    auto_pad: str, pads: Sequence[int], sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:  # fmt: skip
    """Explicit pads as ONNX orders them, all begins and then all ends (ONNX Conv, MaxPool, AveragePool).

    sizes, kernel, strides, dilations: one number a spatial axis; `pads` may be empty for none.

    SAME pads so that ceil(size / stride) windows fit: (ceil(n / s) − 1) · s + d (k − 1) + 1 − n elements, the odd one
    at the end for SAME_UPPER and at the beginning for SAME_LOWER.
    """
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return (0,) * 2 * len(kernel) if auto_pad == "VALID" or not pads else tuple(pads)
    totals = [
        max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in zip(sizes, kernel, strides, dilations)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)
