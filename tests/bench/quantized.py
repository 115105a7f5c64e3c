"""QDQ files for the end-to-end benchmark, written once by onnxruntime.quantization and kept in the zoo's cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import zoo

VARIANTS = ("7bit", "full")


class _Reader:
    def __init__(self, name: str, samples: int) -> None:
        self.feeds = iter([zoo.feeds(name, seed) for seed in range(samples)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantized(name: str, variant: str = "7bit", *, samples: int = 2) -> Path:
    """The zoo's model in QDQ form: u8 activations, s8 weights per channel, of 7 bits or the full range.

    Raises FileNotFoundError where the zoo lacks the model.
    """
    source = zoo.path(name)
    if source is None:
        raise FileNotFoundError(f"{name} is not in {zoo.cache()}: run python -m tests.zoo")
    target = zoo.cache() / "quantized" / f"{name}-{variant}.onnx"
    if target.is_file():
        return target
    from onnxruntime import quantization as q

    target.parent.mkdir(parents=True, exist_ok=True)
    prepared, beside = target.with_suffix(".prepared"), target.with_suffix(".part")
    prepare(source, prepared)
    try:
        q.quantize_static(
            prepared, beside, _Reader(name, samples), quant_format=q.QuantFormat.QDQ, per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, reduce_range=variant == "7bit",
        )  # fmt: skip
        beside.replace(target)
    finally:
        prepared.unlink(missing_ok=True)
    return target


def dynamic(name: str) -> Path:
    """A float model of the cache with its products quantized while running. Raises FileNotFoundError without it."""
    source = zoo.cache() / f"{name}.onnx"
    if not source.is_file():
        raise FileNotFoundError(f"{source.name} is not in {zoo.cache()}: python -m tests.bench.minilm_int8 exports it")
    target = zoo.cache() / "quantized" / f"{name}-dynamic.onnx"
    if not target.is_file():
        from onnxruntime import quantization as q

        target.parent.mkdir(parents=True, exist_ok=True)
        prepared, beside = target.with_suffix(".prepared"), target.with_suffix(".part")
        prepare(source, prepared)
        q.quantize_dynamic(prepared, beside, per_channel=True, weight_type=q.QuantType.QUInt8)
        prepared.unlink()
        beside.replace(target)
    return target


def prepare(source: Path, target: Path) -> None:
    """Write a model as onnxruntime's quantizer should get it: at opset 13 or later, BatchNormalization folded, Add in
    place of Sum of two, which it does not quantize."""
    import onnx
    import onnxruntime as ort

    model = onnx.load(source)
    if model.opset_import[0].version < 13:
        model.CopyFrom(onnx.version_converter.convert_version(model, 13))
    for node in model.graph.node:
        if node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"
    onnx.save(model, target)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(target)
    settings.log_severity_level = 3
    ort.InferenceSession(str(target), settings, providers=["CPUExecutionProvider"])
