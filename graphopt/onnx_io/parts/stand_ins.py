"""ONNX operators that stand in for onnxruntime's own, in a skeleton for inference of types or of shapes only.

ONNX's inference knows no result types of onnxruntime's own operators, and follows computed sizes (Shape, Gather,
Concat, Reshape) only up to the first such operator: a decoder quantized by onnxruntime's own tool would lose its
shapes. A stand-in has the type of the result, and an additional input where it needs an operand's shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx

from ...ops import walk_protos

_OWN = "com.microsoft"
_NORM = "SimplifiedLayerNormalization"
_GELUS = ("QuickGelu", "Gelu", "FastGelu", "BiasGelu")
_BRANCHES = "BranchwiseRMSNorm"
_SKIPS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention")
_SAME = frozenset((("", _NORM), *((_OWN, name) for name in (_NORM, _BRANCHES, *_GELUS))))
"""Domains and operators whose first result has the type of their first operand."""
_WIDTHS = (2, 4, 8)
"""Bits of a code."""
_ONE, _TWO, _CODES = (0,), (0, 1), (0, 3)
_LIKE = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), ("Add", _CODES)),
    **dict.fromkeys(
        (
            "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QuantizeLinear", "DequantizeLinear", *_GELUS,
            "RotaryEmbedding", _BRANCHES, *_SKIPS,
        ),
        ("Identity", _ONE),
    ),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul"), ("MatMul", _TWO)),
    "QLinearAveragePool": ("AveragePool", _ONE), "QLinearGlobalAveragePool": ("GlobalAveragePool", _ONE),
    "QGemm": ("Gemm", _CODES), "FusedConv": ("Conv", _TWO),
}  # fmt: skip
"""For operators of onnxruntime, an ONNX operator whose result has the same shape, if not the same type, and the
operands that it takes."""


def put_stand_ins(skeleton: onnx.ModelProto) -> None:
    """Replace in place, in nested graphs too, operators that have a stand-in and a single result."""
    shapes = {t.name: (tuple(t.dims), t.data_type) for t in skeleton.graph.initializer}
    for value in skeleton.graph.input:
        declared = value.type.tensor_type
        shapes[value.name] = tuple(d.dim_value for d in declared.shape.dim), declared.elem_type
    given: dict[tuple[int, ...], str] = {}
    for node in walk_protos(skeleton.graph.node):
        if any(node.output[1:]) or not node.input:
            continue
        kind, sizes = (node.domain, node.op_type), _numbers(node)
        if kind in _SAME:
            _become(node, "Identity", node.input[:1])
        elif kind == (_OWN, "MatMulNBits") and sizes.keys() >= {"K", "N"}:
            _become(node, "MatMul", (node.input[0], _given(given, (sizes["K"], sizes["N"]))))
        elif kind == (_OWN, "GatherBlockQuantized") and node.input[0] in shapes:
            (shape, elem), bits = shapes[node.input[0]], sizes.get("bits", 4)
            if sizes.get("gather_axis", 0) == 0 and len(shape) > 1 and prod(shape) and bits in _WIDTHS:
                codes = 8 // bits if elem == onnx.TensorProto.UINT8 else 1
                table = _given(given, (*shape[:-1], shape[-1] * codes))
                _become(node, "Gather", (table, node.input[1]))
    for shape, name in given.items():
        skeleton.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def put_alike_shapes(graph: onnx.GraphProto) -> None:
    """Replace in place operators by ONNX operators with results of the same shape; attributes stay."""
    sums: dict[int, onnx.NodeProto] = {}
    for place, node in enumerate(graph.node):
        op, slots = _like(node) if node.domain == _OWN else ("", _ONE)
        if not op:
            continue
        operands, more = [node.input[slot] for slot in slots], list(node.output[1:])
        if node.op_type in _SKIPS and any(more[2:]):  # the sum that it norms
            sums[place] = onnx.helper.make_node("Identity", operands, [more[2]])
        if node.op_type == "FusedMatMul":
            numbers = _numbers(node)
            terms = ["...ba" if numbers.get("transA") else "...ab", "...cb" if numbers.get("transB") else "...bc"]
            node.CopyFrom(onnx.helper.make_node(op, operands, node.output, equation=f"{','.join(terms)}->...ac"))
            continue
        node.op_type, node.domain = op, ""
        node.ClearField("input")
        node.input.extend(operands)
        del node.output[1:]
    if sums:
        ordered = onnx.GraphProto()
        for place, node in enumerate(graph.node):
            ordered.node.extend((node, sums[place]) if place in sums else (node,))
        graph.ClearField("node")
        graph.node.extend(ordered.node)


def _like(node: onnx.NodeProto) -> tuple[str, Sequence[int]]:
    """The ONNX operator whose result has the shape of that of one of onnxruntime's, and the operands that it takes; ""
    where none is known."""
    numbers = _numbers(node)
    if numbers.get("channels_last"):
        return "", _ONE
    if node.op_type == "QLinearConcat":
        return "Concat", tuple(range(2, len(node.input), 3))
    if node.op_type == "FusedMatMul" and not (numbers.get("transBatchA") or numbers.get("transBatchB")):
        return "Einsum", _TWO
    if node.op_type in _ATTENTION and len(node.input) > 1 and node.input[1]:  # not packed: as the queries
        return "Identity", _ONE
    return _LIKE.get(node.op_type, ("", _ONE))


def _numbers(node: onnx.NodeProto) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}


def _given(given: dict[tuple[int, ...], str], shape: tuple[int, ...]) -> str:
    """The input of this shape."""
    return given.setdefault(shape, f"graphopt.stand_in{len(given)}")


def _become(node: onnx.NodeProto, op: str, inputs: Sequence[str]) -> None:
    node.CopyFrom(onnx.helper.make_node(op, list(inputs), [node.output[0]], name=node.name))
