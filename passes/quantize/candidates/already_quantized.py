"""Already quantized models: detected and left unchanged."""

from __future__ import annotations

from collections import Counter

from ....errors import Declined
from ....ir import DType, Model, Node

PAIRS = frozenset(("QuantizeLinear", "DequantizeLinear"))
DYNAMIC = frozenset(("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul",
                     "DynamicQuantizeLSTM", "MatMulIntegerToFloat"))  # fmt: skip
STORED = frozenset(("MatMulNBits", "GatherBlockQuantized"))
SMALL = 1024
"""The most elements of a byte constant that counts as a lookup table or a mask, not as a weight."""


def require_float(model: Model) -> None:
    """Declined where a model is quantized already, with the forms that its nodes have and how many of each."""
    counts: Counter[str] = Counter()
    for graph in model.graph.graphs():
        for node in graph:
            counts[_kind(node)] += 1
    del counts[""]
    if not counts:
        return
    if set(counts) == {"stored weights"}:
        form = f"stored weights, {counts['stored weights']} of them"
    else:
        form = ", ".join(f"{kind} ×{count}" for kind, count in counts.most_common())
    raise Declined(f"already quantized, kept: {form}")


def _kind(node: Node) -> str:
    """The quantized form a node belongs to; "" for none."""
    if node.op_type in DYNAMIC:
        return "dynamic"
    if node.op_type in STORED:
        return "stored weights"
    if node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "QAttention"):
        return "operators on codes"
    if node.op_type == "QuantizeLinear":
        return "pairs (QDQ)"
    source = node.constant(0) if node.op_type in ("DequantizeLinear", "Cast") and node.inputs else None
    stored = source is not None and source.dtype in (DType.INT8, DType.UINT8, DType.INT4, DType.UINT4)
    return "stored weights" if stored and source is not None and source.size > SMALL else ""
