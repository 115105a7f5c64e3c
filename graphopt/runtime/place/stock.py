"""The work of nodes in onnxruntime, fused as onnxruntime fuses them, in numbers from which their time is predicted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod

from ...ir import Node, TensorType, Value
from ...ops import attr
from ..lower.floats.gelu import spelled_by_tanh
from ..lower.operands import is_constant, is_dequantize, is_quantize
from ..lower.traits import Shape
from .stored import is_multiplied_as_stored, is_stored
from .work import Work, add_work, filled_macs

_WEIGHT = {
    "Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1, "com.microsoft::FusedConv": 1, "Gemm": 1,
    "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "com.microsoft::QGemm": 3, "com.microsoft::FusedMatMul": 1,
    "com.microsoft::DynamicQuantizeMatMul": 1, "com.microsoft::MatMulIntegerToFloat": 1,
}  # fmt: skip
"""The slot of the weights, or of the second operand, of products."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "com.microsoft::DynamicQuantizeLSTM": 4}
"""Gates, that is products a step, of recurrent layers, each with the input and with the state."""

_ON_CODES = frozenset((
    "Conv", "MatMul", "Gemm", "Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Concat",
    "Softmax", "Where",
))  # fmt: skip
"""Operators that onnxruntime replaces by a kernel on codes between DequantizeLinear and QuantizeLinear: the QDQ
selectors of onnxruntime 1.32. On this architecture their activations must be uint8."""

_MOVED = frozenset((
    "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize", "Slice", "Gather", "Expand",
    "Split", "DepthToSpace", "SpaceToDepth", "Identity",
))  # fmt: skip
"""Operators that onnxruntime runs on codes of any type, as they only move elements."""

_TO_FLOAT = frozenset(("MatMul", "Gemm"))
"""Operators that take codes even if their result stays float."""


AS_STORED, AS_COMPUTED = "MatMul stored", "MatMul computed"
"""Classes of products with stored weights: by the codes, or by floats dequantized once as the session opens."""

_ALIKE = {
    "QLinearConv": "Conv qdq", "QLinearMatMul": "MatMul qdq", "com.microsoft::QGemm": "Gemm qdq",
    "com.microsoft::QLinearAdd": "Add qdq", "com.microsoft::QLinearMul": "Mul qdq",
    "com.microsoft::QLinearSigmoid": "Sigmoid qdq", "com.microsoft::QLinearConcat": "Concat qdq",
    "com.microsoft::QLinearLeakyRelu": "LeakyRelu qdq", "com.microsoft::QLinearSoftmax": "Softmax qdq",
    "com.microsoft::QLinearAveragePool": "AveragePool qdq",
    "com.microsoft::QLinearGlobalAveragePool": "GlobalAveragePool qdq",
    "com.microsoft::QuantizeLinear": "QuantizeLinear", "com.microsoft::DequantizeLinear": "DequantizeLinear",
    "com.microsoft::DynamicQuantizeMatMul": "MatMulInteger", "com.microsoft::MatMulIntegerToFloat": "MatMulInteger",
    "com.microsoft::FusedConv": "Conv", "com.microsoft::FusedMatMul": "MatMul", "com.microsoft::FusedGemm": "Gemm",
    "com.microsoft::MatMulNBits": AS_STORED,
    "com.microsoft::Gelu": "Gelu", "com.microsoft::BiasGelu": "Gelu", "com.microsoft::FastGelu": "Gelu",
}  # fmt: skip
"""Fused operators, with the class of the nodes from which onnxruntime fuses them."""

_BEHIND = 3
"""Nodes behind the Tanh of a Gelu: an Add of one, and products with x and one half, in any order."""


def stock_work(nodes: Iterable[Node], shapes: Mapping[Value, Shape]) -> Work:
    """The total work of nodes in onnxruntime."""
    total: Work = {}
    for work in work_by_node(nodes, shapes).values():
        for kind, numbers in work.items():
            add_work(total, kind, numbers)
    return total


def work_by_node(
    nodes: Iterable[Node], shapes: Mapping[Value, Shape], *, computed: bool = False
) -> dict[Node, Work]:  # fmt: skip
    """The work of each node in onnxruntime at these shapes of values; unknown ones count as one element.

    The node of a fused kernel has all its work; other fused nodes, and nodes of constants, which run once, have none.
    `computed`: stored weights are dequantized once, too.
    """
    return work_in_forms(nodes, shapes, (computed,))[0]


def work_in_forms(
    nodes: Iterable[Node], shapes: Mapping[Value, Shape], forms: Sequence[bool] = (False, True)
) -> list[dict[Node, Work]]:  # fmt: skip
    """`work_by_node` for each of these values of `computed`."""
    nodes = list(dict.fromkeys(node for node in nodes if not _is_folded(node)))
    absorbed: set[Node] = set()
    kinds = {node: _kind(node, absorbed) for node in nodes}
    return [_work(kinds, absorbed, shapes, computed) for computed in forms]


def _work(
    kinds: Mapping[Node, str], absorbed: Collection[Node], shapes: Mapping[Value, Shape], computed: bool
) -> dict[Node, Work]:  # fmt: skip
    """`work_by_node` of nodes by their classes, without those that are fused into others."""
    found: dict[Node, Work] = {}
    for node in kinds:
        if node in absorbed or (is_dequantize(node) and any(use.node in kinds for use in node.output.uses)):
            continue
        kind, numbers = _numbers(node, kinds[node], shapes)
        as_stored = is_multiplied_as_stored(node) and kinds[node] == node.op
        if as_stored:
            kind, numbers = AS_COMPUTED if computed else AS_STORED, _stored_numbers(node, shapes)
        work: Work = {kind: list(numbers)}
        if kinds[node] == node.op:  # onnxruntime gives each reader a DequantizeLinear of its own, weights' included
            for value in node.inputs:
                is_weight = is_stored(value)
                if is_weight and (computed or as_stored):
                    continue
                if value is not None and (is_weight or (value.producer is not None and is_dequantize(value.producer))):
                    add_work(work, "DequantizeLinear", (1.0, 0.0, float(prod(shapes.get(value, ()))), 0.0, 0.0))
        found[node] = work
    return found


def _is_folded(node: Node) -> bool:
    """Whether the node reads constants only, so that onnxruntime computes it once."""
    return bool(node.outputs) and is_constant(node.outputs[0])


def _kind(node: Node, absorbed: set[Node]) -> str:
    """The class of a node; other nodes that its kernel fuses are added to `absorbed`."""
    if node.op == "MatMulInteger":
        absorbed.update(_dequantization(node))
    if node.op == "Erf":
        gelu = list(_gelu(node))
        absorbed.update(gelu)
        return "Gelu" if gelu else node.op
    if node.op == "Tanh":
        gelu = list(_gelu_by_tanh(node))
        absorbed.update(gelu)
        return "Gelu" if gelu else node.op
    if node.op == "Resize" and str(attr(node, "mode", "nearest")) != "nearest":
        return "Resize linear"
    if node.op not in _ON_CODES and node.op not in _MOVED:
        return _ALIKE.get(node.op, node.op)
    data = [value for value in node.inputs if value is not None and _is_float(value)]
    if node.op in ("Conv", "Gemm"):
        data = data[:2]  # the bias may be float: onnxruntime quantizes it
    sources = [value.producer for value in data if value.producer is not None and is_dequantize(value.producer)]
    if not sources or len(sources) < len(data):
        return node.op
    last, reader = node, _only_reader(node)
    if reader is not None and reader.op in ("Relu", "Clip"):
        last = reader
    readers = {use.node for use in last.outputs[0].uses}
    to_codes = bool(readers) and all(is_quantize(one) for one in readers)
    if node.op in _ON_CODES:
        weights = 1 if node.op in _WEIGHT else None
        codes = [_becomes_uint8(one) for i, one in enumerate(sources) if i != weights or not _is_folded(one)]
        if not all(codes) or (to_codes and not all(_becomes_uint8(one) for one in readers)):
            return node.op
    if to_codes:
        absorbed.update(readers, () if last is node else (last,))
        return f"{node.op} qdq"
    return f"{node.op} float" if node.op in _TO_FLOAT else node.op


def _becomes_uint8(node: Node) -> bool:
    """Whether the codes of a QuantizeLinear or DequantizeLinear are uint8, or int8 that onnxruntime changes to uint8:
    between one of each, with one reader."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None or (isinstance(zero.type, TensorType) and zero.type.dtype.name == "UINT8"):
        return True
    source = node.inputs[0]
    first, second = (node, _only_reader(node)) if is_quantize(node) else (source.producer if source else None, node)
    if first is None or second is None or not is_quantize(first) or not is_dequantize(second):
        return False
    return _only_reader(first) is second and len(second.output.uses) == 1


def _dequantization(product: Node) -> Iterable[Node]:
    """The nodes fused with an integer product: Cast, Mul and the bias's Add behind it, and the Mul of its scales."""
    cast = _only_reader(product)
    if cast is None or cast.op != "Cast":
        return
    scaled = _only_reader(cast)
    if scaled is None or scaled.op != "Mul":
        return
    yield cast
    yield scaled
    for value in scaled.inputs:
        if value is not None and value.producer is not None and value.producer.op == "Mul":
            yield value.producer
    bias = _only_reader(scaled)
    if bias is not None and bias.op == "Add" and any(value is not None and is_constant(value) for value in bias.inputs):
        yield bias


def _gelu(erf: Node) -> Iterable[Node]:
    """The other nodes of x · (1 + erf(x / √2)) / 2, which onnxruntime fuses; none for any other Erf."""
    scaled, raised = erf.inputs[0].producer if erf.inputs[0] else None, _only_reader(erf)
    if scaled is None or scaled.op not in ("Div", "Mul") or raised is None or raised.op != "Add":
        return
    product = _only_reader(raised)
    if product is None or product.op != "Mul":
        return
    yield from (scaled, raised, product)
    for value in product.inputs:
        if value is not None and value.producer is not None and value.producer.op == "Mul":
            yield value.producer  # by one half, before
    half = _only_reader(product)
    if half is not None and half.op == "Mul" and any(value is not None and is_constant(value) for value in half.inputs):
        yield half


def _gelu_by_tanh(tanh: Node) -> Iterable[Node]:
    """The other nodes of x / 2 · (1 + tanh(…)), which onnxruntime fuses; none for any other Tanh."""
    end = tanh
    for _ in range(_BEHIND):
        reader = _only_reader(end)
        if reader is None or reader.op not in ("Add", "Mul"):
            return
        end = reader
        found = spelled_by_tanh(end) if end.op == "Mul" else None
        if found is not None:
            yield from (node for node in found[2] if node is not tanh)
            return


def _only_reader(node: Node) -> Node | None:
    readers = {use.node for use in node.outputs[0].uses}
    return next(iter(readers)) if len(readers) == 1 else None


def _is_float(value: Value) -> bool:
    return not isinstance(value.type, TensorType) or value.type.dtype.name.startswith(("FLOAT", "BFLOAT"))


def _numbers(node: Node, kind: str, shapes: Mapping[Value, Shape]) -> tuple[str, tuple[float, ...]]:
    """The class (convolutions by window and groups, products of two computed operands apart) and its FEATURES."""
    output = shapes.get(node.outputs[0], ()) if node.outputs else ()
    slot = _WEIGHT.get(node.op)
    weight = node.input(slot) if slot is not None else None
    first = shapes.get(node.inputs[0], ()) if node.inputs and node.inputs[0] is not None else ()
    if kind == AS_STORED:
        return kind, _stored_numbers(node, shapes)
    if node.op in _GATES and len(output) == 4 and len(first) == 3:
        steps, width = float(prod(output)), first[-1] + output[-1]  # [time, directions, batch, hidden]
        return kind, (1.0, float(prod(first)), steps, 0.0, steps * _GATES[node.op] * width)
    if weight is None or not output:
        return kind, (1.0, 0.0, float(prod(output)), 0.0, 0.0)
    sizes, constant = shapes.get(weight, ()), is_constant(weight)
    if len(sizes) < 2:
        return kind, (1.0, 0.0, float(prod(output)), 0.0, 0.0)
    if node.op == "ConvTranspose":
        return kind, (1.0, float(prod(first)), float(prod(output)), 0.0, float(prod(first) * prod(sizes[1:])))
    if "Conv" in node.op:
        groups = node.attrs.get("group", 1)
        if groups > 1:
            kind += " depthwise" if len(sizes) > 1 and sizes[1] == 1 else " groups"
        elif prod(sizes[2:]) == 1:
            kind += " pointwise"
        return kind, (1.0, float(prod(first)), *filled_macs(sizes, output, int(groups)))
    if not constant:
        return f"{kind} of two", (
            1.0, float(prod(first) + prod(sizes)), float(prod(output)), 0.0, float(prod(output) * (first or (1,))[-1]),
        )  # fmt: skip
    inner = (first or (1,))[-1]
    return kind, (1.0, float(prod(first)), *filled_macs((inner, output[-1]), output, 0))


def _stored_numbers(node: Node, shapes: Mapping[Value, Shape]) -> tuple[float, ...]:
    """The FEATURES of a product with stored weights, each unpacked once."""
    output, first = shapes.get(node.outputs[0], ()), shapes.get(node.inputs[0], ()) if node.inputs[0] else ()
    inner, width = (first or (1,))[-1], (output or (1,))[-1]
    return 1.0, float(prod(first)), float(prod(output)), float(inner * width), float(prod(output) * inner)
