"""BatchNormalization folds into its neighbours, and stays wherever that would not be exact."""

import numpy as np
import pytest

from graphopt.passes.fold.batchnorm import fold_batchnorm
from graphopt.pipeline.driver import constant_bytes
from tests.passes.harness import assert_same, lift, ops, rewrite

STATS = "float[6] g, float[6] b, float[6] m, float[6] v"
RNG = np.random.default_rng(1)
VALUES = {"g": RNG.standard_normal(6), "b": RNG.standard_normal(6), "m": RNG.standard_normal(6),
          "v": RNG.uniform(0.1, 2, 6)}  # fmt: skip
IMAGE = "g (float[N,4,7,7] x) => (float[a,b,c,d] y)"
ROWS = "g (float[N,4] x) => (float[a,b] y)"
NORM = "y = BatchNormalization(h, g, b, m, v)"
FOLDS = {
    "Conv": f"{IMAGE} <{STATS}, float[6,4,3,3] w> {{ h = Conv<pads = [1,1,1,1]>(x, w)\n {NORM} }}",
    "Conv with bias": f"{IMAGE} <{STATS}, float[6,4,3,3] w, float[6] c> {{ h = Conv(x, w, c)\n {NORM} }}",
    "grouped Conv": f"{IMAGE} <{STATS}, float[6,2,3,3] w> {{ h = Conv<group = 2>(x, w)\n {NORM} }}",
    "ConvTranspose": f"{IMAGE} <{STATS}, float[4,6,3,3] w> {{ h = ConvTranspose<strides = [2,2]>(x, w)\n {NORM} }}",
    "grouped ConvTranspose":
        f"{IMAGE} <{STATS}, float[4,3,3,3] w, float[6] c> {{ h = ConvTranspose<group = 2>(x, w, c)\n {NORM} }}",
    "Gemm": f"{ROWS} <{STATS}, float[4,6] w, float[1,6] c> {{ h = Gemm<alpha = 0.5, beta = 2.0>(x, w, c)\n {NORM} }}",
    "transposed Gemm": f"{ROWS} <{STATS}, float[6,4] w> {{ h = Gemm<transB = 1>(x, w)\n {NORM} }}",
    "Gemm with a scalar": f"{ROWS} <{STATS}, float[4,6] w, float c> {{ h = Gemm(x, w, c)\n {NORM} }}",
    "MatMul": f"{ROWS} <{STATS}, float[4,6] w> {{ h = MatMul(x, w)\n {NORM} }}",
}  # fmt: skip
NEXT = "h = BatchNormalization(x, g, b, m, v)"
BEFORE = {
    "Conv": f"g (float[N,6,7,7] x) => (float[a,b,c,d] y) <{STATS}, float[4,6,3,3] w> {{ {NEXT}\n y = Conv(h, w) }}",
    "grouped Conv": f"g (float[N,6,7,7] x) => (float[a,b,c,d] y) <{STATS}, float[8,3,3,3] w, float[8] c> "
        f"{{ {NEXT}\n y = Conv<group = 2>(h, w, c) }}",
    "Gemm": f"g (float[N,6] x) => (float[a,b] y) <{STATS}, float[6,4] w, float[4] c> "
        f"{{ {NEXT}\n y = Gemm<alpha = 0.5, beta = 3.0>(h, w, c) }}",
    "transposed Gemm": f"g (float[N,6] x) => (float[a,b] y) <{STATS}, float[4,6] w> "
        f"{{ {NEXT}\n y = Gemm<transB = 1>(h, w) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_norm_folds_into_what_precedes_it(name):
    before = lift(FOLDS[name], **VALUES)
    after, changes = rewrite(before, fold_batchnorm)
    assert (changes, len(ops(after))) == (1, 1)
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", BEFORE)
def test_norm_folds_into_what_follows_it(name):
    before = lift(BEFORE[name], **VALUES)
    after, changes = rewrite(before, fold_batchnorm)
    assert (changes, len(ops(after))) == (1, 1)
    assert_same(before, after, rtol=1e-4)


CONV = FOLDS["Conv"]
DECLINED = {
    "result used elsewhere": (CONV.replace("=> (float[a,b,c,d] y)", "=> (float[a,b,c,d] y, float[a,b,e,f] h)"), {}),
    "negative variance": (CONV, {"v": -np.ones(6)}),
    "zero variance, no epsilon":
        (CONV.replace("Normalization(", "Normalization<epsilon = 0.0>("), {"v": np.zeros(6)}),
    "overflow": (CONV.replace("Normalization(", "Normalization<epsilon = 0.0>("), {"v": np.full(6, 1e-30),
                 "w": np.full((6, 4, 3, 3), 1e30)}),
    "training": (CONV.replace("y = Batch", "y, m1, v1 = Batch").replace("Normalization(",
                 "Normalization<training_mode = 1>("), {}),
    "padding before a shift": (BEFORE["Conv"].replace("Conv(h", "Conv<pads = [1,1,1,1]>(h"), {}),
    "padding by name": (BEFORE["Conv"].replace("Conv(h", 'Conv<auto_pad = "SAME_UPPER">(h'), {}),
    "half precision": (CONV.replace("float", "float16"), {}),
    "stack of matrices": (f"g (float[N,6,4] x) => (float[a,b,c] y) <{STATS}, float[4,5] w> "
                          f"{{ h = MatMul(x, w)\n {NORM} }}", {}),
    "bias of positions": (f"g (float[3,4] x) => (float[a,b] y) <{STATS}, float[4,6] w, float[3,6] c> "
                          f"{{ h = Gemm(x, w, c)\n {NORM} }}", {}),
    "weights that are computed": (f"{IMAGE.replace('x)', 'x, float[6,4,3,3] w)')} <{STATS}> "
                                  f"{{ h = Conv(x, w)\n {NORM} }}", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLINED)
def test_norm_stays_where_folding_would_not_be_exact(name):
    text, values = DECLINED[name]
    before = lift(text, **{**VALUES, **values})
    assert rewrite(before, fold_batchnorm)[1] == 0


def test_norm_of_no_shift_folds_into_a_padded_conv():
    text = BEFORE["Conv"].replace("Conv(h", "Conv<pads = [1,1,1,1]>(h")
    before = lift(text, **{**VALUES, "b": np.zeros(6), "m": np.zeros(6)})
    after, changes = rewrite(before, fold_batchnorm)
    assert changes == 1
    assert_same(before, after, rtol=1e-4)


def test_statistics_of_each_position_stay():
    stats = ", ".join(f"float[6,1,1] {name}" for name in "gbmv")
    graph = "h = Conv(x, w)\n y = BatchNormalization<spatial = 0>(h, g, b, m, v)"
    text = f"g (float[N,6,1,1] x) => (float[a,b,c,d] y) <{stats}, float[6,6,1,1] w> {{ {graph} }}"
    assert rewrite(lift(text, opset=8), fold_batchnorm)[1] == 0


def test_old_norm_trains_unless_told_otherwise():
    for attrs, changes in (("", 0), ("<is_test = 1>", 1)):
        before = lift(CONV.replace("Normalization(", f"Normalization{attrs}("), opset=6, **VALUES)
        assert rewrite(before, fold_batchnorm)[1] == changes


SHARED = f"g (float[N,4,7,7] x) => (float[a,b,c,d] y, float[e,f,i,j] z) <{STATS}, float[6,4,3,3] w> " \
    f"{{ h = Conv(x, w)\n {NORM}\n z = Conv<pads = [1,1,1,1]>(x, w) }}"  # fmt: skip


def test_shared_weight_is_copied_only_within_the_limit():
    before = lift(SHARED, **VALUES)
    after, changes = rewrite(before, fold_batchnorm)
    assert changes == 1
    assert_same(before, after, rtol=1e-4)
    assert rewrite(before, fold_batchnorm, size_limit=constant_bytes(before) + 100)[1] == 0
