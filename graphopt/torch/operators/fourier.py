"""Fourier transforms; the last axis holds real and imaginary parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _complex(x: Any) -> Any:
    return torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]


def dft(call: Any, x: Any, length: Any = None, axis: Any = None) -> Any:
    """F x over m points along an axis, its first half, or F⁻¹ x"""
    over = int(call.attr("axis", -2) if axis is None else axis) % x.dim()
    points = None if length is None else int(length)
    z, half = _complex(x), bool(call.attr("onesided", 0))
    if call.attr("inverse", 0):
        if half:
            return torch.fft.irfft(z, points, over)[..., None]
        return torch.view_as_real(torch.fft.ifft(z, points, over))
    made = torch.fft.fft(z, points, over)
    return torch.view_as_real(made.narrow(over, 0, made.shape[over] // 2 + 1) if half else made)


def stft(call: Any, x: Any, step: Any, window: Any = None, length: Any = None) -> Any:
    """F (w xⱼ) of each frame of a signal [batch, length, 1 or 2]"""
    rows = int(length) if length is not None else window.shape[0]
    frames = _complex(x).unfold(1, rows, int(step))
    made = torch.fft.fft(frames if window is None else frames * window)
    return torch.view_as_real(made[..., : rows // 2 + 1] if call.attr("onesided", 1) else made)


OPERATORS: dict[str, Callable[..., Any]] = {"DFT": dft, "STFT": stft}
