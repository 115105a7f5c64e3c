"""Networks as `onnxruntime.quantization` writes them: QDQ, QOperator, dynamic, and weights in blocks."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..trial import Feeds
from .feeds import feeds_of
from .whole import network


class _Reader:
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def quantized(seed: int) -> onnx.ModelProto:
    """The network of a seed as a quantizer writes it; as it is where that quantizer fails."""
    from onnxruntime import quantization as q

    model, rng = network(seed), np.random.default_rng(seed + 1)
    form = str(rng.choice(["float", "qdq", "qdq", "qdq", "operator", "dynamic", "dynamic", "blocks"]))
    if form == "float":
        return model

    def one(*items: Any) -> Any:
        return items[int(rng.integers(len(items)))]

    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, path = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
            onnx.save(onnx.shape_inference.infer_shapes(model), source)
            per_channel, reduce = bool(one(True, False)), bool(one(False, False, True))
            kind = one(q.QuantType.QInt8, q.QuantType.QInt8, q.QuantType.QUInt8)
            if form == "dynamic":
                q.quantize_dynamic(source, path, per_channel=per_channel, reduce_range=reduce, weight_type=kind)
            elif form == "blocks":
                return _in_blocks(source, one(4, 8), one(16, 32), bool(one(True, False)), one(False, True))
            else:
                active = one(q.QuantType.QUInt8, q.QuantType.QInt8)
                more = {"ActivationSymmetric": True} if rng.random() < 0.2 else {}
                if form == "qdq" and rng.random() < 0.2:
                    more["DedicatedQDQPair"] = True
                form_of = q.QuantFormat.QDQ if form == "qdq" else q.QuantFormat.QOperator
                if active == q.QuantType.QInt8:
                    kind = q.QuantType.QInt8
                q.quantize_static(
                    source, path, _Reader(feeds_of(model, seed)), quant_format=form_of, per_channel=per_channel,
                    reduce_range=reduce, activation_type=active, weight_type=kind, extra_options=more,
                )  # fmt: skip
            return onnx.load(path)
    except Exception:  # a quantizer need not take every network
        return model
    finally:
        logging.disable(logging.NOTSET)


def _in_blocks(source: Path, bits: int, block: int, symmetric: bool, qdq: bool) -> onnx.ModelProto:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    form = q.QuantFormat.QDQ if qdq and bits == 4 else q.QuantFormat.QOperator
    made = MatMulNBitsQuantizer(onnx.load(source), bits, block, symmetric, accuracy_level=4, quant_format=form)
    made.process()
    return made.model.model
