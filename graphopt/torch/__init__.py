"""A bridge to PyTorch (the extra `train`): ONNX models as modules, and trained modules back into their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import OptionError

if TYPE_CHECKING:
    import onnx

    from ..ir import Model
    from ..onnx_io.source import ModelSource

__all__ = ["TorchSession", "from_module", "to_module"]


def to_module(model: ModelSource | Model) -> Any:
    """The model as a `torch.nn.Module`, whose Parameters have the names of its initializers.

    Weights, biases, scales and embeddings are Parameters, all other named float constants (statistics of
    BatchNormalization, say) buffers. `forward` takes the inputs in their order or by name, and returns the output, or
    a tuple of several. It runs each node by a table of operators: `graphopt.torch.operators.OPERATORS`.

    ModelError for an operator that the table lacks, naming it and its node; OptionError without torch.
    """
    _require()
    from .module import OnnxModule

    return OnnxModule(model)


def from_module(module: Any, model: ModelSource | Model) -> onnx.ModelProto:
    """The model with the weights of a module that `to_module` built from it, or from a model with the same names.

    All else is unchanged: names, metadata, external data, and the bytes of each unchanged tensor. A changed tensor of
    external data is stored in the returned model itself. Weights in another precision are rounded to the file's.

    InputError where a changed tensor is missing in the model, or has another shape.
    """
    _require()
    from .weights import written_back

    return written_back(module, model)


def TorchSession(model: ModelSource | Model) -> Any:
    """The model run by torch, with the interface of onnxruntime's sessions: `run(names, feeds)`, `get_inputs()`,
    `get_outputs()`."""
    _require()
    from .session import Session

    return Session(model)


def _require() -> None:
    """OptionError in one line where torch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise OptionError("graphopt.torch needs PyTorch: pip install 'graphopt[train]'") from error
