"""Weights into panels, in one pass: the order in which a register tile reads them, and the sum of each channel."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import i8_at, i32_at


def pack_panels(
    lo, hi, worker, w, y, sums, panels, group_stride, segment_stride, depth_stride, channel_stride, segments, depth,
    quads, channels,
):  # fmt: skip
    """y: [panel][segment][quad][width][4], zeros beyond the channels and the depth; sums: int32 of each channel.

    w: s8, its strides in bytes; panels: (group, first channel in it, channels, width, bytes from y), a tile is a panel.
    """
    for p in range(lo, hi):
        group, first, count, width = panels[5 * p], panels[5 * p + 1], panels[5 * p + 2], panels[5 * p + 3]
        base = w + group * group_stride + first * channel_stride
        target = y + panels[5 * p + 4]
        own = group * channels + first
        for c in range(count):
            sums[own + c] = 0
        for s in range(segments):
            line = base + s * segment_stride
            for q in range(quads):
                whole = 4 * q + 4 <= depth
                if depth_stride == 1 and whole:
                    words = i32_at(target)
                    for c in range(count):
                        word = i32_at(line + 4 * q + c * channel_stride)[0]
                        words[c] = word
                        total = np.int32(np.int8(word)) + np.int32(np.int8(word >> 8))
                        sums[own + c] += total + np.int32(np.int8(word >> 16)) + np.int32(np.int8(word >> 24))
                else:
                    bytes_ = i8_at(target)
                    for i in range(4):
                        if 4 * q + i >= depth:
                            break
                        row = line + (4 * q + i) * depth_stride
                        for c in range(count):
                            value = i8_at(row + c * channel_stride)[0]
                            bytes_[4 * c + i] = value
                            sums[own + c] += np.int32(value)
                target += 4 * width
