"""ONNX's schemas of operators: versions, attribute defaults, determinism. onnx is imported at the first call."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, did_you_mean
from ..ir import Constant, Node
from .contrib import DEFAULT_DOMAIN

if TYPE_CHECKING:
    import onnx

RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)
"""Dropout is random in training mode only, which `is_deterministic` checks."""


@lru_cache(maxsize=4096)
def schema_of(op: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema of a qualified operator name at an operator-set version; None if ONNX does not define it."""
    import onnx

    domain, _, name = op.rpartition("::")
    try:
        return onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def check_operator(op: str) -> None:
    """OptionError with the nearest name for an operator of ONNX's own domain that no version of ONNX defines."""
    import onnx

    if "::" in op or op in DEFAULT_DOMAIN or onnx.defs.has(op):
        return
    known = {s.name for s in onnx.defs.get_all_schemas() if not s.domain}
    raise OptionError(f"ONNX has no operator {op}{did_you_mean(op, known)}; other domains are written ns::{op}")


def schema(node: Node, opsets: Mapping[str, int] | None = None) -> onnx.defs.OpSchema | None:
    """The schema of a node's operator at its opset; `opsets`: the graph's by default."""
    version = version_for(node, opsets)
    return schema_of(node.op, version) if version else None


def version_for(node: Node, opsets: Mapping[str, int] | None = None) -> int:
    """The operator-set version a node is written in; 0 if its domain is not imported."""
    if opsets is None:
        opsets = {} if node.graph is None else node.graph.opsets
    return opsets.get(node.domain, 0)


def attr(node: Node, name: str, default: Any = None) -> Any:
    """An attribute's value, else the schema's default, else `default`."""
    if name in node.attrs:
        return node.attrs[name]
    declared = _default(node.op, version_for(node), name)
    return default if declared is None else declared


@lru_cache(maxsize=4096)
def _default(op: str, version: int, name: str) -> Any:
    import onnx

    known = schema_of(op, version) if version else None
    declared = None if known is None else known.attributes.get(name)
    if declared is None or not declared.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return Constant.of(onnx.numpy_helper.to_array(value))
    return tuple(value) if isinstance(value, list) else value


def is_deterministic(node: Node) -> bool:
    """Whether equal inputs give equal outputs, without side effects. False for operators without a schema."""
    if node.op in RANDOM:
        return node.op == "Dropout" and not _in_training(node)
    if schema(node) is None:
        return False
    return all(is_deterministic(inner) for nested in node.subgraphs for inner in nested.walk())


def _in_training(node: Node) -> bool:
    if version_for(node) < 7:
        return not attr(node, "is_test", 0)
    if version_for(node) < 12:
        return False
    flag = node.input(2)
    return flag is not None and (flag.constant is None or bool(flag.constant.array()))
