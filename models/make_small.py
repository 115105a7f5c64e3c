"""Write transformer_block.onnx and fashion_qdq.onnx beside this file: `python -m models.make_small [--out DIR]`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent
VOCABULARY, POSITIONS, WIDTH, HEADS, HIDDEN, LAYERS = 512, 64, 64, 4, 128, 2
INPUTS = ("input_ids", "attention_mask")


class _Writer:
    """Collects nodes and weights; each value is named after its layer."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.scope = ""

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{self.scope}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        """A Constant node, as exporters write small numbers."""
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        return self.node("Constant", value=tensor)

    def weight(self, name: str, *shape: int, scale: float, around: float = 0.0) -> str:
        values = around + scale * self.rng.standard_normal(shape, np.float32)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), f"{self.scope}.{name}"))
        return f"{self.scope}.{name}"

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """MatMul and Add with the bias first, as torch's exporter writes a Linear over three dimensions."""
        product = self.node("MatMul", x, self.weight(f"{name}.weight", inputs, outputs, scale=inputs**-0.5))
        return self.node("Add", self.weight(f"{name}.bias", outputs, scale=0.1), product)

    def layer_norm(self, x: str, name: str) -> str:
        """Spelled out, as exporters do below opset 17 (Ba et al. 2016)."""
        centred = self.node("Sub", x, self.node("ReduceMean", x, axes=[-1]))
        variance = self.node("ReduceMean", self.node("Pow", centred, self.constant(2.0)), axes=[-1])
        deviation = self.node("Sqrt", self.node("Add", variance, self.constant(1e-12)))
        gain = self.weight(f"{name}.g", WIDTH, scale=0.2, around=1)
        scaled = self.node("Mul", self.node("Div", centred, deviation), gain)
        return self.node("Add", scaled, self.weight(f"{name}.b", WIDTH, scale=0.1))

    def gelu(self, x: str) -> str:
        """x / 2 (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016)."""
        error = self.node("Erf", self.node("Div", x, self.constant(2**0.5)))
        doubled = self.node("Mul", x, self.node("Add", error, self.constant(1.0)))
        return self.node("Mul", doubled, self.constant(0.5))

    def size(self, x: str, axis: int) -> str:
        """One dimension of x as int64[1], by Shape, Gather and Unsqueeze."""
        scalar = self.node("Gather", self.node("Shape", x), self.constant(axis, np.int64), axis=0)
        return self.node("Unsqueeze", scalar, self.constant([0], np.int64))

    def reshape(self, x: str, *sizes: int) -> str:
        """To (batch, sequence, *sizes), both read from x."""
        rest = [self.constant([size], np.int64) for size in sizes]
        return self.node("Reshape", x, self.node("Concat", self.size(x, 0), self.size(x, 1), *rest, axis=0))


def transformer(seed: int = 0) -> onnx.ModelProto:
    """A BERT-like encoder of two layers (Devlin et al. 2019) with random weights, spelled as exporters do, opset 17.

    input_ids and attention_mask int64[batch,sequence] (ids below 512, length up to 64) to f32[batch,sequence,64].
    """
    writer = _Writer(seed)
    node = writer.node
    writer.scope = "embeddings"
    tokens = node("Gather", writer.weight("token", VOCABULARY, WIDTH, scale=1), "input_ids")
    table = writer.weight("position", POSITIONS, WIDTH, scale=0.5)
    start, axis = writer.constant([0], np.int64), writer.constant([0], np.int64)
    x = writer.layer_norm(node("Add", tokens, node("Slice", table, start, writer.size("input_ids", 1), axis)), "norm")
    wide = node("Unsqueeze", "attention_mask", writer.constant([1, 2], np.int64))
    absent = node("Sub", writer.constant(1.0), node("Cast", wide, to=TensorProto.FLOAT))
    mask = node("Mul", absent, writer.constant(-10_000.0))
    for layer in range(LAYERS):
        x = _encoder_layer(writer, x, mask, f"layer.{layer}")
    writer.nodes[-1].output[0] = "last_hidden_state"
    ports = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in INPUTS]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH])
    graph = helper.make_graph(writer.nodes, "transformer", ports, [output], writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _encoder_layer(writer: _Writer, x: str, mask: str, scope: str) -> str:
    node = writer.node
    writer.scope = scope
    query, key, value = (
        node("Transpose", writer.reshape(writer.linear(x, name, WIDTH, WIDTH), HEADS, WIDTH // HEADS), perm=order)
        for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
    )
    scores = node("Div", node("MatMul", query, key), writer.constant((WIDTH / HEADS) ** 0.5))
    shares = node("Softmax", node("Add", scores, mask), axis=-1)
    context = node("Transpose", node("MatMul", shares, value), perm=[0, 2, 1, 3])
    attended = writer.linear(writer.reshape(context, WIDTH), "output", WIDTH, WIDTH)
    x = writer.layer_norm(node("Add", attended, x), "attention_norm")
    hidden = writer.gelu(writer.linear(x, "up", WIDTH, HIDDEN))
    return writer.layer_norm(node("Add", writer.linear(hidden, "down", HIDDEN, WIDTH), x), "output_norm")


def fashion_qdq(path: Path) -> None:
    """Static int8 QDQ of fashion_cnn.onnx by onnxruntime's own quantizer: per channel, 256 calibration images."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            with np.load(FOLDER / "fashion_calibration.npz") as archive:
                images = archive["image"][:256]
            self.batches: Iterator[dict[str, np.ndarray]] = ({"image": part} for part in np.split(images, 4))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(FOLDER / "fashion_cnn.onnx"), str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    onnx.save(transformer(), args.out / "transformer_block.onnx")
    fashion_qdq(args.out / "fashion_qdq.onnx")


if __name__ == "__main__":
    main()
