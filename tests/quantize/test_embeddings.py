"""Encoders of text are judged by the cosine of pooled vectors."""

from collections import Counter

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


def encoder(rng, is_idle=False):
    """A few inputs of the second product are a hundred times as large as the others: rounding them costs the rest.

    Their weights are as small, hence rounded as coarsely; `is_idle`: they are 0.
    """
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
        w2=matrix[::-1] / loud[:, None] if not is_idle else np.where(loud[:, None] > 1, 0, matrix[::-1]),
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


def test_layers_compute_on_stored_weights_where_that_is_close_enough():
    model = encoder(np.random.default_rng(0), is_idle=True)
    options = graphopt.Quantize("dynamic", speed=False, min_sqnr=0.0, min_cosine=0.97)
    made = graphopt.optimize(model, quantize=options, calibration=FEEDS)
    found, (report,) = Counter(node.op_type for node in made.model.graph.node), made.report.stages
    assert (found["MatMulInteger"], found["MatMul"], found["DequantizeLinear"]) == (1, 1, 1)
    assert made.recipe.layers == {"a": "dynamic", "b": "weights8"}
    assert report.refused == (("b", "reads weights stored in 8 bits, its input stays float, for accuracy"),)
    assert "1 of 2 layers as weights stored in 8 bits, for accuracy" in report.summary
    assert report.figures["share_of_macs"] == 0.5
    assert [row.runs_on for row in report.layers] == ["int8", "float"]
    again = graphopt.optimize(model, recipe=made.recipe, calibration=FEEDS)
    assert again.model.SerializeToString(deterministic=True) == made.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_stored_layers_are_those_of_mode_weights(target):
    """Every layer as stored weights, in mode dynamic: the codes do not keep to what 16 bits hold."""
    model, layers = encoder(np.random.default_rng(0)), {"a": "weights8", "b": "weights8"}
    made = [
        graphopt.optimize(model, quantize=graphopt.Quantize(mode, layers=layers, rounding=False), target=target)
        for mode in ("dynamic", "weights")
    ]
    results = [ort_session(one.model.SerializeToString()).run(None, FEEDS[0])[0] for one in made]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)
    assert "MatMulInteger" not in {node.op_type for node in made[0].model.graph.node}


def test_the_cosine_is_at_most_one():
    with pytest.raises(OptionError, match="min_cosine 2 is not a cosine of at most 1"):
        graphopt.Quantize(min_cosine=2)


def test_texts_without_direction_do_not_count():
    """A text of which the mask keeps nothing counted as wrong, so that no encoder was quantized without data."""
    vectors, rng = PooledVectors(), np.random.default_rng(0)
    reference = rng.standard_normal((3, 4, 8)).astype(np.float32)
    reference[2] = np.nan
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    vectors.add(reference, reference, {"ids": np.ones((3, 4), np.int64), "mask": mask})
    assert vectors.texts == 1
    assert vectors.cosine == pytest.approx(1)
    vectors.add(reference, np.full_like(reference, np.nan), {"mask": mask})
    assert vectors.cosine == pytest.approx(0.5)


def test_an_encoder_is_quantized_without_data():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (int64[B,S] ids, int64[B,S] attention_mask) => (float[B,S,64] y)
        <float[50,64] t, float[64,64] w, float[64] g, float[64] b>
        { x = Gather(t, ids) h = MatMul(x, w) y = LayerNormalization(h, g, b) }"""
    )
    options = graphopt.Quantize(mode="dynamic", speed=False)
    assert graphopt.optimize(model, quantize=options).report.stages[0].changed
