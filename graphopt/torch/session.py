"""A model run by torch with the interface of an onnxruntime session: a second runtime to compare results with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..ir import Model, TensorType, Type
from .arrays import to_array
from .module import OnnxModule

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output. type: as onnxruntime writes it, `tensor(float)` say; "" where it is unknown or no tensor."""

    name: str
    type: str = ""


def _port(name: str, kind: Type | None) -> Port:
    return Port(name, f"tensor({kind.dtype.name.lower()})" if isinstance(kind, TensorType) else "")


class Session:
    """Runs a model in torch without gradients; results are arrays."""

    def __init__(self, model: ModelSource | Model) -> None:
        self.module = OnnxModule(model).eval()

    def get_inputs(self) -> list[Port]:
        """The inputs that a caller must feed."""
        return list(map(_port, self.module.input_names, self.module.input_types))

    def get_outputs(self) -> list[Port]:
        """The outputs."""
        return list(map(_port, self.module.output_names, self.module.output_types))

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The named outputs, by default all. InputError for a name that the model does not have."""
        with torch.no_grad():
            made = dict(zip(self.module.output_names, self.module.results(dict(feeds))))
        missing = [name for name in names or () if name not in made]
        if missing:
            raise InputError(f"no output {missing[0]!r}; the model has {', '.join(made)}")
        return [to_array(made[name]) for name in names or made]
