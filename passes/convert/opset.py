"""Conversion to a later operator set: each node takes the form that its operator has there, with the same results.

A node passes through every version of its operator between the two sets. Most versions only add element types or
options; for others there is an adapter (`opset_adapters`), and an operator without one refuses the conversion.
Operators of other domains stay as they are.
"""

from __future__ import annotations

from functools import lru_cache

from ...errors import Declined, OptionError
from ...ir import FunctionId, Graph, Model, Node, TensorType, model_of
from ...ops import is_implemented, schema_of
from ...pipeline.passes import Pass
from ...rewrite import Context
from .opset_adapters import ADAPTERS, CHANGED

OLDEST = 7
"""Before this opset, operators broadcast only as an attribute says."""


def convert_opset(to: int) -> Pass:
    """The pass that converts a model to opset `to`; OptionError if ONNX has no such set."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= to <= newest:
        raise OptionError(f"opset {to}: ONNX {onnx.__version__} has {OLDEST} to {newest}")

    def run(graph: Graph, context: Context) -> int:
        """f at opset n = f at opset m"""
        model = model_of(graph)
        return 0 if model is None else _convert(model, to, context)

    return Pass("convert-opset", run, doc=f"Take every operator to its form in opset {to}.")


def check_convertible(model: Model, to: int) -> None:
    """OptionError in one line where the model cannot be taken to opset `to`."""
    for body in (model, *(f.body for f in model.functions.values())):
        if body.opset and not OLDEST <= body.opset <= to:
            raise OptionError(
                f"opset {to}: the model has opset {body.opset}, and conversion goes up only, from {OLDEST} on"
            )


def check_kernels(model: Model, raised: Model) -> None:
    """Declined where onnxruntime runs a node of `model`, but not in `raised`, the same model at a later opset.

    A kernel may lack the later version (RoiAlign, Bernoulli at opset 22), and an operator without a kernel runs by the
    function that defines it, which counts only until one of the operators in it has a later version: LeakyRelu, PRelu,
    Elu, Selu, Mish, Softplus and others of float64 from opset 19 on.
    """
    for node in raised.graph.walk():
        if is_implemented(node, raised.opsets) or (node.domain and not is_implemented(node, model.opsets)):
            continue
        type = next((value.type for value in node.inputs if value is not None), None)
        dtype = f" of {type.dtype.name.lower()}" if isinstance(type, TensorType) else ""
        raise Declined(f"onnxruntime has no {node.op_type}{dtype} at opset {raised.opset}", node.name)


def _convert(model: Model, to: int, context: Context) -> int:
    import onnx

    if model.opset in (0, to):
        return 0
    check_convertible(model, to)
    nodes = [node for node in model.graph.walk() if not node.domain]
    if nodes and not context.commit("convert-opset", nodes[0]):
        return 0
    changes = 1
    for function in model.functions.values():
        if function.body.opset:
            changes += _convert_body(function.body, model, to)
    changes += _convert_body(model, model, to)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opsets.items()]
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return changes


def _convert_body(body: Model, model: Model, to: int) -> int:
    start = body.opset
    changes = 0
    for node in list(body.graph.walk()):
        if not node.domain and FunctionId("", node.op, node.overload) not in model.functions:
            changes += _step_up(node, start, to)
    body.opsets[""] = to
    return changes


def _step_up(node: Node, start: int, to: int) -> int:
    """Convert one node through the versions of its operator above `start`; the operator itself may change."""
    changes = 0
    while versions := _versions(node.op, start, to):
        version = versions[0]
        try:
            adapted = _adapt(node, version)
        except Declined as error:
            raise OptionError(f"opset {to}: node {node.name or node.op!r}: {error}") from error
        changes += adapted is not None
        node, start = adapted or node, version
    return changes


def _adapt(node: Node, version: int) -> Node | None:
    """The node in the form of opset `version`; None if it has that form already."""
    adapter = ADAPTERS.get((node.op, version))
    if adapter is not None and node.graph is not None:
        return adapter(node.graph, node)
    if (node.op, version) in CHANGED:
        raise Declined(f"{node.op} means something else from opset {version} on")
    before, after = schema_of(node.op, version - 1), schema_of(node.op, version)
    if before is None or after is None or after.deprecated:
        raise Declined(f"opset {version} has no {node.op}")
    for name in node.attrs:
        if name not in after.attributes:
            raise Declined(f"{node.op} has no attribute {name} from opset {version} on")
    count = len(node.inputs)
    if not after.min_input <= count <= after.max_input or len(node.outputs) > after.max_output:
        raise Declined(f"{node.op} takes other inputs from opset {version} on")
    return None


@lru_cache(maxsize=4096)
def _versions(op: str, start: int, to: int) -> tuple[int, ...]:
    """The opsets above `start` up to `to` in which the operator changed."""
    versions: list[int] = []
    top = to
    while top > start:
        known = schema_of(op, top)
        if known is None or known.since_version <= start:
            break
        versions.append(known.since_version)
        top = known.since_version - 1
    return tuple(reversed(versions))
