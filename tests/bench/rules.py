"""The speed gained by each fusion alone: `python -m tests.bench.rules [names]`.

For every rule a small model that it rewrites, at the sizes of real layers, for both targets; original and rewritten
model run in onnxruntime with all its optimizations, on one thread, interleaved. `passes/fuse/evidence.py` keeps the
ratios: a rule that is slower for a target is not used there.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import dataclass

import numpy as np

from graphopt import onnx_io
from graphopt.measure import compare_latency, ort_session
from graphopt.passes import drop_requantization, move_codes, name_sizes, read_weights, spell_powers, widen_channels
from graphopt.passes.fuse import (
    fuse_attention,
    fuse_for_onnxruntime,
    fuse_operators,
    merge_products,
    onnxruntime,
    operators,
)
from graphopt.passes.fuse.attention import projections_into_attention
from graphopt.pipeline import Pass, as_pass
from tests.passes.harness import lift, random_feeds, rewrite

MAP = "g (float[1,64,56,56] x) => (float[a,b,c,d] y)"
TOKENS = "g (float[1,128,768] x) => (float[a,b,c] y)"
NUMBERS = """float one = {1.0}, float two = {2.0}, float three = {3.0}, float six = {6.0}, float half = {0.5},
  float zero = {0.0}, float root = {1.4142135}, float tenth = {0.1}, float eps = {0.00001},
  float slope = {0.7978845608}, float cubic = {0.044715}, float quick = {1.702}, int64[1] last = {-1},
  float[64,1,1] each, float[1,64,1,1] shift, float[768] gamma, float[768] beta, float tiny = {0.000000000001},
  int64[2] space = {2, 3}, float[64] s64, float[64] b64, float[64] m64"""


@dataclass(frozen=True, slots=True)
class Instance:
    """A model that one rule rewrites."""

    head: str
    nodes: str
    opset: int = 17
    weights: str = ""

    @property
    def text(self) -> str:
        """The model as text."""
        return f"{self.head} <{NUMBERS}{', ' if self.weights else ''}{self.weights}> {{ {self.nodes} }}"


_MEAN = "m = ReduceMean(x, last)\n c = Sub(x, m)\n p = Pow(c, two)\n v = ReduceMean(p, last)\n e = Add(v, eps)\n "
_HEADS = """hq = MatMul(x, w)
 hk = MatMul(x, u)
 hv = MatMul(x, v)
 rq = Reshape(hq, four)
 rk = Reshape(hk, four)
 rv = Reshape(hv, four)
 q = Transpose<perm = [0, 2, 1, 3]>(rq)
 vs = Transpose<perm = [0, 2, 1, 3]>(rv)
 k = Transpose<perm = [0, 2, 3, 1]>(rk)
 s = MatMul(q, k)
 c = Mul(s, eighth)
 p = Softmax(c)
 o = MatMul(p, vs)
 t = Transpose<perm = [0, 2, 1, 3]>(o)
 y = Reshape(t, three3)"""
_CONV = "h = Conv<pads = [1, 1, 1, 1]>(x, k)\n "
_ERF = "d = Div(x, root)\n e = Erf(d)\n s = Add(e, one)\n h = Mul(x, s)\n y = Mul(h, half)"
_TANH = (
    "p = Pow(x, three)\n k = Mul(p, cubic)\n i = Add(x, k)\n j = Mul(i, slope)\n t = Tanh(j)\n "
    "s = Add(t, one)\n h = Mul(x, half)\n y = Mul(h, s)"
)
_ROTARY_HEAD = "g (float[1,12,128,64] x, float[1,128,32] f) => (float[a,b,c,d] y)"
_ROTARY_WEIGHTS = """int64[1] i0 = {0}, int64[1] i32 = {32}, int64[1] i64 = {64}, int64[2] sizes = {32, 32},
  int64[1] i1 = {1}"""
_SLICES = "x1 = Slice(x, i0, i32, last)\n x2 = Slice(x, i32, i64, last)"
_ROTARY = f"""ff = Concat<axis = -1>(f, f)
 co = Cos(ff)
 si = Sin(ff)
 cu = Unsqueeze(co, i1)
 su = Unsqueeze(si, i1)
 {_SLICES}
 n = Neg(x2)
 t = Concat<axis = -1>(n, x1)
 a1 = Mul(x, cu)
 b1 = Mul(t, su)
 y = Add(a1, b1)"""
_PART_HEAD = _ROTARY_HEAD.replace("128,32] f", "128,16] f")
_PART = f"co = Cos(f)\n si = Sin(f)\n {_SLICES}\n t = RotaryEmbedding(x1, co, si)\n y = Concat<axis = -1>(t, x2)"
_CODES = "int8[768,768] codes, float ks = {0.01}"
_DYNAMIC = """q, s, z = DynamicQuantizeLinear(x)
 i = MatMulInteger(q, codes, z)
 c = Cast<to = 1>(i)
 t = Mul(s, ks)
 """
INSTANCES = {
    "fuse_gelu": Instance(TOKENS, _ERF, 20),
    "fuse_gelu (opset 17)": Instance(TOKENS, _ERF),
    "fuse_tanh_gelu": Instance(TOKENS, _TANH, 20),
    "fuse_tanh_gelu (opset 17)": Instance(TOKENS, _TANH),
    "fuse_swish": Instance(MAP, "s = Sigmoid(x)\n y = Mul(s, x)", 24),
    "fuse_swish (opset 17)": Instance(MAP, "s = Sigmoid(x)\n y = Mul(s, x)"),
    "fuse_scaled_swish": Instance(TOKENS, "d = Mul(x, quick)\n s = Sigmoid(d)\n y = Mul(s, x)", 24),
    "fuse_scaled_swish (opset 17)": Instance(TOKENS, "d = Mul(x, quick)\n s = Sigmoid(d)\n y = Mul(s, x)"),
    "fuse_hard_sigmoid": Instance(MAP, "s = Add(x, three)\n c = Clip(s, zero, six)\n y = Div(c, six)"),
    "fuse_hard_gate": Instance(MAP, "s = Add(x, three)\n c = Clip(s, zero, six)\n m = Mul(c, x)\n y = Div(m, six)", 13),
    "fuse_hard_swish": Instance(MAP, "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)\n y = Mul(s, x)"),
    "fuse_mish": Instance(MAP, "p = Softplus(x)\n t = Tanh(p)\n y = Mul(t, x)", 18),
    "fuse_sigmoid": Instance(MAP, "n = Neg(x)\n e = Exp(n)\n s = Add(one, e)\n y = Div(one, s)"),
    "fuse_leaky_relu": Instance(MAP, "m = Mul(x, tenth)\n y = Max(m, x)"),
    "fuse_leaky_difference": Instance(MAP, "r = Relu(x)\n n = Neg(x)\n q = Relu(n)\n m = Mul(tenth, q)\n "
                                      "y = Sub(r, m)"),
    "fuse_prelu": Instance(MAP, "r = Relu(x)\n n = Neg(x)\n q = Relu(n)\n m = Mul(each, q)\n y = Sub(r, m)"),
    "clip_after_relu": Instance(MAP, "r = Relu(x)\n y = Clip(r, , six)"),
    "relu_after_clip": Instance(MAP, "r = Clip(x, , six)\n y = Relu(r)"),
    "fuse_clip": Instance(MAP, "r = Max(x, zero)\n y = Min(r, six)"),
    "fuse_relu_and_min": Instance(MAP, "r = Relu(x)\n y = Min(r, six)"),
    "fuse_layer_norm": Instance(TOKENS, _MEAN + "r = Sqrt(e)\n n = Div(c, r)\n g = Mul(n, gamma)\n y = Add(g, beta)",
                                18),
    "fuse_layer_norm (planes)": Instance(MAP, _MEAN.replace("last", "space") + "r = Sqrt(e)\n n = Div(c, r)\n "
                                         "g = Mul(n, each)\n y = Add(g, shift)", 18),
    "fuse_rms_norm": Instance(TOKENS, "p = Mul(x, x)\n v = ReduceMean(p, last)\n e = Add(eps, v)\n r = Sqrt(e)\n "
                              "n = Div(x, r)\n y = Mul(n, gamma)", 23),
    "scale_into_norm": Instance(TOKENS, "n = LayerNormalization<axis = -1>(x, beta)\n y = Mul(n, gamma)"),
    "shift_into_norm": Instance(TOKENS, "n = LayerNormalization<axis = -1>(x, gamma)\n y = Add(n, beta)"),
    "affine_into_instance_norm": Instance(MAP, "n = InstanceNormalization(x, s64, b64)\n m = Mul(n, each)\n "
                                          "y = Add(m, shift)"),
    "fuse_l2_norm": Instance(TOKENS, "n = ReduceL2(x, last)\n d = Clip(n, tiny)\n y = Div(x, d)", 18),
    "fuse_softmax": Instance(TOKENS, "m = ReduceMax(x, last)\n c = Sub(x, m)\n e = Exp(c)\n s = ReduceSum(e, last)\n "
                             "y = Div(e, s)", 18),
    "fuse_log_softmax": Instance(TOKENS, "m = ReduceMax(x, last)\n c = Sub(x, m)\n e = Exp(c)\n "
                                 "s = ReduceSum(e, last)\n l = Log(s)\n y = Sub(c, l)", 18),
    "fuse_rotary_rows": Instance(_ROTARY_HEAD, _ROTARY, 23, _ROTARY_WEIGHTS),
    "fuse_split_rotary_rows": Instance(_ROTARY_HEAD, _ROTARY.replace(_SLICES, "x1, x2 = Split<axis = 3>(x, sizes)"), 23,
                                       _ROTARY_WEIGHTS),
    "fuse_rotary": Instance(_ROTARY_HEAD, _ROTARY, 17, _ROTARY_WEIGHTS),
    "fuse_split_rotary": Instance(_ROTARY_HEAD, _ROTARY.replace(_SLICES, "x1, x2 = Split<axis = 3>(x, sizes)"), 17,
                                  _ROTARY_WEIGHTS),
    "extend_rotary": Instance(_PART_HEAD, _PART, 23, _ROTARY_WEIGHTS),
    "extend_split_rotary": Instance(_PART_HEAD, _PART.replace(_SLICES, "x1, x2 = Split<axis = 3>(x, sizes)"), 23,
                                    _ROTARY_WEIGHTS),
    "fuse_batch_norm": Instance(MAP, "m = Mul(each, x)\n y = Add(m, shift)"),
    "affine_into_batch_norm": Instance(MAP, "n = BatchNormalization(x, s64, b64, m64, v64)\n m = Mul(n, each)\n "
                                       "y = Add(m, shift)", 17, "float[64] v64"),
    "join_batch_norms": Instance(MAP, "n = BatchNormalization(x, s64, b64, m64, v64)\n "
                                 "y = BatchNormalization(n, b64, s64, m64, v64)", 17, "float[64] v64"),
    **{f"einsum_as_product ({equation})": Instance(
        f"g ({inputs}) => (float[{','.join(equation.partition('->')[2])}] y)",
        f'y = Einsum<equation = "{equation}">(x, z)')
       for equation, inputs in (("bsk,kn->bsn", "float[1,128,768] x, float[768,768] z"),
                                ("bhqd,bhkd->bhqk", "float[1,12,128,64] x, float[1,12,128,64] z"),
                                ("bqhd,bkhd->bhqk", "float[1,128,12,64] x, float[1,128,12,64] z"),
                                ("bhqk,bkhd->bqhd", "float[1,12,128,128] x, float[1,128,12,64] z"))},
    **{f"einsum_of_one ({equation})": Instance(
        f"g (float[1,128,768] x) => (float[{','.join(equation.partition('->')[2])}] y)",
        f'y = Einsum<equation = "{equation}">(x)')
       for equation in ("bij->bji", "bij->bi")},
    "activation_into_conv": Instance(MAP, _CONV + "y = Relu(h)", 17, "float[64,64,3,3] k"),
    "clip_into_conv": Instance(MAP, _CONV + "y = Clip(h, zero, six)", 17, "float[64,64,3,3] k"),
    "activation_into_gemm": Instance("g (float[64,512] x) => (float[a,b] y)", "h = Gemm(x, w)\n y = Relu(h)", 17,
                                     "float[512,512] w"),
    "scale_into_product": Instance(TOKENS, "h = MatMul(x, w)\n y = Mul(h, half)", 17, "float[768,768] w"),
    "transpose_into_product": Instance("g (float[12,128,64] x, float[12,128,64] z) => (float[a,b,c] y)",
                                       "t = Transpose<perm = [0, 2, 1]>(z)\n y = MatMul(x, t)"),
    "transpose_into_first_factor": Instance("g (float[12,64,128] x, float[12,64,128] z) => (float[a,b,c] y)",
                                            "t = Transpose<perm = [0, 2, 1]>(x)\n y = MatMul(t, z)"),
    "bias_into_gelu": Instance(TOKENS, "z = Add(x, gamma)\n " + _ERF.replace("(x", "(z")),
    "bias_into_fast_gelu": Instance(TOKENS, "z = Add(x, gamma)\n " + _TANH.replace("(x", "(z")),
    "keep_sum_apart": Instance("g (float[1,128,768] x, float[1,128,768] z) => (float[a,b,c] y)",
                               "s = Add(x, z)\n y = LayerNormalization<axis = -1>(s, gamma, beta)"),
    "keep_sums_apart": Instance("g (float[1,128,768] x, float[1,128,768] z) => (float[a,b,c] y)",
                                "e = Exp(x)\n b = Add(e, shift8)\n s = Add(b, z)\n "
                                "y = LayerNormalization<axis = -1>(s, gamma, beta)", 17, "float[768] shift8"),
    **{
        f"norm_heads_in_place{note}": Instance(
            f"g (float[1,{tokens},1024] x) => (float[a,b,c] y)",
            "h = Reshape(x, apart)\n n = RMSNormalization<axis = -1>(h, s64)\n y = Reshape(n, joined)", 23,
            "int64[4] apart = {0, 0, 16, 64}, int64[3] joined = {0, 0, 1024}",
        )
        for note, tokens in (("", 128), (" (1 token)", 1), (" (512 tokens)", 512))
    },
    "scale_integer_product": Instance(TOKENS, _DYNAMIC + "y = Mul(c, t)", 17, _CODES),
    "scale_integer_product_by_constant": Instance(TOKENS, _DYNAMIC + "y = Mul(c, ks)", 17, _CODES),
    "bias_into_integer_product": Instance(TOKENS, _DYNAMIC + "m = Mul(c, t)\n y = Add(m, gamma)", 17, _CODES),
    "quantize_in_product": Instance(TOKENS, _DYNAMIC + "m = Mul(c, t)\n y = Add(m, gamma)", 17, _CODES),
    "read_weight_codes": Instance(TOKENS, "c = Cast<to = 1>(codes)\n w = Mul(c, ks)\n y = MatMul(x, w)", 17, _CODES),
    "read_weight_codes (1 token)": Instance(TOKENS.replace("128", "1"), "c = Cast<to = 1>(codes)\n w = Mul(c, ks)\n "
                                            "y = MatMul(x, w)", 17, _CODES),
    "limit_codes": Instance(
        "g (uint8[1,64,56,56] x) => (uint8[a,b,c,d] y)", "f = DequantizeLinear(x, ks, mid)\n "
        "k = DequantizeLinear(kernel, ks)\n h = Conv<pads = [1, 1, 1, 1]>(f, k)\n r = Relu(h)\n "
        "y = QuantizeLinear(r, half, mid)", 17, "int8[64,64,3,3] kernel, uint8 mid = {128}, float ks = {0.01}"),
    "move-codes": Instance(
        "g (uint8[1,64,56,56] x) => (uint8[a,b,c,d] y)", "f = DequantizeLinear(x, half, mid)\n "
        "h = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(f)\n t = Transpose<perm = [0, 2, 3, 1]>(h)\n "
        "y = QuantizeLinear(t, half, mid)", 17, "uint8 mid = {128}"),
    "move-codes (Concat)": Instance(
        "g (uint8[1,64,56,56] x, uint8[1,64,56,56] z) => (uint8[a,b,c,d] y)", "f = DequantizeLinear(x, half, mid)\n "
        "h = DequantizeLinear(z, half, mid)\n t = Concat<axis = 1>(f, h)\n y = QuantizeLinear(t, half, mid)", 17,
        "uint8 mid = {128}"),
    **{f"{name} ({channels} to {results}, {kernel} x {kernel} / {stride})": Instance(
        f"g (uint8[1,{channels},{size},{size}] x) => (uint8[a,b,c,d] y)", "f = DequantizeLinear(x, half, mid)\n "
        f"k = DequantizeLinear(few, ks)\n h = Conv<pads = {[kernel // 2] * 4}, strides = {[stride] * 2}>(f, k)\n "
        "y = QuantizeLinear(h, half, mid)", 17,
        f"int8[{results},{channels},{kernel},{kernel}] few, uint8 mid = {{128}}, float ks = {{0.01}}")
       for name, channels, results, kernel, stride, size in (
           ("stack_strides", 3, 64, 7, 2, 224), ("stack_strides", 3, 64, 5, 2, 224),
           ("stack_strides", 1, 32, 3, 2, 224),
           ("pad_channels", 3, 32, 3, 2, 224), ("pad_channels", 3, 64, 3, 1, 224), ("pad_channels", 1, 32, 3, 1, 28),
           ("pad_channels", 6, 24, 1, 1, 112), ("pad_channels", 18, 32, 3, 1, 56), ("pad_channels", 58, 64, 3, 1, 28))},
    "spell_lrn": Instance(MAP, "y = LRN<size = 5>(x)"),
    "spell_lrn (192 channels)": Instance(MAP.replace("64", "192"), "y = LRN<size = 5>(x)"),
    **{f"merge-products ({length} tokens)": Instance(
        TOKENS.replace("128", str(length)), "q = MatMul(x, w)\n k = MatMul(x, u)\n a = Add(q, gamma)\n "
        "b = Add(k, beta)\n y = Mul(a, b)", 17, "float[768,768] w, float[768,768] u") for length in (1, 16, 128)},
    **{f"projections_into_attention ({length} tokens)": Instance(
        f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n{TOKENS.replace("128", str(length))}',
        "h = MatMul(x, wide)\n s = Add(h, long)\n q, k, v = Split<axis = 2>(s, thirds)\n "
        "y = com.microsoft.MultiHeadAttention<num_heads = 12>(q, k, v)", 17,
        "float[768,2304] wide, float[2304] long, int64[3] thirds = {768, 768, 768}") for length in (16, 128, 384)},
    **{f"fuse-attention (masked rows, {length} tokens)": Instance(
        f"g (float[1,{length},768] x, bool[1,1,{length},{length}] allowed) => (float[a,b,c] y)",
        "mask = Where(allowed, zero, down)\n " + _HEADS.replace("p = Softmax(c)", "m = Add(c, mask)\n r = Softmax(m)\n "
        "n = IsNaN(r)\n p = Where(n, zero, r)"), 17,
        "float[768,768] w, float[768,768] u, float[768,768] v, int64[4] four = {0, 0, 12, 64}, float eighth = {0.125}, "
        "int64[3] three3 = {0, 0, 768}, float down = {-inf}") for length in (16, 128)},
    **{f"fuse-attention (cached, {past} before {length}, opset {opset})": Instance(
        f"g (float[1,{length},768] x, float[1,12,{past},64] pk, float[1,12,{past},64] pv) => (float[a,b,c] y, "
        "float[d,e,f,h] kc, float[i,j,l,o] vc)", _HEADS.replace("k = Transpose<perm = [0, 2, 3, 1]>(rk)",
        "kn = Transpose<perm = [0, 2, 1, 3]>(rk)\n kc = Concat<axis = 2>(pk, kn)\n vc = Concat<axis = 2>(pv, vs)\n "
        "k = Transpose<perm = [0, 1, 3, 2]>(kc)").replace("MatMul(p, vs)", "MatMul(p, vc)"), opset,
        "float[768,768] w, float[768,768] u, float[768,768] v, int64[4] four = {0, 0, 12, 64}, float eighth = {0.125}, "
        "int64[3] three3 = {0, 0, 768}") for opset in (17, 23) for past, length in ((128, 1), (512, 1), (128, 16))},
    **{f"fuse-attention ({length} tokens, opset {opset})": Instance(
        TOKENS.replace("128", str(length)), _HEADS, opset,
        "float[768,768] w, float[768,768] u, float[768,768] v, int64[4] four = {0, 0, 12, 64}, float eighth = {0.125}, "
        "int64[3] three3 = {0, 0, 768}") for opset in (17, 23) for length in (16, 128, 384)},
}  # fmt: skip
PASSES = (
    name_sizes,
    drop_requantization,
    move_codes,
    merge_products,
    fuse_operators,
    fuse_attention,
    fuse_for_onnxruntime,
)


def alone(name: str) -> tuple[Pass, ...]:
    """The passes with no rule but the one of that name and those that it builds on."""
    plain = name.partition(" ")[0]
    whole = next((item for item in PASSES if item.name == plain), None)
    if whole is not None:
        return (name_sizes, whole)
    every = (
        *drop_requantization.rules,
        *read_weights.rules,
        *widen_channels.rules,
        *spell_powers.rules,
        *operators.RULES,
        *onnxruntime.RULES,
        projections_into_attention,
    )  # those that are off, too
    rules = [rule for rule in every if rule.name == plain]
    before = {"bias_into_gelu": ("fuse_gelu",), "bias_into_fast_gelu": ("fuse_tanh_gelu",),
              "fuse_layer_norm": ("scale_into_norm", "shift_into_norm", "affine_into_instance_norm"),
              "fuse_rms_norm": ("scale_into_norm",), "bias_into_integer_product": ("scale_integer_product",),
              "quantize_in_product": ("scale_integer_product", "bias_into_integer_product")}.get(plain, ())  # fmt: skip
    rules += [rule for rule in every if rule.name in before]
    return tuple(as_pass(rule) for rule in rules)


def measure(name: str, target: str, seconds: float) -> float | None:
    """Original time / rewritten time; None where the rule does not fire for the target."""
    instance = INSTANCES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale = {key: 0.05 * rng.standard_normal((768, 768)) for key in ("w", "u", "v") if "768,768" in instance.weights}
    codes = {"codes": rng.integers(-99, 99, (768, 768)), "kernel": rng.integers(-99, 99, (64, 64, 3, 3))}
    before = lift(instance.text, instance.opset, v64=rng.uniform(0.5, 1.5, 64), **scale, **codes)
    after, _ = rewrite(before, *alone(name), *alone(name), target=target)
    if [node.op for node in after.graph] == [node.op for node in before.graph]:
        return None
    protos = {"original": onnx_io.to_proto(before), "rewritten": onnx_io.to_proto(after)}
    sessions = {label: ort_session(proto.SerializeToString()) for label, proto in protos.items()}
    return compare_latency(sessions, random_feeds(protos["original"]), seconds=seconds)[1].ratio


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=0.7)
    arguments = parser.parse_args()
    print(f"{'rule':44}{'portable':>10}{'onnxruntime':>13}", flush=True)
    for name in arguments.names or INSTANCES:
        cells = [measure(name, target, arguments.seconds) for target in ("portable", "onnxruntime")]
        print(
            f"{name:44}" + "".join(f"{'-' if c is None else f'{c:.2f}':>{w}}" for c, w in zip(cells, (10, 13))),
            flush=True,
        )


if __name__ == "__main__":
    main()
