"""Loops that run once and functions stand in place; what runs more often, or means something else, stays."""

import numpy as np
import onnx
import onnx.parser
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.passes.control.functions import inline_functions
from graphopt.passes.control.loops import inline_loops
from tests.passes.harness import assert_same, body, lift, ops, parse, rewrite

LOOP = """
g (float[N,4] x) => (float[a,b] y, float[c,d,e] z) <int64 m = {{{trips}}}, bool on = {{{on}}}, float one = {{1.0}},
  float two = {{2.0}}> {{
  s = Sigmoid(x)
  v, z = Loop({limit}, {start}) <body = b (int64 i, bool c, float[f,h] p) => (bool q, float[j,k] r, float[l,n] t) {{
    q = {ends}
    fi = Cast<to = 1>(i)
    u = Add(p, fi)
    r = Add(u, one)
    t = Mul(p, s)
  }}>
  y = Exp(v)
}}"""


def loop(trips=1, on=1, limit="m", start="on", ends="Identity(c)"):
    text = LOOP.format(trips=trips, on=on, limit=limit, start=f"{start}, s", ends=ends)
    return lift(text)


@pytest.mark.parametrize(
    "options", [{}, {"start": ""}, {"limit": "", "ends": "Identity(c)", "trips": 1, "on": 0}, {"trips": 0}]
)
def test_loops_of_one_trip_are_inlined(options):
    before = loop(**options)
    after, changes = rewrite(before, inline_loops)
    never = options.get("trips") == 0 or options.get("on") == 0
    assert changes == (0 if never else 1)  # what a loop collects of no trip is used here
    assert ("Loop" in ops(after)) == never
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("options", [{"trips": 2}, {"trips": 5}])
def test_loops_of_more_trips_stay(options):
    before = loop(**options)
    assert rewrite(before, inline_loops)[1] == 0
    assert_same(before, before)


def test_a_loop_that_never_runs_gives_its_first_values():
    text = """g (float[N,4] x) => (float[a,b] y) <int64 m = {0}, bool on = {1}> {
      s = Sigmoid(x)
      v = Loop(m, on, s) <body = b (int64 i, bool c, float[f,h] p) => (bool q, float[j,k] r) {
        q = Identity(c)
        r = Exp(p) }>
      y = Neg(v) }"""
    before = lift(text)
    after, changes = rewrite(before, inline_loops)
    assert (changes, ops(after)) == (1, ["Sigmoid", "Neg"])
    assert_same(before, after, rtol=0)


FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N,4] x) => (float[a,b] y) {
  s = own.leaky <slope = 0.5> (x)
  t = own.twice (s)
  y = own.leaky (t)
}
<domain: "own", opset_import: ["" : 17]>
leaky <slope: float = 0.25> (a) => (b) {
  k = Constant <value_float: float = @slope> ()
  m = Mul(a, k)
  b = Max(a, m)
}
<domain: "own", opset_import: ["" : OPSET, "own" : 1]>
twice (a) => (b) {
  c = Add(a, a)
  d = own.leaky <slope = 0.125> (c)
  b = ReduceSum <keepdims: int = 1> (d)
}"""


def test_functions_are_inlined_with_their_attributes():
    before = onnx_io.load(parse(FUNCTIONS.replace("OPSET", "17")))
    after, changes = rewrite(before, inline_functions)
    assert changes == 4 and not after.functions
    assert ops(after) == ["Mul", "Max", "Add", "Mul", "Max", "ReduceSum", "Mul", "Max"]
    factors = [float(n.constant(1).array()) for n in after.graph if n.op == "Mul"]
    np.testing.assert_allclose(factors, [0.5, 0.125, 0.25])
    assert_same(before, after)


def test_a_function_of_another_opset_stays_where_an_operator_means_something_else():
    before = onnx_io.load(parse(FUNCTIONS.replace("OPSET", "11")))
    after, changes = rewrite(before, inline_functions)
    assert changes == 2 and "own::twice" in ops(after)


def test_functions_are_inlined_only_when_asked_for():
    proto = parse(FUNCTIONS.replace("OPSET", "17"))
    assert len(graphopt.optimize(proto, validate=False).model.functions) == 2
    result = graphopt.optimize(proto, passes=["inline-functions"])
    assert result.report.status == "equal" and not result.model.functions


def test_text_of_an_inlined_loop():
    assert body(rewrite(loop(), inline_loops)[0]).splitlines() == [
        "%s = Sigmoid(%x)",
        "%q = Identity(@2=b8[](True))",
        "%fi = Cast(@4=i64[](0)) {to=1}",
        "%u = Add(%s, %fi)",
        "%r = Add(%u, @one=f32[](1))",
        "%t = Mul(%s, %s)",
        "%z = Unsqueeze(%t, @10=i64[1](0))",
        "%y = Exp(%r)",
        "return %y, %z",
    ]


def test_text_of_inlined_functions():
    before = onnx_io.load(parse(FUNCTIONS.replace("OPSET", "17")))
    assert body(rewrite(before, inline_functions)[0]).splitlines() == [
        "%m = Mul(%x, @k=f32[](0.5))",
        "%b = Max(%x, %m)",
        "%c = Add(%b, %b)",
        "%m_1 = Mul(%c, @k_1=f32[](0.125))",
        "%b_1 = Max(%c, %m_1)",
        "%b_2 = ReduceSum(%b_1) {keepdims=1}",
        "%m_2 = Mul(%b_2, @k_2=f32[](0.25))",
        "%b_3 = Max(%b_2, %m_2)",
        "return %b_3",
    ]


LOOPS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[3] x) => (float[3] y, float[turns, 3] z)
<int64 n = {TURNS}, int64 one = {1}, bool true = {1}, int64[1] first = {0}>
{
  y, z = Loop (n, true, x) <body = outer (int64 i, bool going, float[3] c) => (bool goes, float[3] d, float[3] r) {
    t = Tanh (c)
    r, s = Loop (one, true, t) <body = inner (int64 j, bool on, float[3] u) => (bool still, float[3] w, float[3] v) {
      a = Add (u, c)
      w = Mul (a, x)
      v = Neg (w)
      still = Identity (on)
    }>
    sum = ReduceSum <keepdims = 0> (s, first)
    d = Add (r, sum)
    goes = Identity (going)
  }>
}
"""


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_loop_that_runs_once_inside_of_another(turns):
    model = onnx.parser.parse_model(LOOPS.replace("TURNS", str(turns)))
    result = graphopt.optimize(model)
    assert result.report.status == "equal" and not result.report.rolled_back
    loops = [node for graph in result.ir.graph.graphs() for node in graph if node.op == "Loop"]
    assert len(loops) == (0 if turns == 1 else 1)
