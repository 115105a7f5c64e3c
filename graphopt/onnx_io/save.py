"""Write a model to disk."""
from __future__ import annotations

import os
from pathlib import Path

import onnx

from ..errors import OutputError
from ..ir import Model
from .emit import to_proto


def save(model: Model | onnx.ModelProto, path: str | Path, *, external: bool | None = None) -> None:
    """Write the model."""
    proto = to_proto(model) if isinstance(model, Model) else model
    path = os.fspath(path)
    try:
        with open(path + ".tmp", "wb") as file:
            file.write(proto.SerializeToString(deterministic=True))
        os.replace(path + ".tmp", path)
    except OSError as error:
        raise OutputError(f"{path!r} cannot be written: {error.strerror}") from error
