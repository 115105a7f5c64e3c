"""The cost of each layer: multiply-accumulates, bytes of weights and of results, precision, shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...ir import DType, Model, Node, TensorType, Value
from ...measure import KernelTime, node_macs, value_bytes

_SCALING = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Layer:
    """One node that multiplies or holds weights. `weights` is the shape of the largest weight, "" for none;
    microseconds are those of onnxruntime's operator named after the node, including all nodes fused into it.
    """

    name: str
    op: str
    macs: int
    weight_bytes: int
    result_bytes: int
    precision: str
    weights: str
    result: str
    microseconds: float = 0.0


def layer_times(kernels: Iterable[KernelTime]) -> dict[Node, float]:
    """Microseconds by node: an operator's time counts for the node of its name."""
    times: dict[Node, float] = {}
    for kernel in kernels:
        if kernel.node is not None:
            times[kernel.node] = times.get(kernel.node, 0.0) + kernel.seconds * 1e6
    return times


def layers(model: Model, times: Mapping[Node, float] | None = None) -> list[Layer]:
    """The layers of a model, nested graphs included, in execution order. Unknown sizes count as 1.

    times: microseconds by node, where they were measured.
    """
    rows = []
    for node in model.graph.walk():
        stored = [_stored(value) for value in node.inputs if value is not None]
        held = [v for v in stored if v is not None and v.constant is not None and v.constant.size > 1]
        macs = node_macs(node)
        if not macs and (node.op in _SCALING or not any(_is_weight(v) for v in held)):
            continue
        largest = max(held, key=lambda v: v.constant.nbytes if v.constant else 0, default=None)
        rows.append(
            Layer(
                name=node.name or (node.origins[0] if node.origins else node.output.name),
                op=node.op_type,
                macs=macs,
                weight_bytes=sum(v.constant.nbytes for v in held if v.constant),
                result_bytes=sum(value_bytes(v) for v in node.outputs),
                precision=_precision(node, largest),
                weights="" if largest is None else _sizes(largest),
                result=_sizes(node.output) if node.outputs else "",
                microseconds=(times or {}).get(node, 0.0),
            )
        )
    return rows


def _is_weight(value: Value) -> bool:
    """Whether a constant holds learned numbers, not sizes or axes."""
    return isinstance(value.type, TensorType) and value.type.dtype not in (DType.INT64, DType.BOOL, DType.STRING)


def _stored(value: Value) -> Value | None:
    """The constant behind an input, through dequantization, casts, reshapes and transposes."""
    for _ in range(4):
        if value.constant is not None:
            return value
        node = value.producer
        if node is None or node.op not in ("DequantizeLinear", "Cast", "Reshape", "Transpose") or not node.inputs:
            return None
        before = node.inputs[0]
        if before is None:
            return None
        value = before
    return None


def _precision(node: Node, largest: Value | None) -> str:
    value = largest if largest is not None else node.output if node.outputs else None
    return value.type.dtype.short if value is not None and isinstance(value.type, TensorType) else ""


def _sizes(value: Value) -> str:
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        return ""
    return " × ".join("?" if d is None else str(d) for d in value.type.shape)
