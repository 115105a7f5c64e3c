"""Models that somebody else has quantized: recognised and kept as they are."""

from __future__ import annotations

from collections import Counter

from ....ir import DType, Model, Node

PAIRS = frozenset(("QuantizeLinear", "DequantizeLinear"))
DYNAMIC = frozenset(("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul",
                     "DynamicQuantizeLSTM", "MatMulIntegerToFloat"))  # fmt: skip
STORED = frozenset(("MatMulNBits", "GatherBlockQuantized"))
SMALL = 1024
"""Elements up to which a constant of bytes is not taken for a weight."""


def quantized_form(model: Model) -> str:
    """How a model is quantized, in words for the report; "" for a float model."""
    counts: Counter[str] = Counter()
    for graph in model.graph.graphs():
        for node in graph:
            counts[_kind(node)] += 1
    del counts[""]
    if not counts:
        return ""
    names = {"pairs": "pairs (QDQ)", "codes": "operators on codes", "dynamic": "dynamic", "stored": "stored weights"}
    if not counts["pairs"] and not counts["codes"] and not counts["dynamic"]:
        return f"{names['stored']}, {counts['stored']} of them"
    return ", ".join(f"{names[kind]} ×{count}" for kind, count in counts.most_common() if count)


def _kind(node: Node) -> str:
    if node.op_type in DYNAMIC:
        return "dynamic"
    if node.op_type in STORED:
        return "stored"
    if node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "QAttention"):
        return "codes"
    if node.op_type == "QuantizeLinear":
        return "pairs"
    source = node.constant(0) if node.op_type in ("DequantizeLinear", "Cast") and node.inputs else None
    stored = source is not None and source.dtype in (DType.INT8, DType.UINT8, DType.INT4, DType.UINT4)
    return "stored" if stored and source is not None and source.size > SMALL else ""
