"""Fields of a file without a place in the IR: kept in `raw` of its objects, and written back by emission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir import Array, Constant

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class NodeExtras:
    """Doc strings of attributes, device placement, and an operator name that contains `::`."""

    operator: tuple[str, str] | None = None  # domain, op_type
    docs: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[onnx.NodeDeviceConfigurationProto, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphExtras:
    """Quantization annotations, constants that only they name, and types beyond the IR's fields (by value name)."""

    annotations: tuple[onnx.TensorAnnotation, ...] = ()
    pinned: Mapping[str, Constant] = field(default_factory=dict)
    types: Mapping[str, onnx.TypeProto] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FunctionExtras:
    """The attributes a function declares: names without default, and defaults."""

    attributes: tuple[str, ...] = ()
    defaults: tuple[onnx.AttributeProto, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelExtras:
    """Training and device sections, the source file, and (IR version < 4) the order in which inputs were listed.

    proto: the lifted model, whose tensors the constants read; not to be edited. lent: its large weights, by name, if
    the proto only describes them.
    """

    training: tuple[onnx.TrainingInfoProto, ...] = ()
    devices: tuple[onnx.DeviceConfigurationProto, ...] = ()
    path: str = ""
    inputs: tuple[str, ...] = ()
    proto: onnx.ModelProto | None = field(default=None, repr=False, compare=False)
    lent: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
