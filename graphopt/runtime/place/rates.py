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

BETWEEN, CUT = 1.3, 1.17
"""How much longer kernels take between segments in onnxruntime than alone, as their rates were measured, and nodes in
such segments than in the whole: each takes the other's caches, and fusion ends at borders. From the same rows."""

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
    "Add": (745, 0.2, 0.216, 0.3, 0.01),
    "Add qdq": (1.26e03, 0.2, 0.252, 0.3, 0.01),
    "And": (26, 0.2, 0.442, 0.3, 0.01),
    "ArgMax": (873, 0.2, 0.499, 0.3, 0.01),
    "AveragePool": (1.29e03, 0.2, 0.5, 0.3, 0.01),
    "AveragePool qdq": (1.37e03, 0.2, 0.504, 0.3, 0.01),
    "Cast": (217, 0.2, 1.51, 0.3, 0.01),
    "Ceil": (1.17e03, 0.2, 0.497, 0.3, 0.01),
    "Clip": (918, 0.2, 0.0847, 0.3, 0.01),
    "Concat": (26, 0.2, 0.356, 0.3, 0.01),
    "Concat qdq": (1.1e03, 0.2, 0.271, 0.3, 0.01),
    "ConstantOfShape": (814, 0.2, 0.623, 0.3, 0.01),
    "Conv": (989, 0.379, 0.0773, 0.073, 0.0159),
    "Conv depthwise": (1.8e03, 0.0806, 0.22, 0.3, 0.006),
    "Conv groups": (1.26e03, 0.211, 0.514, 0.338, 0.0164),
    "Conv pointwise": (459, 0.128, 0.01, 0.3, 0.0237),
    "Conv qdq": (2.51e03, 0.362, 0.0138, 0.112, 0.00343),
    "Conv qdq depthwise": (1.45e03, 0.118, 0.136, 0.3, 0.006),
    "Conv qdq groups": (1.24e03, 0.224, 0.521, 0.307, 0.0032),
    "Conv qdq pointwise": (1.12e03, 0.0301, 0.603, 0.3, 0.00221),
    "ConvInteger": (579, 0.34, 0.817, 0.977, 0.0518),
    "ConvInteger depthwise": (3.24e03, 0.288, 0.803, 0.3, 1.29),
    "ConvInteger groups": (1.87e03, 0.267, 0.627, 0.789, 0.0231),
    "ConvInteger pointwise": (635, 0.287, 0.785, 0.3, 0.0453),
    "ConvTranspose": (1.33e03, 0.207, 0.593, 0.568, 0.023),
    "Cos": (693, 0.2, 0.499, 0.3, 0.01),
    "CumSum": (1.49e03, 0.2, 0.501, 0.3, 0.01),
    "DepthToSpace": (1.33e03, 0.2, 0.872, 0.3, 0.01),
    "DequantizeLinear": (371, 0.2, 0.382, 0.3, 0.01),
    "Div": (273, 0.2, 0.284, 0.3, 0.01),
    "DynamicQuantizeLinear": (158, 0.2, 0.148, 0.3, 0.01),
    "Elu": (1.38e03, 0.2, 0.668, 0.3, 0.01),
    "Equal": (1.83e03, 0.2, 0.51, 0.3, 0.01),
    "Erf": (166, 0.2, 0.141, 0.3, 0.01),
    "Exp": (1.15e03, 0.2, 0.748, 0.3, 0.01),
    "Expand": (538, 0.2, 1.54, 0.3, 0.01),
    "Flatten": (230, 0.2, 0.01, 0.3, 0.01),
    "Flatten qdq": (1.41e03, 0.2, 0.503, 0.3, 0.01),
    "GRU": (2.05e03, 0.204, 0.533, 0.3, 0.05),
    "Gather": (83.3, 0.2, 1.25, 0.3, 0.01),
    "Gather qdq": (1.39e03, 0.2, 0.741, 0.3, 0.01),
    "GatherElements": (508, 0.2, 0.42, 0.3, 0.01),
    "GatherND": (1.7e03, 0.2, 1.1, 0.3, 0.01),
    "Gemm": (95.3, 0.19, 0.01, 0.3, 0.0304),
    "Gemm float": (1.1e03, 0.0779, 0.419, 0.3, 0.00401),
    "Gemm qdq": (899, 0.162, 0.308, 0.3, 0.00589),
    "GlobalAveragePool": (1.2e03, 0.2, 0.504, 0.3, 0.01),
    "GlobalAveragePool qdq": (1.17e03, 0.2, 0.496, 0.3, 0.01),
    "Greater": (1.11e03, 0.2, 0.506, 0.3, 0.01),
    "GreaterOrEqual": (906, 0.2, 0.499, 0.3, 0.01),
    "Identity": (810, 0.2, 0.01, 0.3, 0.01),
    "InstanceNormalization": (1.39e03, 0.2, 0.492, 0.3, 0.01),
    "IsNaN": (26, 0.2, 0.317, 0.3, 0.01),
    "LSTM": (1.69e03, 0.202, 0.517, 0.3, 0.0569),
    "LayerNormalization": (402, 0.2, 0.791, 0.3, 0.01),
    "LeakyRelu": (1.33e03, 0.2, 0.583, 0.3, 0.01),
    "LeakyRelu qdq": (1.31e03, 0.2, 0.51, 0.3, 0.01),
    "Less": (1.37e03, 0.2, 0.501, 0.3, 0.01),
    "LessOrEqual": (398, 0.2, 0.48, 0.3, 0.01),
    "Log": (1.27e03, 0.2, 0.499, 0.3, 0.01),
    "LogSoftmax": (1.38e03, 0.2, 0.503, 0.3, 0.01),
    "MatMul": (26, 0.173, 0.311, 0.3, 0.0169),
    "MatMul float": (1.02e03, 0.004, 0.192, 0.3, 0.00543),
    "MatMul of two": (398, 0.33, 0.425, 0.3, 0.0012),
    "MatMul qdq": (896, 0.264, 0.74, 0.3, 0.00521),
    "MatMul qdq of two": (1.48e03, 0.155, 0.671, 0.3, 0.0102),
    "MatMulInteger": (1.45e03, 0.004, 0.165, 0.3, 0.00528),
    "Max": (971, 0.2, 0.499, 0.3, 0.01),
    "MaxPool": (1.06e03, 0.2, 0.437, 0.3, 0.01),
    "MaxPool qdq": (1.3e03, 0.2, 0.433, 0.3, 0.01),
    "Min": (1.41e03, 0.2, 0.502, 0.3, 0.01),
    "Mod": (1.35e03, 0.2, 0.5, 0.3, 0.01),
    "Mul": (810, 0.2, 0.198, 0.3, 0.01),
    "Mul qdq": (833, 0.2, 0.167, 0.3, 0.01),
    "Neg": (26, 0.2, 0.573, 0.3, 0.01),
    "Not": (1.37e03, 0.2, 0.5, 0.3, 0.01),
    "PRelu": (1.33e03, 0.2, 0.872, 0.3, 0.01),
    "Pad": (1.51e03, 0.2, 0.641, 0.3, 0.01),
    "Pow": (26, 0.2, 0.634, 0.3, 0.01),
    "QuantizeLinear": (729, 0.2, 0.248, 0.3, 0.01),
    "Range": (26, 0.2, 0.496, 0.3, 0.01),
    "Reciprocal": (638, 0.2, 0.497, 0.3, 0.01),
    "ReduceMean": (26, 0.2, 0.504, 0.3, 0.01),
    "Relu": (354, 0.2, 0.221, 0.3, 0.01),
    "Reshape": (26, 0.2, 0.0103, 0.3, 0.01),
    "Reshape qdq": (1.57e03, 0.2, 0.01, 0.3, 0.01),
    "Resize": (1.17e03, 0.2, 0.476, 0.3, 0.01),
    "Resize qdq": (1.34e03, 0.2, 0.597, 0.3, 0.01),
    "ScatterElements": (1.46e03, 0.2, 0.835, 0.3, 0.01),
    "Shape": (26, 0.2, 0.01, 0.3, 0.01),
    "Sigmoid": (26, 0.2, 0.531, 0.3, 0.01),
    "Sigmoid qdq": (1.45e03, 0.2, 0.309, 0.3, 0.01),
    "Sign": (1.17e03, 0.2, 0.497, 0.3, 0.01),
    "Sin": (693, 0.2, 0.499, 0.3, 0.01),
    "Slice": (1.19e03, 0.2, 0.794, 0.3, 0.01),
    "Slice qdq": (1.13e03, 0.2, 0.596, 0.3, 0.01),
    "Softmax": (2.05e03, 0.2, 0.446, 0.3, 0.01),
    "Softmax qdq": (1.35e03, 0.2, 0.703, 0.3, 0.01),
    "Softplus": (1.23e03, 0.2, 0.516, 0.3, 0.01),
    "SpaceToDepth": (1.05e03, 0.2, 0.01, 0.3, 0.01),
    "Split": (26, 0.2, 0.56, 0.3, 0.01),
    "Split qdq": (1.25e03, 0.2, 0.5, 0.3, 0.01),
    "Sqrt": (26, 0.2, 0.494, 0.3, 0.01),
    "Squeeze": (191, 0.2, 0.01, 0.3, 0.01),
    "Squeeze qdq": (1.3e03, 0.2, 0.511, 0.3, 0.01),
    "Sub": (863, 0.2, 0.497, 0.3, 0.01),
    "Tanh": (26, 0.2, 0.921, 0.3, 0.01),
    "Tile": (867, 0.2, 0.741, 0.3, 0.01),
    "Transpose": (2.04e03, 0.2, 0.587, 0.3, 0.01),
    "Transpose qdq": (237, 0.2, 0.104, 0.3, 0.01),
    "Unsqueeze": (454, 0.2, 0.01, 0.3, 0.01),
    "Unsqueeze qdq": (510, 0.2, 0.243, 0.3, 0.01),
    "Where": (26, 0.2, 0.273, 0.3, 0.01),
    "ai.onnx.ml::ArrayFeatureExtractor": (872, 0.2, 0.499, 0.3, 0.01),
    "ai.onnx.ml::LinearClassifier": (1.12e03, 0.2, 0.5, 0.3, 0.01),
    "ai.onnx.ml::Scaler": (697, 0.2, 0.479, 0.3, 0.01),
    "ai.onnx.ml::TreeEnsembleClassifier": (2.01e03, 0.2, 0.501, 0.3, 0.01),
    "border": (5.27e03, 0.002, 0.002, 0.3, 0.01),
    "com.microsoft::DynamicQuantizeLSTM": (1.83e03, 0.203, 0.524, 0.3, 0.0106),
    "other": (1.3e03, 0.2, 0.5, 0.3, 0.01),
    "whole": (5.46e03, 0.1, 0.1, 0.3, 0.01),
}
"""onnxruntime's, with AVX-512 VNNI; all tables here: `python -m tests.bench.placement FILE … --rows ROWS --fit`."""

_VNNI: Rates = {
    "ActivationMatMul": (633, 0.0826, 0.3, 0.2, 0.00519),
    "AveragePool": (32.5, 0.15, 0.279, 0.2, 0.006),
    "Binary": (112, 0.15, 0.006, 0.2, 0.006),
    "ChannelTable": (562, 0.15, 0.54, 0.2, 0.006),
    "Concat": (1.19e03, 0.15, 0.342, 0.2, 0.006),
    "Conv": (922, 0.0924, 0.198, 0.124, 0.00278),
    "Conv depthwise": (1.1e03, 0.0601, 0.0791, 0.2, 0.006),
    "Conv groups": (659, 0.114, 0.265, 0.0659, 0.00385),
    "Conv pointwise": (14, 0.157, 0.006, 0.2, 0.0053),
    "Dequantize": (128, 0.15, 0.296, 0.2, 0.006),
    "DynamicConv": (732, 0.438, 0.464, 0.212, 0.00485),
    "DynamicConv depthwise": (520, 0.184, 0.183, 0.2, 0.197),
    "DynamicConv groups": (760, 0.108, 0.267, 0.109, 0.00418),
    "DynamicConv pointwise": (519, 0.466, 0.519, 0.2, 0.00579),
    "DynamicMatMul": (1.98e03, 0.263, 0.105, 0.2, 0.00398),
    "FloatBinary": (844, 0.15, 0.006, 0.2, 0.006),
    "FloatClamp": (14, 0.15, 0.006, 0.2, 0.006),
    "FloatMatMul": (532, 0.258, 0.369, 0.2, 0.0545),
    "FloatPool": (1.38e03, 0.15, 0.365, 0.2, 0.006),
    "FloatSoftmax": (737, 0.15, 0.541, 0.2, 0.006),
    "FloatTable": (728, 0.15, 0.55, 0.2, 0.006),
    "Gelu": (75.7, 0.15, 0.947, 0.2, 0.006),
    "LayerNorm": (227, 0.15, 0.605, 0.2, 0.006),
    "MatMul": (14, 0.161, 0.0192, 0.2, 0.00478),
    "MatMul float": (973, 0.119, 0.006, 0.2, 0.0045),
    "MaxPool": (601, 0.15, 0.16, 0.2, 0.006),
    "Quantize": (418, 0.15, 0.0358, 0.2, 0.006),
    "Reshape": (787, 0.15, 0.0148, 0.2, 0.006),
    "Softmax": (473, 0.15, 0.288, 0.2, 0.006),
    "Table": (59.7, 0.15, 0.006, 0.2, 0.006),
    "Transpose": (14, 0.15, 0.0219, 0.2, 0.006),
    "border": (7.82e03, 0.247, 0.321, 0.2, 0.006),
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

RATES: Mapping[str, LevelRates] = {
    "avx512vnni": LevelRates(_VNNI, _ONNXRUNTIME),
    "avxvnni": LevelRates(_AVX2, _without_vnni(_ONNXRUNTIME)),
    "avx2": LevelRates(_AVX2, _without_vnni(_ONNXRUNTIME)),
    "portable": LevelRates(_PORTABLE, _without_vnni(_ONNXRUNTIME)),
}
"""The rates by level of the instruction set, `LEVELS`. Those of avxvnni, half as wide, are AVX2's on both sides."""
