"""Sessions of onnxruntime on the CPU: the one place that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""The entry that says where external weights of a model given as bytes lie."""


def session_options(
    *, threads: int | None = 1, optimize: bool = True, folder: str = "", entries: Mapping[str, str] | None = None
) -> Any:
    """Quiet `onnxruntime.SessionOptions`.

    threads: within an operator; 0 for all cores, None for onnxruntime's own choice. folder: where external weights of a
    model given as bytes lie. entries: further configuration.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if threads is not None:
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    if folder:
        settings.add_session_config_entry(EXTERNAL_FOLDER, folder)
    for key, value in (entries or {}).items():
        settings.add_session_config_entry(key, value)
    return settings


def open_session(source: str | bytes, settings: Any) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU from a path or a serialized model."""
    import onnxruntime

    return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
