"""Rates of time by class of operation, from which partitions are predicted.

Nanoseconds of one of each of `work.FEATURES`, on kernels by class of operation and in onnxruntime by class of node.
`python -m tests.bench.placement FILE … --rows ROWS --fit` prints such tables; these come from 546 quantized files of 46
architectures and sizes, each by onnxruntime's quantizers and by ours, their regions and the whole, on an AMD EPYC with
AVX-512 VNNI, onnxruntime 1.32, one thread. The kernels of the lower levels were measured there, too, with GRAPHOPT_ISA,
in 208 and 50 of the files; onnxruntime always takes what the CPU has, so that its rates there are derived: see
WITHOUT_VNNI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rates = Mapping[str, tuple[float, float, float, float, float]]

OTHER = "other"
"""The class of operations that have none of their own: about what small operations cost."""

WHOLE = "whole"
"""The class of the call of a whole model in onnxruntime."""

SEGMENT, SESSION = 20e3, 8e3
"""Nanoseconds of a segment in onnxruntime (its call, and what is copied), and of a session that runs parts: from the
rows, sessions beside the sums of their parts."""

BETWEEN, CUT = 1.3, 1.3
"""How much longer kernels take between segments in onnxruntime than alone, as their rates were measured, and nodes in
such segments than in the whole: each takes the other's caches, and fusion ends at borders. From the same rows: 1.3 for
kernels; 1.17 in the median for the rest, and 1.5 in QDQ files, where a pair that is cut is no longer fused."""

WITHOUT_VNNI = 2.3
"""How much longer a multiply-accumulate of integers takes without AVX-512 VNNI: what our own kernels lose with AVX2
(DynamicMatMul), taken for onnxruntime's. Its kernels may lose more: then these rates leave too much to it."""


@dataclass(frozen=True, slots=True)
class LevelRates:
    """The rates of one instruction set."""

    kernels: Rates
    onnxruntime: Rates


_INTEGER = ("qdq", "float", "Integer", "DynamicQuantize")
"""What names classes of onnxruntime's that multiply integers."""


def _without_vnni(rates: Rates) -> Rates:
    """onnxruntime's rates on a CPU whose products of integers are slower."""
    return {
        kind: (*row[:4], row[4] * (WITHOUT_VNNI if any(word in kind for word in _INTEGER) else 1.0))
        for kind, row in rates.items()
    }


_ONNXRUNTIME: Rates = {
    "Abs": (1.27e03, 0.2, 0.499, 0.3, 0.01),
    "Add": (777, 0.2, 0.23, 0.3, 0.01),
    "Add qdq": (1.17e03, 0.2, 0.211, 0.3, 0.01),
    "And": (26, 0.2, 0.441, 0.3, 0.01),
    "ArgMax": (853, 0.2, 0.499, 0.3, 0.01),
    "AveragePool": (1.29e03, 0.2, 0.499, 0.3, 0.01),
    "AveragePool qdq": (1.37e03, 0.2, 0.504, 0.3, 0.01),
    "Cast": (130, 0.2, 1.5, 0.3, 0.01),
    "Ceil": (1.16e03, 0.2, 0.497, 0.3, 0.01),
    "Clip": (907, 0.2, 0.0804, 0.3, 0.01),
    "Concat": (26, 0.2, 0.322, 0.3, 0.01),
    "Concat qdq": (1.13e03, 0.2, 0.254, 0.3, 0.01),
    "ConstantOfShape": (793, 0.2, 0.622, 0.3, 0.01),
    "Conv": (973, 0.377, 0.118, 0.0708, 0.0159),
    "Conv depthwise": (1.72e03, 0.0794, 0.205, 0.3, 0.006),
    "Conv groups": (1.26e03, 0.21, 0.513, 0.337, 0.0176),
    "Conv pointwise": (451, 0.132, 0.01, 0.3, 0.0239),
    "Conv qdq": (2.59e03, 0.372, 0.0213, 0.111, 0.00346),
    "Conv qdq depthwise": (1.44e03, 0.122, 0.149, 0.3, 0.006),
    "Conv qdq groups": (1.25e03, 0.222, 0.522, 0.329, 0.00272),
    "Conv qdq pointwise": (1.12e03, 0.0377, 0.569, 0.3, 0.00264),
    "ConvInteger": (568, 0.342, 0.816, 0.974, 0.0518),
    "ConvInteger depthwise": (3.22e03, 0.291, 0.802, 0.3, 1.28),
    "ConvInteger groups": (1.87e03, 0.266, 0.63, 0.806, 0.0234),
    "ConvInteger pointwise": (611, 0.284, 0.774, 0.3, 0.0454),
    "ConvTranspose": (1.34e03, 0.207, 0.593, 0.568, 0.0229),
    "Cos": (670, 0.2, 0.499, 0.3, 0.01),
    "CumSum": (1.5e03, 0.2, 0.501, 0.3, 0.01),
    "DepthToSpace": (1.34e03, 0.2, 0.873, 0.3, 0.01),
    "DequantizeLinear": (325, 0.2, 0.373, 0.3, 0.01),
    "Div": (355, 0.2, 0.394, 0.3, 0.01),
    "DynamicQuantizeLinear": (321, 0.2, 0.144, 0.3, 0.01),
    "Elu": (1.36e03, 0.2, 0.666, 0.3, 0.01),
    "Equal": (1.84e03, 0.2, 0.51, 0.3, 0.01),
    "Erf": (2.11e03, 0.2, 1.02, 0.3, 0.01),
    "Exp": (1.13e03, 0.2, 0.742, 0.3, 0.01),
    "Expand": (418, 0.2, 1.52, 0.3, 0.01),
    "Flatten": (238, 0.2, 0.01, 0.3, 0.01),
    "Flatten qdq": (1.4e03, 0.2, 0.503, 0.3, 0.01),
    "GRU": (2.07e03, 0.204, 0.534, 0.3, 0.05),
    "Gather": (89.1, 0.2, 1.24, 0.3, 0.01),
    "Gather qdq": (1.42e03, 0.2, 0.743, 0.3, 0.01),
    "GatherElements": (491, 0.2, 0.417, 0.3, 0.01),
    "GatherND": (1.71e03, 0.2, 1.09, 0.3, 0.01),
    "Gelu": (1.37e03, 0.2, 0.914, 0.3, 0.01),
    "Gemm": (147, 0.191, 0.01, 0.3, 0.0324),
    "Gemm float": (1.11e03, 0.0896, 0.421, 0.3, 0.0041),
    "Gemm qdq": (963, 0.168, 0.327, 0.3, 0.00611),
    "GlobalAveragePool": (1.15e03, 0.2, 0.504, 0.3, 0.01),
    "GlobalAveragePool qdq": (1.17e03, 0.2, 0.496, 0.3, 0.01),
    "Greater": (1.09e03, 0.2, 0.506, 0.3, 0.01),
    "GreaterOrEqual": (907, 0.2, 0.499, 0.3, 0.01),
    "Identity": (803, 0.2, 0.01, 0.3, 0.01),
    "InstanceNormalization": (1.39e03, 0.2, 0.499, 0.3, 0.01),
    "IsNaN": (26, 0.2, 0.304, 0.3, 0.01),
    "LRN": (1.3e03, 0.2, 26, 0.3, 0.01),  # of one node of 5 channels, [1, 64, 56, 56] and [1, 192, 28, 28], alike
    "LSTM": (1.68e03, 0.202, 0.517, 0.3, 0.0568),
    "LayerNormalization": (522, 0.2, 0.849, 0.3, 0.01),
    "LeakyRelu": (1.33e03, 0.2, 0.583, 0.3, 0.01),
    "LeakyRelu qdq": (1.31e03, 0.2, 0.51, 0.3, 0.01),
    "Less": (1.38e03, 0.2, 0.502, 0.3, 0.01),
    "LessOrEqual": (370, 0.2, 0.48, 0.3, 0.01),
    "Log": (1.27e03, 0.2, 0.499, 0.3, 0.01),
    "LogSoftmax": (1.36e03, 0.2, 0.502, 0.3, 0.01),
    "MatMul": (26, 0.169, 0.277, 0.3, 0.017),
    "MatMul float": (1.02e03, 0.004, 0.19, 0.3, 0.00543),
    "MatMul of two": (370, 0.328, 0.415, 0.3, 0.0012),
    "MatMul qdq": (940, 0.252, 0.678, 0.3, 0.00519),
    "MatMul qdq of two": (1.44e03, 0.162, 0.67, 0.3, 0.0103),
    "MatMulInteger": (1.44e03, 0.004, 0.166, 0.3, 0.00527),
    "Max": (972, 0.2, 0.499, 0.3, 0.01),
    "MaxPool": (1.07e03, 0.2, 0.439, 0.3, 0.01),
    "MaxPool qdq": (1.31e03, 0.2, 0.436, 0.3, 0.01),
    "Min": (1.41e03, 0.2, 0.502, 0.3, 0.01),
    "Mod": (1.35e03, 0.2, 0.5, 0.3, 0.01),
    "Mul": (845, 0.2, 0.208, 0.3, 0.01),
    "Mul qdq": (875, 0.2, 0.164, 0.3, 0.01),
    "Neg": (26, 0.2, 0.569, 0.3, 0.01),
    "Not": (1.38e03, 0.2, 0.499, 0.3, 0.01),
    "PRelu": (1.34e03, 0.2, 0.873, 0.3, 0.01),
    "Pad": (1.49e03, 0.2, 0.633, 0.3, 0.01),
    "Pow": (26, 0.2, 0.616, 0.3, 0.01),
    "QuantizeLinear": (842, 0.2, 0.231, 0.3, 0.01),
    "Range": (26, 0.2, 0.496, 0.3, 0.01),
    "Reciprocal": (630, 0.2, 0.497, 0.3, 0.01),
    "ReduceMean": (26, 0.2, 0.503, 0.3, 0.01),
    "Relu": (226, 0.2, 0.202, 0.3, 0.01),
    "Reshape": (26, 0.2, 0.0103, 0.3, 0.01),
    "Reshape qdq": (1.47e03, 0.2, 0.01, 0.3, 0.01),
    "Resize": (1.16e03, 0.2, 0.467, 0.3, 0.01),
    "Resize qdq": (1.34e03, 0.2, 0.59, 0.3, 0.01),
    "ScatterElements": (1.42e03, 0.2, 0.833, 0.3, 0.01),
    "Shape": (26, 0.2, 0.01, 0.3, 0.01),
    "Sigmoid": (26, 0.2, 0.521, 0.3, 0.01),
    "Sigmoid qdq": (1.47e03, 0.2, 0.303, 0.3, 0.01),
    "Sign": (1.16e03, 0.2, 0.497, 0.3, 0.01),
    "Sin": (669, 0.2, 0.499, 0.3, 0.01),
    "Slice": (1.15e03, 0.2, 0.773, 0.3, 0.01),
    "Slice qdq": (1.15e03, 0.2, 0.579, 0.3, 0.01),
    "Softmax": (2.02e03, 0.2, 0.47, 0.3, 0.01),
    "Softmax qdq": (1.3e03, 0.2, 0.695, 0.3, 0.01),
    "Softplus": (1.21e03, 0.2, 0.515, 0.3, 0.01),
    "SpaceToDepth": (1.05e03, 0.2, 0.01, 0.3, 0.01),
    "Split": (26, 0.2, 0.547, 0.3, 0.01),
    "Split qdq": (1.25e03, 0.2, 0.498, 0.3, 0.01),
    "Sqrt": (26, 0.2, 0.493, 0.3, 0.01),
    "Squeeze": (172, 0.2, 0.01, 0.3, 0.01),
    "Squeeze qdq": (1.3e03, 0.2, 0.512, 0.3, 0.01),
    "Sub": (837, 0.2, 0.497, 0.3, 0.01),
    "Tanh": (26, 0.2, 0.91, 0.3, 0.01),
    "Tile": (848, 0.2, 0.731, 0.3, 0.01),
    "Transpose": (2.02e03, 0.2, 0.578, 0.3, 0.01),
    "Transpose qdq": (220, 0.2, 0.0982, 0.3, 0.01),
    "Unsqueeze": (420, 0.2, 0.01, 0.3, 0.01),
    "Unsqueeze qdq": (482, 0.2, 0.273, 0.3, 0.01),
    "Where": (26, 0.2, 0.257, 0.3, 0.01),
    "ai.onnx.ml::ArrayFeatureExtractor": (853, 0.2, 0.499, 0.3, 0.01),
    "ai.onnx.ml::LinearClassifier": (1.11e03, 0.2, 0.5, 0.3, 0.01),
    "ai.onnx.ml::Scaler": (663, 0.2, 0.477, 0.3, 0.01),
    "ai.onnx.ml::TreeEnsembleClassifier": (1.96e03, 0.2, 0.501, 0.3, 0.01),
    "border": (5.11e03, 0.002, 0.002, 0.3, 0.01),
    "com.microsoft::DynamicQuantizeLSTM": (1.83e03, 0.203, 0.524, 0.3, 0.0106),
    "other": (1.3e03, 0.2, 0.5, 0.3, 0.01),
    "whole": (5.52e03, 0.1, 0.1, 0.3, 0.01),
}
"""onnxruntime's, with AVX-512 VNNI; all tables here: `python -m tests.bench.placement FILE … --rows ROWS --fit`."""

_VNNI: Rates = {
    "ActivationMatMul": (611, 0.0786, 0.298, 0.2, 0.00517),
    "AveragePool": (14, 0.15, 0.278, 0.2, 0.006),
    "Binary": (92.4, 0.15, 0.006, 0.2, 0.006),
    "ChannelTable": (572, 0.15, 0.552, 0.2, 0.006),
    "Concat": (1.2e03, 0.15, 0.353, 0.2, 0.006),
    "Conv": (905, 0.0912, 0.197, 0.124, 0.00277),
    "Conv depthwise": (1.07e03, 0.062, 0.0835, 0.2, 0.006),
    "Conv groups": (661, 0.115, 0.266, 0.0671, 0.00388),
    "Conv pointwise": (14, 0.155, 0.006, 0.2, 0.00523),
    "Dequantize": (129, 0.15, 0.296, 0.2, 0.006),
    "DynamicConv": (723, 0.438, 0.462, 0.212, 0.00484),
    "DynamicConv depthwise": (524, 0.185, 0.19, 0.2, 0.198),
    "DynamicConv groups": (759, 0.107, 0.267, 0.11, 0.00417),
    "DynamicConv pointwise": (512, 0.465, 0.519, 0.2, 0.00579),
    "DynamicMatMul": (1.97e03, 0.265, 0.107, 0.2, 0.00398),
    "FloatBinary": (866, 0.15, 0.006, 0.2, 0.006),
    "FloatClamp": (14, 0.15, 0.006, 0.2, 0.006),
    "FloatMatMul": (517, 0.257, 0.368, 0.2, 0.0541),
    "FloatPool": (1.38e03, 0.15, 0.365, 0.2, 0.006),
    "FloatSoftmax": (759, 0.15, 0.548, 0.2, 0.006),
    "FloatTable": (728, 0.15, 0.551, 0.2, 0.006),
    "Gelu": (14, 0.15, 0.927, 0.2, 0.006),
    "LayerNorm": (251, 0.15, 0.624, 0.2, 0.006),
    "MatMul": (14, 0.169, 0.0295, 0.2, 0.00476),
    "MatMul float": (960, 0.122, 0.006, 0.2, 0.00449),
    "MaxPool": (601, 0.15, 0.16, 0.2, 0.006),
    "Quantize": (407, 0.15, 0.03, 0.2, 0.006),
    "Reshape": (781, 0.15, 0.0196, 0.2, 0.006),
    "Softmax": (471, 0.15, 0.288, 0.2, 0.006),
    "Table": (119, 0.15, 0.006, 0.2, 0.006),
    "Transpose": (14, 0.15, 0.0123, 0.2, 0.006),
    "border": (7.82e03, 0.247, 0.322, 0.2, 0.006),
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
