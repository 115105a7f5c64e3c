"""A part of a model that cannot be verified does not cost the rest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.measure import ort_session

BEFORE = """c = Conv(x, w)
  n = BatchNormalization(c, s, b, m, v)
  i = Identity(n)
  r = Relu(i)"""
AMPLIFIED = "\n".join(
    ["a0 = Mul(r, tiny)", *(f"s{k} = Mul(a{k}, huge)\n a{k + 1} = Sin(s{k})" for k in range(4)), "t = Identity(a4)"]
)
BEHIND = {
    "an operator that nobody knows": "t = my.Mystery <level = 3> (r)",
    "results that are noise": AMPLIFIED,
    "an operator that nobody knows, in a branch": """b0 = ReduceMax <keepdims = 0> (r)
  yes = Greater(b0, zero)
  t = If (yes) <
    then_branch = g () => (float[1,4,6,6] one) { one = my.Mystery(r) },
    else_branch = h () => (float[1,4,6,6] two) { two = Identity(r) } >""",
}


def model(behind: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        m (float[1,3,6,6] x) => (float[1,4,6,6] t, float[1,4,6,6] u) {{
          {BEFORE}
          {behind}
          k = Identity(r)
          u = Neg(k) }}""")
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((4, 3, 1, 1)), "s": rng.random(4) + 0.5, "b": rng.standard_normal(4),
        "m": rng.standard_normal(4), "v": rng.random(4) + 0.5, "tiny": np.array(1.0), "huge": np.array(1e5),
        "zero": np.array(0.0),
    }  # fmt: skip
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items() if name in used
    )
    return proto


@pytest.mark.parametrize("behind", BEHIND)
def test_what_lies_before_is_optimised(behind):
    original = model(BEHIND[behind])
    result = graphopt.optimize(original)
    report, ops = result.report, [node.op_type for node in result.model.graph.node]
    assert report.status == "equal" and "stay as they were" in report.reason
    assert "BatchNormalization" not in ops and report.comparison.is_equal
    if behind != "results that are noise":
        assert "; 1 of " in report.reason
    onnx.checker.check_model(result.model)
    assert [o.name for o in result.model.graph.output] == ["t", "u"]
    if behind == "results that are noise":  # each node of the tail is there, in its order, with its weights
        assert ops.count("Sin") == 4 and ops.count("Mul") >= 3
        feed = {"x": np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)}
        before, after = (ort_session(m.SerializeToString()).run(None, feed) for m in (original, result.model))
        assert np.allclose(before[1], after[1], atol=1e-5)


def test_a_result_that_the_front_folds_is_read_behind_it():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        m (float[4] x) => (float[4] t) <float[4] c = {1, 2, 3, 4}> {
          a = Add(c, c)
          b = Identity(x)
          n = Neg(x)
          d = Identity(n)
          t = my.Mystery(a, b, d) }""")
    result = graphopt.optimize(proto)
    negation, node = result.model.graph.node
    folded = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in result.model.graph.initializer}
    assert (negation.op_type, node.op_type, node.input[1], node.input[2]) == ("Neg", "Mystery", "x", negation.output[0])
    assert folded[node.input[0]] == [2, 4, 6, 8] and result.report.status == "equal"


def test_nothing_before_the_part_leaves_it_unverified():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        m (float[4] x) => (float[4] t) { a = my.Mystery(x)
          b = Identity(a)
          t = Neg(b) }""")
    result = graphopt.optimize(proto)
    assert result.report.is_unverified
    assert [node.op_type for node in result.model.graph.node] == ["Mystery", "Identity", "Neg"]
