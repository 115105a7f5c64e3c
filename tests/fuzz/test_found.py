"""Failures that the fuzz found, each shrunk to a few nodes; none of them comes back."""

import pytest

from graphopt.passes import SCHEDULE
from tests.passes.harness import parse

from .trial import attempt

FOUND = {
    "a size with two axes put in is no vector": """
        g (float[2,6] x) => (int64 n, int64[1] y) <int64 i = {0}, int64[2] a = {0,1}, int64[1] b = {0}>
        { s = Shape(x) n = Gather(s, i) u = Unsqueeze(n, a) y = Squeeze(u, b) }""",
    "a size with three axes put in": """
        g (float[N,3,5,4] x) => (int64[1,1,1] y) <int64 i = {2}, int64[2] a = {-2,-1}, int64[1] b = {0}>
        { s = Shape(x) n = Gather(s, i) u = Unsqueeze(n, a) y = Unsqueeze(u, b) }""",
    "FastGelu takes no scalars": """
        g (float x) => (float y) <float three = {3}, float k = {0.044715}, float r = {0.7978845}, float one = {1},
                                  float half = {0.5}>
        { p = Pow(x, three) m = Mul(p, k) a = Add(x, m) c = Mul(a, r) t = Tanh(c) d = Add(t, one) e = Mul(x, d)
          y = Mul(e, half) }""",
    "slices of a slice that becomes part of a Split": """
        g (float[2,4] x) => (float[2,2] b, float[2,1] c, float[2,1] d)
          <int64[1] o = {0}, int64[1] i = {1}, int64[1] t = {2}, int64[1] e = {9}>
        { a = Slice(x, o, t, i) b = Slice(x, t, e, i) c = Slice(a, o, i, i) d = Slice(a, i, e, i) }""",
    "a scalar that its square makes a vector has no axis to normalise": """
        <ir_version: 11, opset_import: ["" : 23]>
        g (float x) => (float y) <float[1] two = {2}, int64[1] last = {-1}, float eps = {0.00001}>
        { p = Pow(x, two) m = ReduceMean<keepdims = 0>(p, last) a = Add(eps, m) r = Sqrt(a) y = Div(x, r) }""",
    "a factor before a Conv that takes masked numbers to infinity": """
        g (float[1,2,3,3] x, bool[1,2,3,3] mask) => (float[1,2,3,3] y)
          <float lowest = {-3.4028235e38}, float k = {0.8559}, float[2,2,1,1] w = {0.1, 0.2, 0.3, 0.1}>
        { m = Where(mask, lowest, x) d = Div(m, k) y = Conv(d, w) }""",
    "a logarithm whose NaN MaxPool passes over for the zeros around it": """
        g (float[1,64,2] x) => (float[1,64,2] y) <int64[6] p = {0, 0, 1, 0, 0, 1}, float zero = {0}>
        { l = Log(x) r = Relu(l) q = Pad(r, p, zero) y = MaxPool<kernel_shape = [3]>(q) }""",
    "products in a row, the first of which takes moved masks to infinity": """
        g (float[2,3] x, bool[2,3] mask) => (float[3,2] y)
          <float lowest = {-3.4028235e38}, float a = {8}, float b = {0.1}>
        { m = Where(mask, lowest, x) t = Transpose(m) p = Mul(t, a) y = Mul(p, b) }""",
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_stays_mended(name, target):
    for opset in (13, 17):
        trial = attempt(parse(FOUND[name], opset), SCHEDULE, target)
        assert trial.status == "equal", trial.reason
