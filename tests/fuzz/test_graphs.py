"""The random graphs themselves: valid, run by onnxruntime, the same for the same seed, and as varied as promised."""

from collections import Counter

import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings

from graphopt.ir import DType
from graphopt.testing import graphs, random_graph, shrink

ort_options = onnxruntime.SessionOptions()
ort_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
ort_options.log_severity_level = 4


def load(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnxruntime.InferenceSession(model.SerializeToString(), ort_options, providers=["CPUExecutionProvider"])


@settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_strategy_makes_models_that_load(model):
    load(model)


def test_a_seed_stands_for_one_model():
    assert random_graph(7).SerializeToString() == random_graph(7).SerializeToString()
    assert random_graph(7).SerializeToString() != random_graph(8).SerializeToString()


def test_seeds_cover_operators_types_opsets_and_nesting():
    operators, dtypes, opsets = Counter(), set(), set()
    symbolic = several = caches = 0
    for seed in range(200):
        model = random_graph(seed)
        load(model)
        inferred = onnx.shape_inference.infer_shapes(model)
        operators.update(node.op_type for node in model.graph.node)
        dtypes |= {DType(v.type.tensor_type.elem_type) for v in (*inferred.graph.value_info, *model.graph.input)}
        opsets.add(model.opset_import[0].version)
        symbolic += any(d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim)
        several += len(model.graph.output) > 1
        caches += any(v.name.startswith("past_keys") for v in model.graph.input)
    assert len(operators) >= 70, len(operators)
    assert {"If", "Loop", "Conv", "BatchNormalization", "Shape", "QuantizeLinear", "Where", "Split"} <= set(operators)
    assert {DType.FLOAT, DType.FLOAT16, DType.DOUBLE, DType.INT64, DType.INT32, DType.BOOL, DType.UINT8} <= dtypes
    assert opsets == set(range(11, 25))
    assert symbolic > 60 and several > 60 and caches > 5


def test_shrink_leaves_what_fails():
    model = next(m for m in map(random_graph, range(100)) if "Softmax" in {n.op_type for n in m.graph.node})
    small = shrink(model, lambda piece: any(n.op_type == "Softmax" for n in piece.graph.node))
    assert [n.op_type for n in small.graph.node] == ["Softmax"]
    load(small)
    with pytest.raises(ValueError, match="does not fail"):
        shrink(model, lambda piece: False)
