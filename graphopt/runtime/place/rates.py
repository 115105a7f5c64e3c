"""Rates of time by class of operation, from which partitions are predicted: measured, none is derived.

Nanoseconds of one of each of `work.FEATURES`, on kernels and in onnxruntime. `python -m tests.bench.placement FILE …
--rows ROWS --fit` prints such a table; these come from 373 quantized files of 26 architectures, each by onnxruntime's
quantizers and by ours, on an AMD EPYC with AVX-512 VNNI, onnxruntime 1.32, one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rates = Mapping[str, tuple[float, float, float, float, float]]

OTHER = "other"
"""The class of operations that have none of their own: about what small operations cost."""

SEGMENT, SESSION = 20e3, 8e3
"""Nanoseconds of a further segment in onnxruntime (its call, and fusion that ends at its borders), and of a session
that runs parts; the last lines of the same command."""


@dataclass(frozen=True, slots=True)
class LevelRates:
    """The rates of one instruction set."""

    kernels: Rates
    onnxruntime: Rates


_VNNI = LevelRates(
    {
        "ActivationMatMul": (1.8e03, 0.218, 0.0845, 0.2, 0.00339),
        "AveragePool": (369, 0.15, 0.294, 0.2, 0.006),
        "Binary": (703, 0.15, 0.122, 0.2, 0.006),
        "ChannelTable": (14, 0.15, 0.441, 0.2, 0.006),
        "Concat": (486, 0.15, 0.26, 0.2, 0.006),
        "Conv": (370, 0.129, 0.303, 0.0837, 0.00217),
        "Conv depthwise": (906, 0.0526, 0.006, 0.2, 0.0127),
        "Conv groups": (532, 0.101, 0.251, 0.2, 0.006),
        "Conv pointwise": (14, 0.141, 0.006, 0.2, 0.00522),
        "Dequantize": (1.02e03, 0.15, 0.163, 0.2, 0.006),
        "DynamicConv": (950, 0.281, 0.523, 0.3, 0.00012),
        "DynamicConv depthwise": (498, 0.233, 0.204, 0.2, 0.246),
        "DynamicConv groups": (620, 0.116, 0.266, 0.2, 0.006),
        "DynamicConv pointwise": (642, 0.396, 0.714, 0.2, 0.00402),
        "DynamicMatMul": (2.03e03, 0.28, 0.283, 0.2, 0.00377),
        "FloatBinary": (1.15e03, 0.15, 0.0124, 0.2, 0.006),
        "FloatClamp": (14, 0.15, 0.347, 0.2, 0.006),
        "FloatMatMul": (863, 0.244, 0.16, 0.2, 0.0829),
        "FloatPool": (1.3e03, 0.15, 0.263, 0.2, 0.006),
        "FloatSoftmax": (845, 0.15, 0.237, 0.2, 0.006),
        "FloatTable": (713, 0.15, 0.418, 0.2, 0.006),
        "Gelu": (14, 0.15, 0.621, 0.2, 0.006),
        "LayerNorm": (14, 0.15, 0.503, 0.2, 0.006),
        "MatMul": (14, 0.0513, 0.006, 0.2, 0.00484),
        "MatMul float": (1.12e03, 0.104, 0.0911, 0.2, 0.00438),
        "MaxPool": (494, 0.15, 0.135, 0.2, 0.006),
        "Quantize": (602, 0.15, 0.0361, 0.2, 0.006),
        "Reshape": (146, 0.15, 0.006, 0.2, 0.006),
        "Resize": (560, 0.15, 0.122, 0.2, 0.006),
        "Softmax": (1.23e03, 0.15, 0.442, 0.2, 0.006),
        "Table": (14, 0.15, 0.006, 0.2, 0.006),
        "Transpose": (459, 0.15, 0.0851, 0.2, 0.006),
        "border": (7.48e03, 0.21, 0.183, 0.2, 0.006),
        "other": (700, 0.15, 0.3, 0.2, 0.006),
    },
    {
        "ActivationMatMul": (3.37e03, 0.319, 0.01, 0.3, 0.00656),
        "AveragePool": (1.27e03, 0.2, 0.527, 0.3, 0.01),
        "Binary": (1.35e03, 0.2, 0.0887, 0.3, 0.01),
        "ChannelTable": (2.19e03, 0.2, 1.08, 0.3, 0.01),
        "Concat": (1.22e03, 0.2, 0.285, 0.3, 0.01),
        "Conv": (1.82e03, 0.343, 0.571, 0.017, 0.00256),
        "Conv depthwise": (1.84e03, 0.15, 0.378, 0.3, 0.006),
        "Conv groups": (1.22e03, 0.195, 0.492, 0.3, 0.104),
        "Conv pointwise": (1.51e03, 0.121, 0.282, 0.3, 0.00255),
        "Dequantize": (1.39e03, 0.2, 0.0295, 0.3, 0.01),
        "DynamicConv": (2.08e03, 0.332, 1.5, 1.16, 0.0425),
        "DynamicConv depthwise": (3.3e03, 0.367, 0.887, 0.3, 1.48),
        "DynamicConv groups": (1.5e03, 0.199, 0.498, 0.3, 0.248),
        "DynamicConv pointwise": (3.37e03, 0.52, 2.2, 0.3, 0.0442),
        "DynamicMatMul MatMulInteger": (1.39e03, 0.0993, 0.208, 0.3, 0.00488),
        "FloatBinary": (1.21e03, 0.2, 0.106, 0.3, 0.01),
        "FloatClamp": (468, 0.2, 1.23, 0.3, 0.01),
        "FloatMatMul": (701, 0.35, 0.01, 0.3, 0.0694),
        "FloatPool": (1.21e03, 0.2, 0.495, 0.3, 0.01),
        "FloatSoftmax": (1.38e03, 0.2, 0.3, 0.3, 0.01),
        "FloatTable": (1.32e03, 0.2, 0.657, 0.3, 0.01),
        "Gelu": (1.22e03, 0.2, 0.929, 0.3, 0.01),
        "LayerNorm": (605, 0.2, 0.679, 0.3, 0.01),
        "MatMul Gemm": (615, 0.166, 0.745, 0.3, 0.00307),
        "MatMul MatMul": (699, 0.4, 0.0994, 0.3, 0.016),
        "MatMul float Gemm": (1.47e03, 0.189, 0.503, 0.3, 0.00956),
        "MatMul float MatMul": (1.23e03, 0.004, 0.231, 0.3, 0.005),
        "MaxPool": (1.3e03, 0.2, 0.496, 0.3, 0.01),
        "Quantize": (304, 0.2, 0.0846, 0.3, 0.01),
        "Reshape": (1.38e03, 0.2, 0.112, 0.3, 0.01),
        "Resize": (1.24e03, 0.2, 0.356, 0.3, 0.01),
        "Softmax": (3.58e03, 0.2, 1.14, 0.3, 0.01),
        "Table": (1.27e03, 0.2, 0.932, 0.3, 0.01),
        "Transpose": (575, 0.2, 0.651, 0.3, 0.01),
        "border": (5.06e03, 0.0933, 0.00618, 0.3, 0.01),
        "other": (1.3e03, 0.2, 0.5, 0.3, 0.01),
    },
)

RATES: Mapping[str, LevelRates] = {
    "avx512vnni": _VNNI, "avxvnni": _VNNI, "avx2": _VNNI, "portable": _VNNI,
}  # fmt: skip
"""The rates by level of the instruction set, `LEVELS`."""
