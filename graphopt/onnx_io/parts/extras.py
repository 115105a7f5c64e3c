"""Fields of a file that the IR has no place for: kept in `raw` of its objects, written back when emitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir import Array, Constant

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class NodeExtras:
    """Doc strings of attributes, device placement, and an operator's name that contains `::` itself."""

    operator: tuple[str, str] | None = None  # domain, op_type
    docs: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[onnx.NodeDeviceConfigurationProto, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphExtras:
    """Quantization annotations, the constants only they name, and types with more than the IR keeps (by value name)."""

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

    proto: the model that was lifted, whose tensors the constants are; not to be edited. lent: its large weights, by
    name, where the proto only describes them.
    """

    training: tuple[onnx.TrainingInfoProto, ...] = ()
    devices: tuple[onnx.DeviceConfigurationProto, ...] = ()
    path: str = ""
    inputs: tuple[str, ...] = ()
    proto: onnx.ModelProto | None = field(default=None, repr=False, compare=False)
    lent: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
