"""Encoders of text are judged by the cosine of pooled vectors."""

import numpy as np
import pytest

import graphopt
from graphopt.errors import OptionError
from graphopt.measure import ort_session
from graphopt.measure.embeddings import PooledVectors
from tests.quantize.nets import parse

WORDS, WIDE = 200, 64
RNG = np.random.default_rng(4)
FEEDS = [
    {"ids": RNG.integers(0, WORDS, (2, 9)), "mask": (np.arange(9) < [[9], [4 + i]]).astype(np.int64)} for i in range(6)
]


def encoder(rng):
    """A few inputs of the second product are a hundred times as large as the others: rounding them costs the rest."""
    loud = np.ones(WIDE, np.float32)
    loud[:2] = 100.0
    matrix = (rng.standard_normal((WIDE, WIDE)) / 8).astype(np.float32)
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[N,S] ids, int64[N,S] mask) => (float[N,S,{WIDE}] hidden)
        <float[{WORDS},{WIDE}] table, float[{WIDE},{WIDE}] w1, float[{WIDE}] loud, float[{WIDE},{WIDE}] w2>
        {{
            e = Gather(table, ids)
            a = MatMul(e, w1)
            t = Tanh(a)
            l = Mul(t, loud)
            b = MatMul(l, w2)
            m = Cast<to=1>(mask)
            last = Constant<value_ints=[-1]>()
            u = Unsqueeze(m, last)
            hidden = Mul(b, u)
        }}""",
        table=rng.standard_normal((WORDS, WIDE)).astype(np.float32), w1=matrix, loud=loud,
        w2=matrix[::-1] / loud[:, None],
    )  # fmt: skip


def pooled(model, feed):
    hidden, mask = ort_session(model.SerializeToString()).run(None, feed)[0], feed["mask"][..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


def test_vectors_are_averaged_over_the_tokens_that_the_mask_keeps():
    vectors, feed = PooledVectors(), {"ids": np.array([[1, 2, 3]]), "mask": np.array([[1, 1, 0]])}
    vectors.add(np.array([[[1.0, 0], [1, 0], [0, 9]]]), np.array([[[3.0, 0], [0, 3], [7, 7]]]), feed)
    assert vectors.cosine == pytest.approx(np.sqrt(0.5))
    vectors.add(np.ones((1, 3, 2)), np.ones((1, 3, 4)), feed)  # another shape
    assert vectors.cosine == pytest.approx(np.sqrt(0.5) / 2)
    vectors.add(np.ones((1, 4, 2)), np.zeros((1, 4, 2)), feed)  # not one vector a token
    assert vectors.texts == 2 and PooledVectors().cosine is None


def test_layers_return_to_float_until_the_vectors_are_close():
    found, model = {}, encoder(np.random.default_rng(0))
    for least in (0.5, 0.9999):
        options = graphopt.Quantize("dynamic", speed=False, min_sqnr=0.0, min_cosine=least)
        made = graphopt.optimize(model, quantize=options, calibration=FEEDS)
        cosines = []
        for feed in FEEDS:
            a, b = pooled(model, feed), pooled(made.model, feed)
            cosines += [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b)]
        found[least] = np.mean(cosines), made.report.stages[0]
    assert found[0.5][0] < 0.9999 <= found[0.9999][0]
    assert found[0.5][1].figures["layers"] == 2 and found[0.9999][1].figures["layers"] == 1
    assert f"cosine {found[0.5][0]:.4f} of pooled vectors (floor 0 dB, cosine 0.5" in found[0.5][1].summary


def test_the_cosine_is_at_most_one():
    with pytest.raises(OptionError, match="min_cosine 2 is not a cosine of at most 1"):
        graphopt.Quantize(min_cosine=2)
