"""Rates, nanoseconds by class of operation, from which the times of partitions are predicted.

A rate is the nanoseconds of one unit of each of `work.FEATURES`, on kernels by class of operation and in onnxruntime by
class of node. `python -m tests.bench.placement FILE … --rows ROWS --fit` prints such tables; these come from 326
quantized files, by onnxruntime's quantizers and by ours, of the 25 architectures that were not held out and of
convolutional networks at 224 × 224, their regions and the whole, on an AMD EPYC with AVX-512 VNNI, onnxruntime 1.32,
one thread. The kernels of the lower levels were measured there, too, with GRAPHOPT_ISA, in 208 and 50 of the files;
onnxruntime always uses the CPU's level, so that its rates on CPUs without VNNI are derived: see WITHOUT_VNNI.

The rows of language models (AppendCache, CachedAttention, Rotary; Attention) are those of one token of SmolLM2-135M
with 4 bits, timed by `python -m tests.bench.decoders`.

Products with stored weights (BlockedMatMul by bits; MatMul stored and computed) come from `python -m
tests.bench.stored`, 56 chains of 1 to 128 rows in all three forms, times 0.6: MatMul of floats is faster by this factor
in the files above, which were timed on a quieter machine. Rates of 4 bits at lower levels are longer as one token of
SmolLM2-135M is there; those of 8 bits with AVX2 are to onnxruntime's, which has VNNI there, as the chains are.

Products of two float32 activations (FloatMatMul, MatMul of two) were timed alone, 4 to 12 matrices of 16 to 256 rows by
32 to 197 columns, as in attention: the fit to files with few tokens had given a tenth of the time of a
multiply-accumulate in onnxruntime, and twice its time on kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rates = Mapping[str, tuple[float, float, float, float, float]]

OTHER = "other"
"""The default class of operations: about the cost of small operations."""

WHOLE = "whole"
"""The class of a whole model's call in onnxruntime."""

SEGMENT, SESSION = 11e3, 8e3
"""Nanoseconds of a segment in onnxruntime (its call, and what is copied), and of a session that runs parts: from the
rows, sessions beside the sums of their parts."""
CROSSING = 3.5e3
"""Nanoseconds of each value that a region reads or leaves beyond the first of either: an array is made, bound and
handed over (`python -m tests.bench.crossings`)."""


@dataclass(frozen=True, slots=True)
class Cold:
    """The extra time of a part of a model between parts of the other runtime, compared with the part alone: `share` of
    its time, at most these nanoseconds. Each runtime evicts the other's data from the CPU's caches, which are refilled
    once a part, however long it runs; a short part mostly refills."""

    share: float
    most: float

    def after(self, seconds: float) -> float:
        """Extra seconds of a part that takes `seconds` alone."""
        return min(self.share * seconds, self.most * 1e-9)


BETWEEN, CUT = Cold(0.5, 150e3), Cold(0.6, 35e3)
"""The extra time of regions on kernels, and of segments in onnxruntime, whose fusion also ends at borders. From 321 of
the same files, sessions with all regions against the measured times of these: regions of more than 300 µs lose 4 to
6 % in the median, regions of 30 to 300 µs 20 to 34 %."""

ONCE = 0.5
"""The share of `BETWEEN` and `CUT` for a partition with one region, as caches change hands but twice a run. Eight
files that the full extra time had left whole in onnxruntime, with a predicted ratio of 0.89 to 1.02, ran 1.06 to 1.50
times as fast in parts; with half of it the predicted ratio is 1.06 to 1.18 (`python -m tests.bench.session_ratio`)."""


def cold_share(regions: int) -> float:
    """The share of `BETWEEN` and `CUT` for each part of a partition with this many regions."""
    return ONCE if regions == 1 else 1.0


WITHOUT_VNNI = 2.3
"""The factor by which an integer multiply-accumulate takes longer without AVX-512 VNNI: our own kernels' with AVX2
(DynamicMatMul), assumed for onnxruntime's. If these lose more, our rates leave too much to onnxruntime."""


@dataclass(frozen=True, slots=True)
class LevelRates:
    """The rates of one instruction set."""

    kernels: Rates
    onnxruntime: Rates


_INTEGER = ("qdq", "float", "Integer", "DynamicQuantize", "stored")
"""Substrings of the names of onnxruntime's classes that multiply integers."""


def _without_vnni(rates: Rates) -> Rates:
    """onnxruntime's rates on a CPU whose products of integers are slower."""
    return {
        kind: (*row[:4], row[4] * (WITHOUT_VNNI if any(word in kind for word in _INTEGER) else 1.0))
        for kind, row in rates.items()
    }


_ONNXRUNTIME: Rates = {
    "Abs": (1.31e03, 0.2, 0.5, 0.3, 0.01),
    "Add": (555, 0.2, 0.357, 0.3, 0.01),
    "Add qdq": (1.29e03, 0.2, 0.437, 0.3, 0.01),
    "And": (517, 0.2, 0.467, 0.3, 0.01),
    "ArgMax": (709, 0.2, 0.499, 0.3, 0.01),
    "AveragePool": (1.3e03, 0.2, 0.503, 0.3, 0.01),
    "AveragePool qdq": (1.31e03, 0.2, 0.514, 0.3, 0.01),
    "BatchNormalization": (1.29e03, 0.2, 0.248, 0.3, 0.01),
    "Cast": (719, 0.2, 1.74, 0.3, 0.01),
    "Ceil": (1.16e03, 0.2, 0.497, 0.3, 0.01),
    "Clip": (1.17e03, 0.2, 0.0741, 0.3, 0.01),
    "Concat": (26, 0.2, 0.0931, 0.3, 0.01),
    "Concat qdq": (1.41e03, 0.2, 0.294, 0.3, 0.01),
    "ConstantOfShape": (1.22e03, 0.2, 0.505, 0.3, 0.01),
    "Conv": (631, 0.303, 0.01, 0.006, 0.0152),
    "Conv depthwise": (1.25e03, 0.126, 0.29, 0.3, 0.006),
    "Conv groups": (1.3e03, 0.2, 0.499, 0.294, 0.00961),
    "Conv pointwise": (1.1e03, 0.167, 0.0823, 0.3, 0.0204),
    "Conv qdq": (2.52e03, 0.348, 0.574, 0.0544, 0.00316),
    "Conv qdq depthwise": (1.06e03, 0.193, 0.313, 0.3, 0.0128),
    "Conv qdq groups": (1.36e03, 0.267, 0.983, 0.181, 0.00709),
    "Conv qdq pointwise": (723, 0.004, 0.269, 0.3, 0.00353),
    "ConvInteger": (1.61e03, 0.393, 0.992, 0.71, 0.0507),
    "ConvInteger depthwise": (2.68e03, 0.28, 0.938, 0.3, 1.22),
    "ConvInteger groups": (1.37e03, 0.206, 0.539, 0.522, 0.0204),
    "ConvInteger pointwise": (1.16e03, 0.335, 0.793, 0.3, 0.0398),
    "ConvTranspose": (3e03, 0.02, 0.11, 0.3, 0.0207),
    "Cos": (846, 0.2, 0.498, 0.3, 0.01),
    "CumSum": (1.32e03, 0.2, 0.5, 0.3, 0.01),
    "DepthToSpace": (1.34e03, 0.2, 0.873, 0.3, 0.01),
    "DequantizeLinear": (208, 0.2, 0.376, 0.3, 0.01),
    "Div": (496, 0.2, 0.41, 0.3, 0.01),
    "DynamicQuantizeLinear": (150, 0.2, 0.126, 0.3, 0.01),
    "Elu": (1.36e03, 0.2, 0.666, 0.3, 0.01),
    "Equal": (1.33e03, 0.2, 0.5, 0.3, 0.01),
    "Erf": (1.53e03, 0.2, 0.831, 0.3, 0.01),
    "Exp": (1.19e03, 0.2, 0.848, 0.3, 0.01),
    "Expand": (1.28e03, 0.2, 0.688, 0.3, 0.01),
    "Flatten": (910, 0.2, 0.01, 0.3, 0.01),
    "Flatten qdq": (1.27e03, 0.2, 0.495, 0.3, 0.01),
    "GRU": (2.07e03, 0.204, 0.534, 0.3, 0.05),
    "Gather": (249, 0.2, 1.01, 0.3, 0.01),
    "Gather qdq": (1.56e03, 0.2, 0.643, 0.3, 0.01),
    "GatherElements": (1.14e03, 0.2, 0.5, 0.3, 0.01),
    "GatherND": (1.28e03, 0.2, 0.503, 0.3, 0.01),
    "Gelu": (795, 0.2, 0.98, 0.3, 0.01),
    "Gemm": (1.19e03, 0.199, 0.495, 0.3, 0.0536),
    "Gemm float": (1.07e03, 0.188, 0.501, 0.3, 0.00957),
    "Gemm qdq": (909, 0.192, 0.495, 0.3, 0.00918),
    "GlobalAveragePool": (1.26e03, 0.2, 0.498, 0.3, 0.01),
    "GlobalAveragePool qdq": (1.33e03, 0.2, 0.497, 0.3, 0.01),
    "Greater": (1.28e03, 0.2, 0.518, 0.3, 0.01),
    "GreaterOrEqual": (942, 0.2, 0.499, 0.3, 0.01),
    "Identity": (814, 0.2, 0.01, 0.3, 0.01),
    "InstanceNormalization": (1.29e03, 0.2, 0.244, 0.3, 0.01),
    "IsNaN": (368, 0.2, 0.527, 0.3, 0.01),
    "LRN": (1.3e03, 0.2, 31.5, 0.3, 0.01),
    "LSTM": (1.73e03, 0.202, 0.519, 0.3, 0.0561),
    "LayerNormalization": (527, 0.2, 1.07, 0.3, 0.01),
    "LeakyRelu": (1.33e03, 0.2, 0.583, 0.3, 0.01),
    "LeakyRelu qdq": (1.31e03, 0.2, 0.51, 0.3, 0.01),
    "Less": (1.32e03, 0.2, 0.501, 0.3, 0.01),
    "LessOrEqual": (828, 0.2, 0.49, 0.3, 0.01),
    "Log": (1.3e03, 0.2, 0.5, 0.3, 0.01),
    "LogSoftmax": (1.36e03, 0.2, 0.502, 0.3, 0.01),
    "MatMul": (1.42e03, 0.236, 0.472, 0.3, 0.0126),
    "MatMul float": (1.02e03, 0.004, 0.12, 0.3, 0.00546),
    "MatMul of two": (742, 0.15, 0.1, 0.3, 0.0265),
    "MatMul qdq": (980, 0.221, 0.676, 0.3, 0.00653),
    "MatMul qdq of two": (1.34e03, 0.204, 0.631, 0.3, 0.00928),
    "MatMulInteger": (1.41e03, 0.004, 0.125, 0.3, 0.00537),
    "Max": (1.1e03, 0.2, 0.499, 0.3, 0.01),
    "MaxPool": (1.21e03, 0.2, 0.487, 0.3, 0.01),
    "MaxPool qdq": (1.42e03, 0.2, 0.526, 0.3, 0.01),
    "Min": (1.28e03, 0.2, 0.5, 0.3, 0.01),
    "Mod": (1.35e03, 0.2, 0.5, 0.3, 0.01),
    "Mul": (728, 0.2, 0.213, 0.3, 0.01),
    "Mul qdq": (725, 0.2, 0.01, 0.3, 0.01),
    "Neg": (26, 0.2, 0.521, 0.3, 0.01),
    "Not": (1.32e03, 0.2, 0.5, 0.3, 0.01),
    "PRelu": (1.34e03, 0.2, 0.873, 0.3, 0.01),
    "Pad": (1.31e03, 0.2, 0.525, 0.3, 0.01),
    "Pow": (26, 0.2, 0.766, 0.3, 0.01),
    "QuantizeLinear": (677, 0.2, 0.3, 0.3, 0.01),
    "Range": (26, 0.2, 0.497, 0.3, 0.01),
    "Reciprocal": (1.35e03, 0.2, 0.5, 0.3, 0.01),
    "ReduceMean": (283, 0.2, 0.5, 0.3, 0.01),
    "Relu": (306, 0.2, 0.187, 0.3, 0.01),
    "Reshape": (144, 0.2, 0.0103, 0.3, 0.01),
    "Reshape qdq": (1.98e03, 0.2, 0.234, 0.3, 0.01),
    "Resize": (1.18e03, 0.2, 0.157, 0.3, 0.01),
    "Resize qdq": (1.31e03, 0.2, 0.527, 0.3, 0.01),
    "ScatterElements": (1.42e03, 0.2, 0.833, 0.3, 0.01),
    "Shape": (26, 0.2, 0.01, 0.3, 0.01),
    "Sigmoid": (220, 0.2, 0.862, 0.3, 0.01),
    "Sigmoid qdq": (877, 0.2, 0.319, 0.3, 0.01),
    "Sign": (1.16e03, 0.2, 0.497, 0.3, 0.01),
    "Sin": (846, 0.2, 0.498, 0.3, 0.01),
    "Slice": (1.45e03, 0.2, 0.482, 0.3, 0.01),
    "Slice qdq": (1.54e03, 0.2, 0.533, 0.3, 0.01),
    "Softmax": (1.9e03, 0.2, 0.267, 0.3, 0.01),
    "Softmax qdq": (1.12e03, 0.2, 0.61, 0.3, 0.01),
    "Softplus": (1.21e03, 0.2, 0.522, 0.3, 0.01),
    "SpaceToDepth": (1.12e03, 0.2, 0.104, 0.3, 0.01),
    "Split": (26, 0.2, 0.394, 0.3, 0.01),
    "Split qdq": (1.48e03, 0.2, 0.516, 0.3, 0.01),
    "Sqrt": (271, 0.2, 0.509, 0.3, 0.01),
    "Squeeze": (1.1e03, 0.2, 0.01, 0.3, 0.01),
    "Squeeze qdq": (1.3e03, 0.2, 0.485, 0.3, 0.01),
    "Sub": (684, 0.2, 0.498, 0.3, 0.01),
    "Sum": (1.3e03, 0.2, 0.454, 0.3, 0.01),
    "Tanh": (742, 0.2, 0.527, 0.3, 0.01),
    "Tile": (848, 0.2, 0.731, 0.3, 0.01),
    "Transpose": (1.44e03, 0.2, 1.09, 0.3, 0.01),
    "Transpose qdq": (673, 0.2, 0.453, 0.3, 0.01),
    "Unsqueeze": (297, 0.2, 0.01, 0.3, 0.01),
    "Unsqueeze qdq": (644, 0.2, 0.243, 0.3, 0.01),
    "Where": (26, 0.2, 0.54, 0.3, 0.01),
    "ai.onnx.ml::ArrayFeatureExtractor": (709, 0.2, 0.499, 0.3, 0.01),
    "ai.onnx.ml::LinearClassifier": (1.22e03, 0.2, 0.5, 0.3, 0.01),
    "ai.onnx.ml::Scaler": (631, 0.2, 0.476, 0.3, 0.01),
    "ai.onnx.ml::TreeEnsembleClassifier": (2.08e03, 0.2, 0.501, 0.3, 0.01),
    "Attention": (5e03, 0.2, 5.0, 0.3, 0.01),
    "RMSNormalization": (527, 0.2, 1.07, 0.3, 0.01),
    "RotaryEmbedding": (1.3e03, 0.2, 0.5, 0.3, 0.01),
    "border": (5.28e03, 0.002, 0.002, 0.3, 0.01),
    "MatMul stored": (900, 0.47, 0.47, 0.019, 0.0112),
    "MatMul computed": (250, 0.0, 0.0, 0.049, 0.0131),
    "com.microsoft::DynamicQuantizeLSTM": (1.75e03, 0.202, 0.52, 0.3, 0.0102),
    "other": (1.3e03, 0.2, 0.5, 0.3, 0.01),
    "whole": (5.28e03, 0.1, 0.1, 0.3, 0.01),
}
"""onnxruntime's rates with AVX-512 VNNI; all tables: `python -m tests.bench.placement FILE … --rows ROWS --fit`."""

_VNNI: Rates = {
    "ActivationMatMul": (688, 0.151, 0.285, 0.2, 0.00595),
    "BlockedMatMul 4": (500, 0.21, 0.21, 0.011, 0.005),
    "BlockedMatMul 8": (500, 0.21, 0.21, 0.011, 0.005),
    "CachedAttention": (1e03, 0.15, 3.0, 0.2, 0.006),
    "AveragePool": (636, 0.15, 0.291, 0.2, 0.006),
    "Binary": (774, 0.15, 0.006, 0.2, 0.006),
    "ChannelQuantize": (694, 0.15, 0.111, 0.2, 0.006),
    "ChannelTable": (484, 0.15, 0.255, 0.2, 0.006),
    "Concat": (891, 0.15, 0.269, 0.2, 0.006),
    "Conv": (453, 0.003, 0.315, 0.0527, 0.00329),
    "Conv depthwise": (1.02e03, 0.0417, 0.153, 0.2, 0.006),
    "Conv groups": (652, 0.103, 0.0851, 0.16, 0.00244),
    "Conv pointwise": (14, 0.167, 0.006, 0.2, 0.00442),
    "Dequantize": (14, 0.15, 0.384, 0.2, 0.006),
    "DynamicConv": (1.04e03, 0.336, 0.391, 0.234, 0.00489),
    "DynamicConv depthwise": (605, 0.0865, 0.17, 0.2, 0.136),
    "DynamicConv groups": (705, 0.15, 0.298, 0.188, 0.00351),
    "DynamicConv pointwise": (1.01e03, 0.349, 0.525, 0.2, 0.00955),
    "DynamicMatMul": (1.77e03, 0.291, 0.099, 0.2, 0.00435),
    "Expand": (586, 0.15, 0.302, 0.2, 0.006),
    "FloatBinary": (650, 0.15, 0.006, 0.2, 0.006),
    "FloatClamp": (14, 0.15, 0.006, 0.2, 0.006),
    "FloatFunction": (345, 0.15, 0.422, 0.2, 0.006),
    "FloatMatMul": (830, 0.06, 0.05, 0.2, 0.022),
    "FloatMean": (632, 0.15, 0.301, 0.2, 0.006),
    "FloatPool": (816, 0.15, 0.294, 0.2, 0.006),
    "FloatSoftmax": (742, 0.15, 0.416, 0.2, 0.006),
    "FloatTable": (594, 0.15, 0.232, 0.2, 0.006),
    "Gelu": (422, 0.15, 0.826, 0.2, 0.006),
    "InstanceNorm": (689, 0.15, 0.278, 0.2, 0.006),
    "LayerNorm": (15.8, 0.15, 0.842, 0.2, 0.006),
    "Lrn": (700, 0.15, 0.313, 0.2, 0.006),
    "MatMul": (14, 0.0596, 0.104, 0.2, 0.00574),
    "MatMul float": (990, 0.0909, 0.006, 0.2, 0.0046),
    "MaxPool": (632, 0.15, 0.214, 0.2, 0.006),
    "Pad": (693, 0.15, 0.278, 0.2, 0.006),
    "Quantize": (276, 0.15, 0.213, 0.2, 0.006),
    "Reshape": (535, 0.15, 0.00994, 0.2, 0.006),
    "Resize": (694, 0.15, 0.255, 0.2, 0.006),
    "Slice": (168, 0.15, 0.398, 0.2, 0.006),
    "Softmax": (573, 0.15, 0.291, 0.2, 0.006),
    "Table": (354, 0.15, 0.006, 0.2, 0.006),
    "Transpose": (14, 0.15, 0.199, 0.2, 0.006),
    "border": (7.89e03, 0.211, 0.273, 0.2, 0.006),
}
"""The kernels' rates with AVX-512 VNNI."""

_AVX2: Rates = {
    "ActivationMatMul": (957, 0.144, 0.467, 0.2, 0.00705),
    "BlockedMatMul 4": (500, 0.35, 0.35, 0.018, 0.0083),
    "BlockedMatMul 8": (500, 0.35, 0.35, 0.022, 0.0124),
    "CachedAttention": (1e03, 0.15, 4.0, 0.2, 0.006),
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
    "FloatMatMul": (830, 0.09, 0.05, 0.2, 0.024),
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
}
"""The kernels' rates with GRAPHOPT_ISA=avx2."""

_PORTABLE: Rates = {
    "AppendCache": (300, 0.15, 0.3, 0.2, 0.006),
    "BlockedMatMul 4": (500, 1.05, 1.05, 0.055, 0.025),
    "BlockedMatMul 8": (500, 1.05, 1.05, 0.055, 0.025),
    "CachedAttention": (1e03, 0.15, 12.0, 0.2, 0.006),
    "Rotary": (200, 0.15, 0.5, 0.2, 0.006),
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
    "FloatMatMul": (830, 0.09, 0.05, 0.2, 0.05),
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
}
"""The kernels' rates with GRAPHOPT_ISA=portable."""

_ALONE: Rates = {
    "AppendCache": (300, 0.15, 0.1, 0.2, 0.006),
    "ConvTranspose": (1e03, 0.15, 0.09, 0.06, 0.0044),
    "Expand": (200, 0.15, 0.1, 0.2, 0.006),
    "FloatFunction": (200, 0.15, 0.42, 0.2, 0.006),
    "FloatMean": (300, 0.15, 0.1, 0.2, 0.006),
    "FloatResize": (300, 0.15, 0.3, 0.2, 0.006),
    "InstanceNorm": (400, 0.15, 0.18, 0.2, 0.006),
    "Pad": (400, 0.15, 0.15, 0.2, 0.006),
    "Rotary": (200, 0.15, 0.2, 0.2, 0.006),
    "Slice": (200, 0.15, 0.1, 0.2, 0.006),
    "other": (700, 0.15, 0.3, 0.2, 0.006),
}
"""The kernels' rates of operations without rows at some level, timed alone by `python -m tests.bench.glue`.

ConvTranspose, here and in onnxruntime, by `graphopt.runtime.profile` and by single nodes at four sizes, of 8 to 128
channels: multiply-accumulates as many as the layer has.
"""

_ALONE_ONNXRUNTIME: Rates = {
    "Expand": (1.3e03, 0.2, 0.094, 0.3, 0.01),
    "FloatFunction": (1.3e03, 0.2, 0.3, 0.3, 0.01),
    "FloatMean": (1.3e03, 0.2, 0.1, 0.3, 0.01),
    "InstanceNorm": (1.5e03, 0.2, 0.3, 0.3, 0.01),
    "Pad": (1.4e03, 0.2, 0.1, 0.3, 0.01),
    "Resize linear": (1.2e03, 0.2, 1.4, 0.3, 0.01),
    "Slice": (1.3e03, 0.2, 0.13, 0.3, 0.01),
}
"""onnxruntime's rates of the same operations: elements as timed alone, a call as of other small operations."""

RATES: Mapping[str, LevelRates] = {
    name: LevelRates({**_ALONE, **kernels}, {**_ALONE_ONNXRUNTIME, **stock})
    for name, kernels, stock in (
        ("avx512vnni", _VNNI, _ONNXRUNTIME),
        ("avxvnni", _AVX2, _without_vnni(_ONNXRUNTIME)),
        ("avx2", _AVX2, _without_vnni(_ONNXRUNTIME)),
        ("portable", _PORTABLE, _without_vnni(_ONNXRUNTIME)),
    )
}
"""The rates by instruction level of `LEVELS`; avxvnni, half as wide, has AVX2's rates in both runtimes."""
