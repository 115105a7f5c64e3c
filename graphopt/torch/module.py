"""The module that runs a model: parameters under the names of initializers, and the steps of its graph."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import Declined, InputError, Unsupported
from ..gradient.prepare import prepare
from ..gradient.weights import learnt_weights
from ..ir import Constant, DType, Model, TensorType, clone_model
from ..onnx_io import load
from .arrays import to_array, to_tensor
from .program import Compiler, Values

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource


class OnnxModule(torch.nn.Module):
    """An ONNX model as a module, built by `graphopt.torch.to_module`."""

    def __init__(self, source: ModelSource | Model) -> None:
        super().__init__()
        original = clone_model(source) if isinstance(source, Model) else load(source, infer=False)
        kept = {v.name for n in original.graph.walk() for v in n.inputs if v is not None and v.name}
        model = prepare(original)
        compiler = Compiler()
        self.program = compiler.program(model.graph)
        self.input_names = tuple(v.name for v in model.graph.inputs if v.default is None)
        """The inputs without a default, in their order."""
        self.output_names = tuple(port.name for port in model.graph.ports)
        self.input_types = [v.type for v in model.graph.inputs if v.default is None]
        self._fed = [i for i, v in zip(self.program.inputs, model.graph.inputs) if v.default is None]
        self._replaceable = {
            v.name: i for i, v in zip(self.program.inputs, model.graph.inputs) if v.default is not None
        }
        self.output_types = [v.type for v in model.graph.outputs]
        learnt = learnt_weights(model)
        self._places: dict[int, tuple[Any, str]] = {}
        self._untouched: dict[str, bytes] = {}
        taken: set[str] = set()
        for number, value in compiler.constants.items():
            tensor = value.constant if value.constant is not None else value.default
            assert tensor is not None
            made, name = _held(tensor, value.name), value.name
            named = bool(name) and name in kept and name not in taken
            if named:
                taken.add(name)
                self._untouched[name] = digest(made)
            store, key = self._store(name if named else f"constant.{number}")
            if named and name in learnt:
                store._parameters[key] = torch.nn.Parameter(made)
            else:
                store._buffers[key] = made
                if not named:
                    store._non_persistent_buffers_set.add(key)
            self._places[number] = (store, key)

    def _store(self, name: str) -> tuple[Any, str]:
        """The submodule for a dotted name, and the name in it. Bypasses `register_parameter`, which refuses empty names
        and names of module attributes: ONNX has both."""
        *folders, last = name.split(".")
        store: Any = self
        for folder in folders:
            store = store._modules.setdefault(folder, torch.nn.Module())
        return store, last

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The output, or a tuple of several, for the inputs in order or by name; inputs with a default, such as
        weights, may be given by name."""
        given = dict(zip(self.input_names, arguments), **named)
        unknown = [name for name in given if name not in self.input_names and name not in self._replaceable]
        if unknown or len(arguments) > len(self.input_names):
            raise InputError(f"the model has inputs {', '.join(self.input_names)}, got {', '.join(given)}")
        made = self.results(given)
        return made[0] if len(made) == 1 else tuple(made)

    def results(self, given: dict[str, Any]) -> list[Any]:
        """All outputs for inputs by name. InputError for a missing input."""
        values: Values = {}
        device = None
        for number, (store, key) in self._places.items():
            tensor = store._parameters.get(key)
            values[number] = store._buffers[key] if tensor is None else tensor
            device = values[number].device if device is None else device
        for number, name, kind in zip(self._fed, self.input_names, self.input_types):
            if name not in given:
                raise InputError(f"input {name!r} is missing; the model has {', '.join(self.input_names)}")
            values[number] = _as_tensor(given[name], kind, device)
        for name, number in self._replaceable.items():
            if name in given:
                values[number] = _as_tensor(given[name], None, device)
        made = self.program.run(values, [values[i] for i in self.program.inputs])
        return [_in_type(t, kind) for t, kind in zip(made, self.output_types)]


def _held(constant: Constant, name: str) -> Any:
    """A constant as a tensor. Unsupported where torch lacks its element type."""
    try:
        return to_tensor(constant)
    except Declined as declined:
        raise Unsupported(f"torch does not hold {name!r}: {declined.reason}") from declined


def digest(tensor: Any) -> bytes:
    """A fingerprint of a tensor's elements, by which `from_module` detects trained tensors."""
    return hashlib.blake2b(np.ascontiguousarray(to_array(tensor)).tobytes(), digest_size=16).digest()


def _as_tensor(value: Any, kind: Any, device: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_tensor(v, kind, device) for v in value]
    if isinstance(value, np.ndarray):
        value = _held(Constant.of(value), "a feed")
    return value if device is None or not isinstance(value, torch.Tensor) else value.to(device)


def _in_type(made: Any, kind: Any) -> Any:
    """A result in its declared type: codes of fake quantization are floats in the module, so that they have
    gradients."""
    if isinstance(made, torch.Tensor) and isinstance(kind, TensorType) and kind.dtype.is_integer:
        wanted = getattr(torch, kind.dtype.name.lower(), None)
        if made.is_floating_point() and wanted is not None and kind.dtype is not DType.BOOL:
            return made.to(wanted)
    return made
