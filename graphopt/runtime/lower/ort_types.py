"""Types inferred by onnxruntime, for results of its own operators, of which ONNX's shape inference has no schema."""

from __future__ import annotations

from ...ir import DType, Model, TensorType, Value
from ...machine.sessions import open_session, session_options

_FROM_ORT = {
    "float": DType.FLOAT, "double": DType.DOUBLE, "float16": DType.FLOAT16, "bfloat16": DType.BFLOAT16,
    "string": DType.STRING, "bool": DType.BOOL, **{d.name.lower(): d for d in DType if d.is_integer},
}  # fmt: skip
ORT_NAMES = {dtype: name for name, dtype in _FROM_ORT.items()}
"""onnxruntime's names of element types."""


def add_types_from_ort(model: Model) -> None:
    """Set the missing types of the model's values as onnxruntime infers them; others stay unknown.

    Costs one session without optimizations, or nothing where all types are known.
    """
    if not any(value.type is None for node in model.graph for value in node.outputs):
        return
    import onnx

    from ...onnx_io.emit import Emitter

    emitter = Emitter(model)
    proto = emitter.model()
    unknown = {name: value for name, value in emitter.values.items() if _is_unknown(value, model)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown)
    try:
        session = open_session(proto.SerializeToString(), session_options(optimize=False, folder=model.folder))
    except Exception:  # onnxruntime raises its own classes; the Session reports it when it opens the model
        return
    for output in session.get_outputs():
        inferred = _type(output.type, output.shape)
        if output.name in unknown and inferred is not None:
            unknown[output.name].type = inferred


def _is_unknown(value: Value, model: Model) -> bool:
    producer = value.producer
    return value.type is None and producer is not None and producer.graph is model.graph


def _type(kind: str, shape: list[int | str | None]) -> TensorType | None:
    """The tensor type, named sizes open; no rank for an empty shape: onnxruntime writes scalars and unknowns alike."""
    dtype = _FROM_ORT.get(kind.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        return None
    return TensorType(dtype, tuple(d if isinstance(d, int) else None for d in shape) if shape else None)
