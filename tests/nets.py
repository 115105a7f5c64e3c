"""The synthetic networks of models/text, with seeded weights: `load(name, seed)`, `feeds(name, seed, variant)`.

A text declares its weights by name and shape alone; everything declared that no node computes becomes an initializer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from tests.weights import filled, roles

FOLDER = Path(__file__).parent.parent / "models" / "text"
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.onnxtxt")))
SIZES = ({"N": 1, "S": 8}, {"N": 4, "S": 16}, {"N": 3, "S": 7})


def load(name: str, seed: int = 0) -> onnx.ModelProto:
    """The network `name` with He-initialised weights (He et al. 2015) and random BatchNorm statistics; checked."""
    lines = (FOLDER / f"{name}.onnxtxt").read_text().splitlines()
    model = onnx.parser.parse_model("\n".join(line for line in lines if not line.startswith("#")))
    graph = model.graph
    role = roles(graph)
    made = {name for node in graph.node for name in node.output}
    rng = np.random.default_rng(seed)
    weights = [info for info in graph.value_info if info.name not in made]
    others = [info for info in graph.value_info if info.name in made]
    for info in weights:
        shape = tuple(size.dim_value for size in info.type.tensor_type.shape.dim)
        graph.initializer.append(numpy_helper.from_array(filled(rng, role[info.name], shape), info.name))
    del graph.value_info[:]
    graph.value_info.extend(others)
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds(model: onnx.ModelProto, seed: int = 0, variant: int = 0) -> dict[str, np.ndarray]:
    """Inputs for a loaded network; variants 0, 1, 2 give batch and length 1 and 8, 4 and 16, 3 and 7."""
    rng = np.random.default_rng(seed)
    result = {}
    for given in model.graph.input:
        tensor = given.type.tensor_type
        shape = [size.dim_value or SIZES[variant][size.dim_param] for size in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.INT64:
            result[given.name] = np.full(shape, 5)
            continue
        values = rng.standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        result[given.name] = np.where(values > 1, np.float32(-1e4), np.float32(0)) if given.name == "mask" else values
    return result
