"""Examples by hand, where chance finds none: by pass or `pass/rule`, the model's text, opset and target."""

from __future__ import annotations

from .given_fusions import FUSIONS

GIVEN: dict[str, tuple[str, int, str]] = {
    **FUSIONS,
    "infer-demands": (
        """
g (float[N,4,8] x, bool c) => (float[a,b,d] y) <float[3,4,1] k, int64[1] last = {-1}> {
  t = If(c) <
    then_branch = u () => (float[] u1) { u1 = Relu(x) },
    else_branch = v () => (float[] v1) { v1 = Unsqueeze(x, last) }
  >
  y = Conv(t, k)
}""",
        17,
        "portable",
    ),
    "read-masks/pairs_as_window": (
        """
g (bool[B,W] m, float[B,T] x) => (bool[a,b,c,d] y) <int64 i0 = {0}, int64 i1 = {1}, int64[1] one = {1},
  int64[3] rest = {1, 2, 3}, int64[3] front = {0, 1, 2}, int64[1] last = {-1}> {
  sx = Shape(x)
  n = Gather(sx, i0)
  t = Gather(sx, i1)
  r = Range(i0, n, i1)
  c = Range(i0, t, i1)
  rows = Unsqueeze(r, rest)
  columns = Unsqueeze(c, front)
  big = Max(rows, columns)
  s = Shape(big)
  re = Expand(rows, s)
  ce = Expand(columns, s)
  ru = Unsqueeze(re, last)
  cu = Unsqueeze(ce, last)
  p = Concat<axis = -1>(ru, cu)
  y = GatherND(m, p)
}""",
        17,
        "portable",
    ),
    "raise-opset": (
        """
g (float[B,2,S,8] x, float[B,2,P,8] past) => (float[a,b,c,d] present, float[e,f,h,i] y) {
  r = Relu(x)
  present = Concat<axis = 2>(past, r)
  y = ReduceMean<axes = [3]>(present)
}""",
        17,
        "onnxruntime",
    ),
    "drop-zero-states": (
        """
g (float[S,N,4] x, float[1,6,4] w) => (float[a,b,c,d] y) <float[1,6,2] r, float[1,3,2] zero = {0,0,0,0,0,0}> {
  y = GRU<hidden_size = 2>(x, w, r, , , zero)
}""",
        17,
        "portable",
    ),
    "join-reshapes/reshape_for_transpose": (
        """
g (float[4,1,8] x) => (float[a,b] y) <int64[2] sizes = {4, 8}> {
  t = Transpose<perm = [1, 0, 2]>(x)
  y = Reshape(t, sizes)
}""",
        17,
        "portable",
    ),
    "join-reshapes/squeeze_for_reduction": (
        """
g (float[N,8,1] x) => (float[a,b] y) {
  y = ReduceMean<axes = [2], keepdims = 0>(x)
}""",
        17,
        "portable",
    ),
    "give-range-scalars": (
        """
g (int64[1] n) => (int64[k] y) <int64 zero = {0}, int64 step = {1}> {
  y = Range(zero, n, step)
}""",
        17,
        "portable",
    ),
    "cancel-transposes": (
        """
g (float[N,3,4,5] x) => (float[a,b,c,d] y) {
  t = Transpose<perm = [0, 2, 3, 1]>(x)
  r = Relu(t)
  u = Transpose<perm = [0, 3, 1, 2]>(r)
  y = Exp(u)
}""",
        17,
        "portable",
    ),
    "drop-cast-islands": (
        """
g (float16[N,4,6] x) => (float16[a,b,c] y) <int64[3] sizes = {0, 6, 4}> {
  f = Cast<to = 1>(x)
  r = Reshape(f, sizes)
  y = Cast<to = 10>(r)
}""",
        17,
        "portable",
    ),
    "drop-requantization/keep_codes": (
        """
g (uint8[N,4] x) => (uint8[a,b] y) <float scale = {0.1}, uint8 zero = {128}> {
  f = DequantizeLinear(x, scale, zero)
  q = QuantizeLinear(f, scale, zero)
  y = Concat<axis = 0>(q, x)
}""",
        17,
        "portable",
    ),
    "drop-requantization/limit_codes": (
        """
g (uint8[N,4,8,8] x) => (uint8[a,b,c,d] y) <float s = {0.1}, uint8 z = {128}, int8[4,4,3,3] w, float sw = {0.01},
  float t = {0.05}> {
  f = DequantizeLinear(x, s, z)
  k = DequantizeLinear(w, sw)
  c = Conv(f, k)
  r = Relu(c)
  y = QuantizeLinear(r, t, z)
}""",
        17,
        "onnxruntime",
    ),
    "drop-requantization/use_standard_codes": (
        """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[N,4] x) => (uint8[a,b] y) <float scale = {0.1}, uint8 zero = {128}> {
  y = com.microsoft.QuantizeLinear(x, scale, zero)
}""",
        17,
        "portable",
    ),
    **{
        f"fuse-for-onnxruntime/{rule}": (
            f"""
g (float[N,6] x) => (float[a,b] y) <int8[6,5] w, float t = {{0.02}}, float[5] bias> {{
  q, s, z = DynamicQuantizeLinear(x)
  i = MatMulInteger(q, w, z)
  f = Cast<to = 1>(i)
  {end}
}}""",
            17,
            "onnxruntime",
        )
        for rule, end in (
            ("scale_integer_product", "u = Mul(s, t)\n y = Mul(f, u)"),
            ("scale_integer_product_by_constant", "y = Mul(f, t)"),
        )
    },
    "read-weight-codes/read_weight_codes": (
        """
g (float[N,6] x) => (float[a,b] y) <int8[6,5] w, float[5] scale> {
  f = Cast<to = 1>(w)
  v = Mul(f, scale)
  y = MatMul(x, v)
}""",
        17,
        "portable",
    ),
    "take-parts/permute_in_place": (
        """
g (float[S,N,3,8] x) => (float[a,b,c,d] y) <int64[1] front = {0}, int64[1] third = {3}> {
  u = Unsqueeze(x, front)
  t = Transpose<perm = [3, 1, 2, 0, 4]>(u)
  y = Squeeze(t, third)
}""",
        17,
        "portable",
    ),
    "take-parts/pick_before_transpose": (
        """
g (float[S,N,3,8] x) => (float[a,b,c] y) <int64 i = {1}> {
  t = Transpose<perm = [2, 0, 1, 3]>(x)
  y = Gather(t, i)
}""",
        17,
        "portable",
    ),
    "take-parts/pick_part": (
        """
g (float[S,N,24] x) => (float[a,b,c] y) <int64 i = {1}, int64[4] parts = {0, 0, 3, 8}> {
  t = Reshape(x, parts)
  y = Gather<axis = 2>(t, i)
}""",
        17,
        "portable",
    ),
    "take-parts/product_of_rows": (
        """
g (float[N,5,8] x) => (float[a,b,c] y) <float[4,8] w, float[4] bias, int64[2] rows = {-1, 8},
  int64[3] back = {-1, 5, 4}> {
  r = Reshape(x, rows)
  p = Gemm<transB = 1>(r, w, bias)
  y = Reshape(p, back)
}""",
        17,
        "portable",
    ),
    "put-batch-first/split_heads_of_batch": (
        """
g (float[B,5,8] x) => (float[a,b,c,d] y) <float[8,8] w, int64[3] flat = {5, -1, 4}, int64[4] four = {-1, 2, 5, 4}> {
  t = Transpose<perm = [1, 0, 2]>(x)
  h = MatMul(t, w)
  r = Reshape(h, flat)
  m = Transpose<perm = [1, 0, 2]>(r)
  y = Reshape(m, four)
}""",
        17,
        "portable",
    ),
    "put-batch-first/join_heads_time_first": (
        """
g (float[B,2,5,4] x) => (float[a,b,c] y) <float[8,8] w, int64[3] join = {0, 0, 8}> {
  t = Transpose<perm = [2, 0, 1, 3]>(x)
  j = Reshape(t, join)
  h = MatMul(j, w)
  y = Transpose<perm = [1, 0, 2]>(h)
}""",
        17,
        "portable",
    ),
    **{
        f"fuse-operators/{rule}": (
            f"""
g ({inputs}) => (float[a,b,c,d] y) {{
  y = Einsum<equation = "{equation}">({names})
}}""",
            17,
            "portable",
        )
        for rule, inputs, equation, names in (
            ("einsum_as_product", "float[B,S,2,8] q, float[B,L,2,8] k", "bqhd,bkhd->bhqk", "q, k"),
            ("einsum_of_one", "float[B,S,2,8] x", "bshd->bhsd", "x"),
        )
    },
    **{
        f"compose-linear-maps/{rule}": (
            f"""
g (float[N,6] x) => (float[k,l] y) <float[6,8] a, float[8,4] b, float[8] c, float[4] d> {{
  {nodes}
}}""",
            17,
            "portable",
        )
        for rule, nodes in (
            ("compose_products", "h = MatMul(x, a)\n  y = MatMul(h, b)"),
            ("compose_shifted_products", "h = MatMul(x, a)\n  s = Add(h, c)\n  y = MatMul(s, b)"),
            ("compose_gemms", "h = Gemm(x, a, c)\n  y = Gemm(h, b, d)"),
        )
    },
    "use-integer-operators": (
        """
g (uint8[N,4] x, uint8[N,4] z) => (uint8[a,b] y) <float s = {0.1}, uint8 q = {128}, float t = {0.2}> {
  f = DequantizeLinear(x, s, q)
  g = DequantizeLinear(z, t, q)
  sum = Add(f, g)
  y = QuantizeLinear(sum, t, q)
}""",
        17,
        "onnxruntime",
    ),
    "move-codes": (
        """
g (uint8[N,4,8,8] x) => (uint8[a,b,c,d] y) <float scale = {0.1}, uint8 zero = {128}> {
  f = DequantizeLinear(x, scale, zero)
  m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(f)
  t = Transpose<perm = [0, 2, 3, 1]>(m)
  y = QuantizeLinear(t, scale, zero)
}""",
        17,
        "portable",
    ),
    "fold-pads/pad_into_maximum": (
        """
g (float[N,3,6,6] x) => (float[a,b,c,d] y) <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float low = {-inf}> {
  r = Relu(x)
  p = Pad(r, pads, low)
  y = MaxPool<kernel_shape = [3, 3]>(p)
}""",
        17,
        "portable",
    ),
    "fold-affine/apply_before_squeeze": (
        """
g (float[N,4,1,9] x) => (float[a,b,c] y) <float[6,4,1,3] w, float[6,1] k, int64[1] two = {2}> {
  h = Conv(x, w)
  s = Squeeze(h, two)
  y = Add(s, k)
}""",
        17,
        "portable",
    ),
    "fold-affine/activate_before_squeeze": (
        """
g (float[N,4,1,9] x) => (float[a,b,c] y) <float[6,4,1,3] w, int64[1] two = {2}> {
  h = Conv(x, w)
  s = Squeeze(h, two)
  y = Relu(s)
}""",
        17,
        "portable",
    ),
    "hoist-over-split": (
        """
g (float[N,6] x) => (float[a,b] y) <int64[2] sizes = {2, 4}> {
  a, b = Split<axis = 1>(x, sizes)
  p = Tanh(a)
  q = Tanh(b)
  y = Concat<axis = 1>(q, p)
}""",
        17,
        "portable",
    ),
    "spell-powers/spell_lrn": (
        "g (float[N,8,6,6] x) => (float[a,b,c,d] y) { y = LRN<size = 5>(x) }",
        17,
        "portable",
    ),
    "name-sizes": (
        """
g (float[N,S,2] x) => (float[a,b,c] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2},
  float[1,4,2] table> {
  sizes = Shape(x)
  length = Slice(sizes, one, two)
  positions = Slice(table, zero, length, one)
  y = Add(x, positions)
}""",
        17,
        "portable",
    ),
    "inline-loops": (
        """
g (float[N,4] x) => (float[a,b] y) <int64 one = {1}, bool true = {1}> {
  y = Loop(one, true, x) <
    body = step (int64 i, bool go, float[N,4] last) => (bool again, float[N,4] next) {
      again = Identity(go)
      next = Relu(last)
    }
  >
}""",
        17,
        "portable",
    ),
}
_FEW = """
g (uint8[N,3,16,16] x) => (uint8[a,b,c,d] y) <float s = {0.05}, uint8 z = {128}, int8[16,3,SIZES] w, float t = {0.01},
  float r = {0.9}, uint8 q = {117}> {
  d = DequantizeLinear(x, s, z)
  k = DequantizeLinear(w, t)
  h = Conv<pads = PADS, strides = STRIDES>(d, k)
  y = QuantizeLinear(h, r, q)
}"""
for _rule, _size, _stride in (("pad_channels", 3, 1), ("stack_strides", 7, 2)):
    _text = _FEW.replace("SIZES", f"{_size},{_size}").replace("PADS", str([_size // 2] * 4))
    _text = _text.replace("STRIDES", str([_stride] * 2))
    GIVEN[f"widen-channels/{_rule}"] = (_text, 17, "portable")
