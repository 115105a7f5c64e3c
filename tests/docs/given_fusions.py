"""Examples by hand of what is fused: see `given`."""

from __future__ import annotations

_VECTOR = "(float[N,16] x) => (float[a,b] y)"

_ANGLES = """ff = Concat<axis = -1>(f, f)
  c = Cos(ff)
  s = Sin(ff)
  cu = Unsqueeze(c, i1)
  su = Unsqueeze(s, i1)"""
_TURN = """n = Neg(x2)
  t = Concat<axis = -1>(n, x1)
  a = Mul(x, cu)
  b = Mul(t, su)
  y = Add(a, b)"""
_ROWS = "(float[B,2,S,8] x, float[B,S,4] f) => (float[k,l,m,n] y)"
_HEADS = "(float[B,2,S,8] x, float[1,S,4] f) => (float[k,l,m,n] y)"

_SCALED = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[N,6] x) => (float[a,b] y) <int8[6,5] w, float t = {0.02}, float[5] bias> {
  q, s, z = DynamicQuantizeLinear(x)"""

FUSIONS: dict[str, tuple[str, int, str]] = {
    "fuse-operators/fuse_rotary": (
        f"""
g {_HEADS} <int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i3 = {{3}}, int64[1] i4 = {{4}}, int64[1] i8 = {{8}}> {{
  {_ANGLES}
  x1 = Slice(x, i0, i4, i3)
  x2 = Slice(x, i4, i8, i3)
  {_TURN}
}}""",
        17,
        "onnxruntime",
    ),
    "fuse-operators/fuse_rotary_rows": (
        f"""
g {_ROWS} <int64[1] i0 = {{0}}, int64[1] i4 = {{4}}, int64[1] i8 = {{8}}, int64[1] i3 = {{3}}, int64[1] i1 = {{1}}> {{
  {_ANGLES}
  x1 = Slice(x, i0, i4, i3)
  x2 = Slice(x, i4, i8, i3)
  {_TURN}
}}""",
        23,
        "portable",
    ),
    "fuse-operators/fuse_split_rotary_rows": (
        f"""
g {_ROWS} <int64[1] i1 = {{1}}, int64[2] sizes = {{4, 4}}> {{
  {_ANGLES}
  x1, x2 = Split<axis = 3>(x, sizes)
  {_TURN}
}}""",
        23,
        "portable",
    ),
    "fuse-operators/fuse_split_rotary": (
        f"""
g {_HEADS} <int64[1] i1 = {{1}}, int64[2] sizes = {{4, 4}}> {{
  {_ANGLES}
  x1, x2 = Split<axis = 3>(x, sizes)
  {_TURN}
}}""",
        17,
        "onnxruntime",
    ),
    "fuse-operators/fuse_gelu": (
        f"""
g {_VECTOR} <float root = {{1.4142135}}, float one = {{1.0}}, float half = {{0.5}}> {{
  scaled = Div(x, root)
  e = Erf(scaled)
  sum = Add(e, one)
  product = Mul(x, sum)
  y = Mul(product, half)
}}""",
        20,
        "portable",
    ),
    "fuse-operators/fuse_hard_sigmoid": (
        f"""
g {_VECTOR} <float three = {{3.0}}, float zero = {{0.0}}, float six = {{6.0}}> {{
  sum = Add(x, three)
  c = Clip(sum, zero, six)
  y = Div(c, six)
}}""",
        17,
        "portable",
    ),
    "fuse-for-onnxruntime/transpose_into_product": (
        """
g (float[N,4,8] x, float[N,6,8] w) => (float[a,b,c] y) {
  t = Transpose<perm = [0, 2, 1]>(w)
  y = MatMul(x, t)
}""",
        17,
        "onnxruntime",
    ),
    "fuse-for-onnxruntime/norm_heads_in_place": (
        """
g (float[N,S,12] x) => (float[a,b,c] y) <float[4] gamma, int64[4] apart = {0, 0, 3, 4}, int64[3] joined = {0, 0, 12}> {
  h = Reshape(x, apart)
  n = RMSNormalization<axis = -1>(h, gamma)
  y = Reshape(n, joined)
}""",
        23,
        "onnxruntime",
    ),
    "fuse-attention": (
        """
g (float[2,5,16] x) => (float[a,b,c] y) <float[16,16] w, float[16,16] u, float[16,16] v, float scale = {0.35355338},
  int64[4] split = {0, 0, 2, 8}, int64[3] join = {0, 0, 16}> {
  hq = MatMul(x, w)
  hk = MatMul(x, u)
  hv = MatMul(x, v)
  rq = Reshape(hq, split)
  rk = Reshape(hk, split)
  rv = Reshape(hv, split)
  q = Transpose<perm = [0, 2, 1, 3]>(rq)
  k = Transpose<perm = [0, 2, 3, 1]>(rk)
  values = Transpose<perm = [0, 2, 1, 3]>(rv)
  scores = MatMul(q, k)
  scaled = Mul(scores, scale)
  p = Softmax(scaled)
  heads = MatMul(p, values)
  t = Transpose<perm = [0, 2, 1, 3]>(heads)
  y = Reshape(t, join)
}""",
        17,
        "onnxruntime",
    ),
    "fuse-for-onnxruntime/bias_into_integer_product": (
        _SCALED + "\n  m = com.microsoft.MatMulIntegerToFloat(q, w, s, t, z)\n  y = Add(m, bias)\n}",
        17,
        "onnxruntime",
    ),
    "fuse-for-onnxruntime/quantize_in_product": (
        _SCALED + "\n  y = com.microsoft.MatMulIntegerToFloat(q, w, s, t, z)\n}",
        17,
        "onnxruntime",
    ),
}
_BIASED = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[N,16] x) => (float[a,b] y) <float[16] b> {
  sum = Add(x, b)
  y = com.microsoft.KIND(sum)
}"""
for _rule, _kind in (("bias_into_gelu", "Gelu"), ("bias_into_fast_gelu", "FastGelu")):
    FUSIONS[f"fuse-for-onnxruntime/{_rule}"] = (_BIASED.replace("KIND", _kind), 17, "onnxruntime")
