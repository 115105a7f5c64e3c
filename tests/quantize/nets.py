"""Small networks for quantization, as ONNX text with weights drawn by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper


def parse(text: str, seed: int = 0, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text; what is declared in value_info and not computed becomes a weight, drawn or given."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    made = {name for node in model.graph.node for name in node.output}
    infos = list(model.graph.value_info)
    del model.graph.value_info[:]
    for info in infos:
        if info.name in made:
            model.graph.value_info.append(info)
            continue
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        fan = max(1, int(np.prod(shape[1:])))
        array = weights.get(info.name)
        if array is None:
            array = rng.standard_normal(shape) * (np.sqrt(2 / fan) if len(shape) > 1 else 0.1)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), info.name))
    onnx.checker.check_model(model, full_check=True)
    return model


def convnet(seed: int = 0) -> onnx.ModelProto:
    """Convolutions with a residual Add, a Concat, pools and a classifier."""
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,16,16] x) => (float[N,10] y)
        <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,1,3,3] w3, float[8] b3,
         float[8,8,1,1] w4, float[8] b4, float[10,16] w5, float[10] b5>
        {
            c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
            r1 = Relu(c1)
            c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
            a = Add(c2, r1)
            r2 = Relu(a)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
            c3 = Conv<pads=[1,1,1,1], group=8>(p, w3, b3)
            r3 = Relu(c3)
            c4 = Conv(r3, w4, b4)
            j = Concat<axis=1>(c4, p)
            g = GlobalAveragePool(j)
            f = Flatten(g)
            y = Gemm<transB=1>(f, w5, b5)
        }""",
        seed,
    )


def images(count: int, seed: int = 0, channels: int = 3, size: int = 16) -> list[dict[str, np.ndarray]]:
    """Smooth random images, one a sample."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, channels, size // 4, size // 4))
    fine = np.kron(coarse, np.ones((1, 1, 4, 4))) + 0.1 * rng.standard_normal((count, channels, size, size))
    return [{"x": image[None].astype(np.float32)} for image in fine]
