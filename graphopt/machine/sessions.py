"""The only place that opens onnxruntime sessions, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, one_line

if TYPE_CHECKING:
    import onnxruntime

_IN_PLACE = "session.use_external_initializer_file_buffers_directly"
"""The configuration entry with which external files that are given as arrays are read in place, not copied."""
IN_PLACE_SINCE = (1, 32)
"""The version of onnxruntime that knows the entry; earlier ones ignore it without a word."""
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""The configuration entry that names the folder of external weights for a model given as bytes."""
LARGE = 1 << 30
"""Bytes of weights, 1 GiB, from which a model is large: its weights stay in mapped files, and no session packs or
converts copies of them. Half of protobuf's limit, so that copies of smaller models fit."""


FOLDING = ("ConstantFolding",)
"""The optimizer of onnxruntime that computes constants at loading; without it, weights in half precision are converted
node by node as they are read, and no copies are kept."""
CONVOLUTIONS = ("NchwcTransformer", "ConvBNFusion", "ConvMulFusion")
"""The optimizers of onnxruntime that store weights of convolutions anew: in blocks of channels, or scaled. Two copies
of all such weights are in memory for a while, and one as long as the session."""

PACKED = 5 << 28
"""Bytes of weights that a session of a large model may pack, a copy in memory: 1.25 GiB, so that the total stays below
2 GB. What needs more packed weights runs in pieces (`onnx_io.pieces`)."""
DISABLE_PACKING = "session.disable_prepacking"
"""The configuration entry with which a session keeps no packed copies of weights."""
PACKED_BESIDE = 1 << 29
"""Bytes of weights, 512 MiB, above which sessions that judge or calibrate pack none: a packed copy and codes of 8 bits,
1.5 times as much, exceed 1 GB. `python -m tests.bench.bounds --kinds products --forms weights int3`."""


ASLEEP = {"session.intra_op.allow_spinning": "0"}
"""A configuration in which threads of a session sleep while they wait: sessions that only judge or calibrate are too
many and too short for threads that spin. Dynamic quantization of MiniLM takes 16.3 s of two busy cores in place of
21.7: `python -m tests.bench.minilm_int8`."""


def packing(packs: bool) -> dict[str, str]:
    """The configuration entries of a session that packs weights, or of one that keeps no packed copies."""
    return {} if packs else {DISABLE_PACKING: "1"}


def session_options(
    *, threads: int | None = 1, optimize: bool = True, folder: str = "", entries: Mapping[str, str] | None = None
) -> onnxruntime.SessionOptions:
    """Options of a session that logs nothing.

    threads: within an operator; 0 for all cores, None for onnxruntime's default, also between operators. optimize: all
    of onnxruntime's graph optimizations or none. folder: of the external weights of a model given as bytes. entries:
    further configuration entries.
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


def spare_memory(settings: onnxruntime.SessionOptions, weights: int, halves: int = 0) -> None:
    """Configure a session of a large model: no packing of more than `PACKED` bytes, no memory kept between runs.

    weights: bytes of all weights. halves: bytes of weights in half precision, which onnxruntime's optimizations copy to
    float32 at loading, even without folding; without optimizations a weight is converted when it is read.
    """
    import onnxruntime

    if halves > PACKED // 4:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights > PACKED:
        settings.add_session_config_entry(DISABLE_PACKING, "1")
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # each DequantizeLinear before its reader


def borrow(
    settings: onnxruntime.SessionOptions, weights: Mapping[str, npt.NDArray[Any]], location: str | None
) -> object:
    """Let a session read external weights from these arrays. The result must live as long as the session.

    location: the weights' locations are this text and their names, and no other data are external: onnxruntime then
    reads the arrays where they lie, else it copies them.
    """
    import onnxruntime

    known = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= IN_PLACE_SINCE
    if location is not None and weights and known:
        settings.add_session_config_entry(_IN_PLACE, "1")
        buffers = {location + name: array.reshape(-1).view(np.uint8) for name, array in weights.items()}
        sizes = [buffer.nbytes for buffer in buffers.values()]
        settings.add_external_initializers_from_files_in_memory([*buffers], [*buffers.values()], sizes)
        return buffers
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
    if values:
        settings.add_external_initializers([*values], [*values.values()])
    return values


def open_session(
    source: str | bytes, settings: onnxruntime.SessionOptions, *, without: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    """A session on the CPU from the path of a model or its serialized bytes. ModelError if it cannot be opened.

    without: onnxruntime's optimizers to leave out, such as `FOLDING`.
    """
    import onnxruntime

    more = {"disabled_optimizers": [*without]} if without else {}
    try:
        return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"], **more)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"onnxruntime cannot load the model: {one_line(error)}") from error


def open_as_optimized(source: str | bytes, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """`open_session` with all of onnxruntime's graph optimizations, else with its basic ones, else with none.

    Some valid models need the fallbacks: onnxruntime 1.32 inserts a QuantizeLinear with a zero point of another type
    behind a MaxPool of dequantized int8 from opset 21 on. ModelError, the first attempt's, if all fail.
    """
    import onnxruntime

    level, refused = onnxruntime.GraphOptimizationLevel, None
    for settings.graph_optimization_level in (level.ORT_ENABLE_ALL, level.ORT_ENABLE_BASIC, level.ORT_DISABLE_ALL):
        try:
            return open_session(source, settings)
        except ModelError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def is_refusal(error: Exception) -> bool:
    """Whether onnxruntime could not load or run a model."""
    return isinstance(error, ModelError) or type(error).__module__.startswith("onnxruntime.")
