"""Opset conversion: up by the pass `convert-opset`, down by converting each node to an earlier form."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Declined, OptionError
from ..ir import FunctionId, Graph, Model, Node, TensorType, Value, clone_model
from ..ops import infer, schema_of, type_proto
from ..passes.convert import check_convertible, convert_opset
from ..passes.convert.opset_adapters import ADAPTERS, CHANGED
from ..pipeline.driver import run_pass
from .earlier_forms import EARLIER
from .expansions import EXPANSIONS
from .step import Step

OLDEST = 7
"""Before this opset, operators broadcast only as an attribute says."""


@dataclass(frozen=True, slots=True)
class SetOpset(Step):
    """Convert ONNX's own operators to another operator set; downward, the IR version follows."""

    version: int

    @property
    def keeps_names(self) -> bool:
        """False: a converted node may reuse the name of another value."""
        return False

    def apply(self, model: Model) -> Model:
        """The converted model. OptionError, one line, where an operator has no form in that opset."""
        copy = clone_model(model)
        bodies = (copy, *(function.body for function in copy.functions.values()))
        if self.version < max((body.opset for body in bodies), default=0):
            self._lower(copy)
        elif self.version > min((body.opset for body in bodies if body.opset), default=self.version):
            check_convertible(copy, self.version)
            run_pass(copy, convert_opset(self.version))
        return copy

    def _lower(self, model: Model) -> None:
        import onnx

        if self.version < OLDEST:
            raise OptionError(f"opset {self.version}: conversion goes down to {OLDEST}")
        for body in (model, *(function.body for function in model.functions.values())):
            if body.opset <= self.version:
                continue
            for node in list(body.graph.walk()):
                if not node.domain and FunctionId("", node.op, node.overload) not in model.functions:
                    self._step_down(node, body.opset)
            body.opsets[""] = self.version
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opsets.items()]
        lowest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
        model.ir_version = min(model.ir_version, max(lowest, _OLDEST_IR))

    def _step_down(self, node: Node, start: int) -> None:
        """Take one node through the versions of its operator from `start` down."""
        while True:
            known = schema_of(node.op, start)
            if known is None or known.since_version <= self.version:
                return
            expand = EXPANSIONS.get((node.op, known.since_version))
            try:
                if expand is not None and (nodes := expand(node)) is not None:
                    _replace(node, nodes)
                    for new in nodes:
                        self._step_down(new, known.since_version - 1)
                    return
                _lower_node(node, known.since_version)
            except Declined as error:
                place = f"node {node.name!r}" if node.name else f"a node {node.op}"
                raise OptionError(f"opset {self.version}: {place}: {error}") from error
            start = known.since_version - 1

    def __str__(self) -> str:
        return f"opset {self.version}"


_OLDEST_IR = 4
"""The first IR version whose initializers need not be inputs (ONNX's IR.md)."""


def _replace(node: Node, nodes: list[Node]) -> None:
    """Replace a node by `nodes`, the last of which computes its first result. Declined where other results are used."""
    graph = node.graph
    assert graph is not None
    if any(not out.is_unused for out in node.outputs[1:]):
        raise Declined(f"only the first result of {node.op} can be computed by other operators")
    for new in nodes:
        graph.insert_before(node, new)
        for value, type in zip(new.outputs, infer(new)):
            value.type = type
    nodes[-1].name, nodes[-1].doc, nodes[-1].metadata = node.name, node.doc, node.metadata
    nodes[-1].output.name = node.output.name
    graph.replace_uses(node.output, nodes[-1].output)
    graph.erase(node)


def _lower_node(node: Node, version: int) -> None:
    """Convert a node to its operator's form right before opset `version`; Declined where there is none."""
    graph = node.graph
    assert graph is not None
    before, after = schema_of(node.op, version - 1), schema_of(node.op, version)
    if before is None or after is None or before.deprecated:
        raise Declined(f"opset {version - 1} has no {node.op}")
    lower = EARLIER.get((node.op, version))
    if lower is not None:
        lower(graph, node)
    elif (node.op, version) in ADAPTERS or (node.op, version) in CHANGED:
        raise Declined(f"{node.op} means something else before opset {version}")
    _write_defaults(graph, node, before, after)
    count = len(node.inputs)
    if not before.min_input <= count <= before.max_input or any(v is None for v in node.inputs[: before.min_input]):
        raise Declined(f"{node.op} takes other inputs before opset {version}")
    if len(node.outputs) > before.max_output:
        raise Declined(f"{node.op} gives fewer outputs before opset {version}")
    _check_types(node, before, version)


def _write_defaults(graph: Graph, node: Node, before: object, after: object) -> None:
    """Drop attributes that the earlier form lacks if they hold defaults, else Declined; write defaults that
    differed."""
    import onnx

    old, new = before.attributes, after.attributes  # type: ignore[attr-defined]
    for name in list(node.attrs):
        if name in old:
            continue
        default = new[name].default_value if name in new else onnx.AttributeProto()
        if not default.name or _plain(onnx.helper.get_attribute_value(default)) != _plain(node.attrs[name]):
            raise Declined(f"{node.op} has no {name}={node.attrs[name]} at that opset")
        graph.set_attr(node, name, None)
    for name, attribute in new.items():
        default = attribute.default_value
        if name in old and name not in node.attrs and default.name and old[name].default_value != default:
            graph.set_attr(node, name, _plain(onnx.helper.get_attribute_value(default)))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


def _check_types(node: Node, before: object, version: int) -> None:
    """Declined where the earlier operator does not support an element type of the node."""
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in before.type_constraints}  # type: ignore[attr-defined]
    for values, formals in ((node.inputs, before.inputs), (node.outputs, before.outputs)):  # type: ignore[attr-defined]
        for slot, value in enumerate(values):
            formal = formals[min(slot, len(formals) - 1)] if formals else None
            text = None if value is None else _type_text(value)
            if formal is None or text is None or value is None:
                continue
            if text not in allowed.get(formal.type_str, {formal.type_str}):
                raise Declined(f"{node.op} has no {value.type} before opset {version}")


def _type_text(value: Value) -> str | None:
    """An element type as ONNX's schemas write it; None for anything but tensors of a known one."""
    import onnx

    if not isinstance(value.type, TensorType) or not value.type.dtype:
        return None
    kind = type_proto(TensorType(value.type.dtype)).tensor_type.elem_type
    return f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})"
