"""Rates of time by class of operation, from which partitions are predicted.

Nanoseconds of one of each of `work.FEATURES`, on kernels and in onnxruntime. `python -m tests.bench.placement FILE …
--rows ROWS --fit` prints such tables; these come from 367 quantized files of 25 architectures, each by onnxruntime's
quantizers and by ours, on an AMD EPYC with AVX-512 VNNI, onnxruntime 1.32, one thread. The kernels of the lower levels
were measured there, too, with GRAPHOPT_ISA, in 208 and 50 of the files; onnxruntime always takes what the CPU has, so
that its rates there are derived: see WITHOUT_VNNI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rates = Mapping[str, tuple[float, float, float, float, float]]

OTHER = "other"
"""The class of operations that have none of their own: about what small operations cost."""

SEGMENT, SESSION = 20e3, 8e3
"""Nanoseconds of a further segment in onnxruntime (its call, and fusion that ends at its borders), and of a session
that runs parts: from the rows, sessions beside the sums of their regions."""

WITHOUT_VNNI = 2.3
"""How much longer a multiply-accumulate of integers takes without AVX-512 VNNI: what our own kernels lose with AVX2
(DynamicMatMul), taken for onnxruntime's. Its kernels may lose more: then these rates leave too much to it."""


@dataclass(frozen=True, slots=True)
class LevelRates:
    """The rates of one instruction set."""

    kernels: Rates
    onnxruntime: Rates


def _without_vnni(rates: Rates) -> Rates:
    """onnxruntime's rates on a CPU whose products of integers are slower."""
    return {
        kind: (*row[:4], row[4] * (1.0 if kind.startswith("Float") else WITHOUT_VNNI)) for kind, row in rates.items()
    }


_ONNXRUNTIME: Rates = {
    "ActivationMatMul": (3.2e03, 0.291, 0.01, 0.3, 0.00956),
    "AveragePool": (1.26e03, 0.2, 0.527, 0.3, 0.01),
    "Binary": (1.39e03, 0.2, 0.181, 0.3, 0.01),
    "ChannelTable": (2.25e03, 0.2, 1.13, 0.3, 0.01),
    "Concat": (1.39e03, 0.2, 0.277, 0.3, 0.01),
    "Conv": (2.25e03, 0.388, 0.148, 0.0166, 0.00535),
    "Conv depthwise": (1.86e03, 0.0834, 0.2, 0.3, 0.006),
    "Conv groups": (1.32e03, 0.222, 0.534, 0.41, 0.0119),
    "Conv pointwise": (1.21e03, 0.133, 0.592, 0.3, 0.00122),
    "Dequantize": (1.32e03, 0.2, 0.165, 0.3, 0.01),
    "DynamicConv": (2.44e03, 0.348, 1.86, 1.05, 0.06),
    "DynamicConv depthwise": (3.3e03, 0.371, 0.887, 0.3, 1.47),
    "DynamicConv groups": (1.85e03, 0.282, 0.628, 0.714, 0.0174),
    "DynamicConv pointwise": (3.39e03, 0.505, 2.39, 0.3, 0.0481),
    "DynamicMatMul MatMulInteger": (1.41e03, 0.0976, 0.174, 0.3, 0.00489),
    "FloatBinary": (1.21e03, 0.2, 0.0764, 0.3, 0.01),
    "FloatClamp": (426, 0.2, 1.31, 0.3, 0.01),
    "FloatMatMul": (585, 0.351, 0.01, 0.3, 0.107),
    "FloatPool": (1.08e03, 0.2, 0.525, 0.3, 0.01),
    "FloatSoftmax": (1.31e03, 0.2, 0.293, 0.3, 0.01),
    "FloatTable": (1.36e03, 0.2, 0.971, 0.3, 0.01),
    "Gelu": (1.48e03, 0.2, 0.99, 0.3, 0.01),
    "LayerNorm": (588, 0.2, 0.556, 0.3, 0.01),
    "MatMul Gemm": (674, 0.161, 0.713, 0.3, 0.00271),
    "MatMul MatMul": (646, 0.395, 0.01, 0.3, 0.015),
    "MatMul float Gemm": (1.5e03, 0.191, 0.505, 0.3, 0.00993),
    "MatMul float MatMul": (1.24e03, 0.004, 0.215, 0.3, 0.00499),
    "MaxPool": (1.28e03, 0.2, 0.367, 0.3, 0.01),
    "Quantize": (290, 0.2, 0.0797, 0.3, 0.01),
    "Reshape": (1.36e03, 0.2, 0.151, 0.3, 0.01),
    "Resize": (1.36e03, 0.2, 0.497, 0.3, 0.01),
    "Softmax": (3.49e03, 0.2, 1.42, 0.3, 0.01),
    "Table": (1.31e03, 0.2, 0.929, 0.3, 0.01),
    "Transpose": (637, 0.2, 0.563, 0.3, 0.01),
    "border": (5.08e03, 0.107, 0.046, 0.3, 0.01),
    "other": (1.3e03, 0.2, 0.5, 0.3, 0.01),
}
"""onnxruntime's, with AVX-512 VNNI; all tables here: `python -m tests.bench.placement FILE … --rows ROWS --fit`."""

_VNNI: Rates = {
    "ActivationMatMul": (1.72e03, 0.2, 0.0602, 0.2, 0.00432),
    "AveragePool": (334, 0.15, 0.295, 0.2, 0.006),
    "Binary": (799, 0.15, 0.0751, 0.2, 0.006),
    "ChannelTable": (19.9, 0.15, 0.395, 0.2, 0.006),
    "Concat": (762, 0.15, 0.247, 0.2, 0.006),
    "Conv": (283, 0.185, 0.342, 0.0761, 0.0037),
    "Conv depthwise": (887, 0.0828, 0.0135, 0.2, 0.0119),
    "Conv groups": (493, 0.105, 0.255, 0.0182, 0.00338),
    "Conv pointwise": (14, 0.107, 0.006, 0.2, 0.00469),
    "Dequantize": (924, 0.15, 0.194, 0.2, 0.006),
    "DynamicConv": (903, 0.327, 0.563, 0.24, 0.00654),
    "DynamicConv depthwise": (472, 0.24, 0.19, 0.2, 0.236),
    "DynamicConv groups": (535, 0.0906, 0.241, 0.004, 0.00258),
    "DynamicConv pointwise": (588, 0.482, 0.679, 0.2, 0.00542),
    "DynamicMatMul": (2.07e03, 0.274, 0.241, 0.2, 0.00379),
    "FloatBinary": (1.12e03, 0.15, 0.006, 0.2, 0.006),
    "FloatClamp": (14, 0.15, 0.307, 0.2, 0.006),
    "FloatMatMul": (806, 0.227, 0.229, 0.2, 0.082),
    "FloatPool": (1.32e03, 0.15, 0.299, 0.2, 0.006),
    "FloatSoftmax": (759, 0.15, 0.201, 0.2, 0.006),
    "FloatTable": (734, 0.15, 0.605, 0.2, 0.006),
    "Gelu": (14, 0.15, 0.689, 0.2, 0.006),
    "LayerNorm": (14, 0.15, 0.436, 0.2, 0.006),
    "MatMul": (14, 0.056, 0.006, 0.2, 0.00494),
    "MatMul float": (1.12e03, 0.0957, 0.0628, 0.2, 0.00439),
    "MaxPool": (465, 0.15, 0.006, 0.2, 0.006),
    "Quantize": (560, 0.15, 0.0699, 0.2, 0.006),
    "Reshape": (149, 0.15, 0.006, 0.2, 0.006),
    "Resize": (620, 0.15, 0.0142, 0.2, 0.006),
    "Softmax": (1.21e03, 0.15, 0.495, 0.2, 0.006),
    "Table": (14, 0.15, 0.006, 0.2, 0.006),
    "Transpose": (474, 0.15, 0.108, 0.2, 0.006),
    "border": (7.56e03, 0.214, 0.218, 0.2, 0.006),
    "other": (700, 0.15, 0.3, 0.2, 0.006),
}
"""The kernels', with AVX-512 VNNI."""

_AVX2: Rates = {
    "ActivationMatMul": (957, 0.144, 0.467, 0.2, 0.00705),
    "AveragePool": (545, 0.15, 0.297, 0.2, 0.006),
    "Binary": (477, 0.15, 0.0713, 0.2, 0.006),
    "ChannelTable": (14, 0.15, 0.547, 0.2, 0.006),
    "Concat": (501, 0.15, 0.226, 0.2, 0.006),
    "Conv": (790, 0.213, 0.632, 0.0837, 0.00227),
    "Conv depthwise": (636, 0.0987, 0.191, 0.2, 0.0284),
    "Conv groups": (584, 0.102, 0.252, 0.00838, 0.00324),
    "Conv pointwise": (14, 0.152, 0.0927, 0.2, 0.0122),
    "Dequantize": (1.21e03, 0.15, 0.006, 0.2, 0.006),
    "DynamicConv": (868, 0.284, 0.468, 0.3, 0.00676),
    "DynamicConv depthwise": (335, 0.181, 0.262, 0.2, 0.263),
    "DynamicConv groups": (690, 0.14, 0.29, 0.159, 0.00541),
    "DynamicConv pointwise": (1.24e03, 0.318, 0.681, 0.2, 0.013),
    "DynamicMatMul": (1.58e03, 0.28, 0.301, 0.2, 0.00885),
    "FloatBinary": (846, 0.15, 0.0965, 0.2, 0.006),
    "FloatClamp": (14, 0.15, 0.107, 0.2, 0.006),
    "FloatMatMul": (558, 0.166, 0.311, 0.2, 0.0761),
    "FloatPool": (1.11e03, 0.15, 0.303, 0.2, 0.006),
    "FloatSoftmax": (975, 0.15, 0.286, 0.2, 0.006),
    "FloatTable": (715, 0.15, 0.434, 0.2, 0.006),
    "Gelu": (202, 0.15, 0.848, 0.2, 0.006),
    "LayerNorm": (14, 0.15, 0.773, 0.2, 0.006),
    "MatMul": (14, 0.0752, 0.006, 0.2, 0.011),
    "MatMul float": (683, 0.12, 0.0565, 0.2, 0.00916),
    "MaxPool": (657, 0.15, 0.337, 0.2, 0.006),
    "Quantize": (712, 0.15, 0.0645, 0.2, 0.006),
    "Reshape": (291, 0.15, 0.0105, 0.2, 0.006),
    "Resize": (616, 0.15, 0.108, 0.2, 0.006),
    "Softmax": (842, 0.15, 0.499, 0.2, 0.006),
    "Table": (14, 0.15, 0.0417, 0.2, 0.006),
    "Transpose": (410, 0.15, 0.167, 0.2, 0.006),
    "border": (8.3e03, 0.211, 0.251, 0.2, 0.006),
    "other": (700, 0.15, 0.3, 0.2, 0.006),
}
"""The kernels', with GRAPHOPT_ISA at AVX2."""

_PORTABLE: Rates = {
    "AveragePool": (654, 0.15, 0.299, 0.2, 0.006),
    "Binary": (546, 0.15, 0.006, 0.2, 0.006),
    "Concat": (662, 0.15, 0.227, 0.2, 0.006),
    "Conv": (928, 0.197, 0.419, 0.063, 0.006),
    "Conv depthwise": (719, 0.131, 0.266, 0.2, 0.0951),
    "Conv groups": (710, 0.163, 0.313, 0.25, 0.00672),
    "Conv pointwise": (612, 0.189, 0.429, 0.2, 0.0101),
    "Dequantize": (1.23e03, 0.15, 0.128, 0.2, 0.006),
    "DynamicConv": (521, 0.205, 0.635, 0.501, 0.0177),
    "DynamicConv depthwise": (442, 0.157, 0.321, 0.2, 0.266),
    "DynamicConv groups": (736, 0.18, 0.33, 0.318, 0.0077),
    "DynamicConv pointwise": (1.17e03, 0.261, 0.739, 0.2, 0.0165),
    "DynamicMatMul": (1.14e03, 0.203, 0.62, 0.2, 0.0365),
    "FloatBinary": (669, 0.15, 0.62, 0.2, 0.006),
    "FloatClamp": (464, 0.15, 0.312, 0.2, 0.006),
    "FloatMatMul": (678, 0.142, 0.263, 0.2, 0.044),
    "FloatPool": (1.07e03, 0.15, 0.328, 0.2, 0.006),
    "FloatSoftmax": (929, 0.15, 0.286, 0.2, 0.006),
    "FloatTable": (705, 0.15, 0.347, 0.2, 0.006),
    "Gelu": (574, 0.15, 0.387, 0.2, 0.006),
    "LayerNorm": (135, 0.15, 0.359, 0.2, 0.006),
    "MatMul": (223, 0.148, 0.258, 0.2, 0.00565),
    "MatMul float": (314, 0.159, 0.365, 0.2, 0.0374),
    "MaxPool": (665, 0.15, 0.304, 0.2, 0.006),
    "Quantize": (192, 0.15, 0.376, 0.2, 0.006),
    "Reshape": (243, 0.15, 0.288, 0.2, 0.006),
    "Resize": (647, 0.15, 0.227, 0.2, 0.006),
    "Table": (425, 0.15, 0.145, 0.2, 0.006),
    "Transpose": (553, 0.15, 0.265, 0.2, 0.006),
    "border": (9.14e03, 0.241, 0.25, 0.2, 0.006),
    "other": (700, 0.15, 0.3, 0.2, 0.006),
}
"""The kernels', with GRAPHOPT_ISA=portable."""

_ALONE: Rates = {
    "Expand": (200, 0.15, 0.1, 0.2, 0.006),
    "FloatFunction": (200, 0.15, 0.42, 0.2, 0.006),
    "FloatMean": (300, 0.15, 0.1, 0.2, 0.006),
    "InstanceNorm": (400, 0.15, 0.18, 0.2, 0.006),
    "Pad": (400, 0.15, 0.15, 0.2, 0.006),
    "Slice": (200, 0.15, 0.1, 0.2, 0.006),
}
"""The kernels' of operations that no row has yet, timed alone, `python -m tests.bench.glue`; alike on all levels."""

_ALONE_ONNXRUNTIME: Rates = {
    "Expand": (1.3e03, 0.2, 0.094, 0.3, 0.01),
    "FloatFunction": (1.3e03, 0.2, 0.3, 0.3, 0.01),
    "FloatMean": (1.3e03, 0.2, 0.1, 0.3, 0.01),
    "InstanceNorm": (1.5e03, 0.2, 0.3, 0.3, 0.01),
    "Pad": (1.4e03, 0.2, 0.1, 0.3, 0.01),
    "Slice": (1.3e03, 0.2, 0.13, 0.3, 0.01),
}
"""onnxruntime's of the same: elements as timed alone, a call as those of small operations among others."""

RATES: Mapping[str, LevelRates] = {
    name: LevelRates({**_ALONE, **kernels}, {**_ALONE_ONNXRUNTIME, **stock})
    for name, kernels, stock in (
        ("avx512vnni", _VNNI, _ONNXRUNTIME),
        ("avxvnni", _AVX2, _without_vnni(_ONNXRUNTIME)),
        ("avx2", _AVX2, _without_vnni(_ONNXRUNTIME)),
        ("portable", _PORTABLE, _without_vnni(_ONNXRUNTIME)),
    )
}
"""The rates by level of the instruction set, `LEVELS`. Those of avxvnni, half as wide, are AVX2's on both sides."""
