"""Transposes cancel through what works in any order of axes, and stay where that saves none."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes.layout.transposes import cancel_transposes, inverse
from tests.passes.harness import assert_same, check, lift, ops, parse, rewrite

HEAD = """g (float[N,3,4,5] x, float[N,4,5,3] z) => (float[a,b,c,d] y) <float[3] k, float[5,1] m, float e = {{2.0}},
  int64[1] a1 = {{1}}, int64[1] a2 = {{2}}, int64[1] a3 = {{3}}, int64[1] zero = {{0}}, int64[1] two = {{2}},
  int64[8] pads = {{0, 1, 0, 0, 0, 0, 2, 0}}, int64[2] parts = {{2, 2}}, float lo = {{0.0}}, float hi = {{1.0}}> {{
  s = Sigmoid(x)
  t = Transpose<perm = [0, 2, 3, 1]>(s)
  {nodes}
}}"""
BACK = "Transpose<perm = [0, 3, 1, 2]>"
CANCEL = {
    "a function": f"r = Relu(t)\n u = {BACK}(r)\n y = Exp(u)",
    "constants": f"p = Mul(t, k)\n q = Add(m, p)\n r = Pow(q, e)\n u = {BACK}(r)\n y = Exp(u)",
    "limits": f"p = Clip(t, lo, hi)\n u = {BACK}(p)\n y = Exp(u)",
    "a mean that is subtracted": f"p = ReduceMean<axes = [3]>(t)\n q = Sub(t, p)\n u = {BACK}(q)\n y = Exp(u)",
    "a sum over the last axis": f"p = ReduceSum(t, a3)\n q = Div(t, p)\n u = {BACK}(q)\n y = Exp(u)",
    "two paths": f"e1 = Exp(s)\n t2 = Transpose<perm = [0, 2, 3, 1]>(e1)\n q = Add(t, t2)\n u = {BACK}(q)\n y = Exp(u)",
    "a concatenation": f"r = Relu(t)\n q = Concat<axis = -1>(t, r)\n u = {BACK}(q)\n y = Exp(u)",
    "a pad": f"q = Pad(t, pads)\n u = {BACK}(q)\n y = Exp(u)",
    "a slice": f"q = Slice(t, zero, two, a2)\n u = {BACK}(q)\n y = Exp(u)",
    "a slice of the first axes": f"q = Slice(t, zero, two)\n u = {BACK}(q)\n y = Exp(u)",
    "a split": f"p, q = Split<axis = 1>(t, parts)\n r = Add(p, q)\n u = {BACK}(r)\n y = Exp(u)",
    "a comparison": f"c = Less(t, e)\n r = Relu(t)\n w = Where(c, t, r)\n u = {BACK}(w)\n y = Exp(u)",
}
STAYS = {
    "a softmax": f"r = Softmax(t)\n u = {BACK}(r)\n y = Exp(u)",
    "another order": "r = Relu(t)\n u = Transpose<perm = [0, 2, 1, 3]>(r)\n y = Exp(u)",
    "a value from elsewhere": f"r = Add(t, z)\n u = {BACK}(r)\n r2 = Relu(r)\n u2 = Exp(r2)\n v = ReduceSum(u2, a1)\n "
                              "w = ReduceSum(u2, a2)\n q = Mul(v, w)\n o = ReduceMean(q)\n y = Add(o, u)",
    "a mean without its axis": f"p = ReduceMean<axes = [3], keepdims = 0>(t)\n q = Unsqueeze(p, a3)\n r = {BACK}(q)\n "
                               "y = Exp(r)",
    "one alone": "y = Relu(t)",
}  # fmt: skip


@pytest.mark.parametrize("name", CANCEL)
def test_transposes_cancel(name):
    before = lift(HEAD.format(nodes=CANCEL[name]))
    after, changes = rewrite(before, cancel_transposes)
    assert changes == 1
    assert "Transpose" not in ops(after)
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("name", STAYS)
def test_transposes_stay(name):
    before = lift(HEAD.format(nodes=STAYS[name]))
    after, changes = rewrite(before, cancel_transposes)
    assert changes == 0
    assert_same(before, after, rtol=1e-6)


def test_many_become_one_behind_a_concatenation():
    text = """g (float[N,3,4] x) => (float[a,b,c] y) {
      p = Transpose<perm = [0, 2, 1]>(x)
      e = Exp(x)
      q = Transpose<perm = [0, 2, 1]>(e)
      y = Concat<axis = 1>(p, q) }"""
    assert check(text, cancel_transposes).splitlines() == [
        "%e = Exp(%x)",
        "%2 = Concat(%x, %e) {axis=2}",
        "%y = Transpose(%2) {perm=[0, 2, 1]}",
        "return %y",
    ]


def test_a_value_in_use_outside_gets_its_transpose():
    text = """g (float[N,3,4] x) => (float[a,b,c] y, float[d,e,f] z) <float[3,2] k> {
      s = Sigmoid(x)
      p = Transpose<perm = [0, 2, 1]>(s)
      r = Relu(p)
      q = Transpose<perm = [0, 2, 1]>(r)
      y = Exp(q)
      t = Transpose<perm = [0, 2, 1]>(y)
      u = Neg(t)
      v = Add(u, r)
      z = MatMul(v, k) }"""
    before = lift(text)
    after, _ = rewrite(before, cancel_transposes)
    assert ops(after).count("Transpose") == 1
    assert_same(before, after, rtol=1e-6)


def test_branches_that_read_a_turned_value_read_it_as_before():
    text = """g (float[N,3,4] x, bool c) => (float[a,b,d] y) {
      p = Transpose<perm = [0, 2, 1]>(x)
      r = Relu(p)
      e = Exp(x)
      q = Transpose<perm = [0, 2, 1]>(e)
      v = Add(q, r)
      y = If(c) <then_branch = g1 () => (float[a1,b1,c1] o1) { o1 = Exp(v) },
                 else_branch = g2 () => (float[a2,b2,c2] o2) { o2 = Neg(v) }> }"""
    before = lift(text)
    after, changes = rewrite(before, cancel_transposes)
    assert changes == 1 and ops(after).count("Transpose") == 1
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_random_regions_keep_their_results(seed):
    """Random chains of operators between random transposes of three axes."""
    rng = np.random.default_rng(seed)
    values, lines = [("x", (0, 1, 2))], []
    for i in range(14):
        name, (source, order) = f"v{i}", values[rng.integers(len(values))]
        kind = rng.integers(5)
        partners = [v for v, o in values if o == order]
        if kind == 0:
            lines.append(f"{name} = Tanh({source})")
        elif kind == 1:
            lines.append(f"{name} = Add({source}, {partners[rng.integers(len(partners))]})")
        elif kind == 2:
            lines.append(f"{name} = Max({source}, e)")
        else:
            perm = [(0, 2, 1), (1, 2, 0), (2, 0, 1)][rng.integers(3)]
            lines.append(f"{name} = Transpose<perm = [{', '.join(map(str, perm))}]>({source})")
            order = tuple(order[p] for p in perm)
        values.append((name, order))
    ends = ["x", *(v for v, _ in values[-3:])]
    lines += [f"r{i} = ReduceSum<keepdims = 0>({v}, axes)" for i, v in enumerate(ends)]
    lines.append(f"y = Sum({', '.join(f'r{i}' for i in range(len(ends)))})")
    text = "g (float[2,3,4] x) => (float y) <float e = {0.1}, int64[3] axes = {0, 1, 2}> {" + "\n".join(lines) + "}"
    before = lift(text)
    after, _ = rewrite(before, cancel_transposes)
    assert ops(after).count("Transpose") <= ops(before).count("Transpose")
    assert_same(before, after)


def test_inverse():
    assert inverse((0, 2, 3, 1)) == (0, 3, 1, 2)


def test_nodes_put_in_share_no_name():
    text = """g (float[N,3,4] x) => (float[a,b,c] y, float[d,e,f] z, float[g,h,i] u) {
      p = Transpose<perm = [0, 2, 1]>(x)
      e = Exp(x)
      q = Transpose<perm = [0, 2, 1]>(e)
      y = Add(p, q)
      z = Mul(q, p)
      v = Add(y, z)
      t = Transpose<perm = [0, 2, 1]>(v)
      u = Exp(t) }"""
    proto = parse(text)
    for node in proto.graph.node:
        node.name = "shared" if node.op_type == "Add" else node.output[0]
    after, _ = rewrite(onnx_io.load(proto), cancel_transposes)
    names = [node.name for node in onnx_io.to_proto(after).graph.node]
    assert ops(after).count("Transpose") == 2
    assert len(set(names)) == len(names)
