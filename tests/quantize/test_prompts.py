"""Prompts of language models: feeds with real caches, text of the model's own, and the floor in KL."""

from types import SimpleNamespace

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.calibration import STARTS, Prompts, open_calibration
from graphopt.calibration.doubts import doubts
from graphopt.equivalence.runnable import open_runnable, signature_of
from graphopt.measure import Quality, ort_session
from graphopt.measure.tokens import TokenScores
from graphopt.passes.quantize.candidates.feeds import OWN_TIMES, USUAL, times_of_own, timing_feed, with_texts_beside
from tests.ops import decoders
from tests.quantize.nets import convnet, parse

TEXT = np.array([5, 9, 2, 77, 31, 8, 64, 3])


@pytest.fixture(scope="module")
def model():
    return onnx_io.load(decoders.decoder())


def run(model, feed):
    return open_runnable(model).session(optimize=True).run(feed)


def test_the_second_half_of_a_prompt_runs_on_the_cache_of_the_first(model):
    first, second = open_calibration([TEXT.tolist()], model)
    assert np.array_equal(first["ids"], [TEXT[:4]]) and first["past_k0"].shape == (1, 2, 0, 16)
    assert np.array_equal(second["ids"], [TEXT[4:]]) and np.array_equal(second["mask"], np.ones((1, 8)))
    whole = Prompts.of(signature_of(model), model).feed(TEXT)
    expected = run(model, whole)["logits"]
    assert np.abs(run(model, second)["logits"] - expected[:, 4:]).max() < 1e-4 * np.abs(expected).max()


def test_prompts_of_several_lengths_and_forms_run_whole_after_the_first_few(model):
    prompts = [TEXT, TEXT[:5].tolist(), tuple(TEXT[:3]), TEXT[2:], TEXT[1:7], TEXT[:6]]
    feeds = [*open_calibration(prompts, model)]
    assert [feed["ids"].shape[1] for feed in feeds] == [4, 4, 2, 3, 1, 2, 3, 3, 6, 6]
    rows = [*open_calibration(np.stack([TEXT, TEXT + 1]), model)]
    assert np.array_equal(rows[2]["ids"], [TEXT[:4] + 1]) and len(rows) == 4


def test_texts_become_tokens(model):
    found = next(
        iter(open_calibration(["ab"], model, preprocess=lambda text: {"input_ids": [ord(c) % 90 for c in text]}))
    )
    assert np.array_equal(found["ids"], [[7]])
    with pytest.raises(graphopt.InputError, match="texts need preprocess=, a function that turns a text into tokens"):
        open_calibration(["ab"], model)
    with pytest.raises(graphopt.InputError, match="made no tokens of a text, but str"):
        open_calibration(["ab"], model, preprocess=lambda text: text)
    with pytest.raises(graphopt.InputError, match="holds token 5000, and the model's table has 100 rows"):
        open_calibration([[1, 5000]], model)
    with pytest.raises(graphopt.InputError, match="holds token -101, and the model's table has 100 rows"):
        open_calibration([[1, -101]], model)
    with pytest.raises(graphopt.InputError, match="takes no tokens"):
        open_calibration(["ab"], convnet(), preprocess=ord)


PLACED = """<ir_version: 8, opset_import: ["" : 17]>
net (int64[b,s] input_ids, int64[b,t] attention_mask, int64[b,s] position_ids, int64[b,s] token_type_ids)
=> (int64[b,s] y)
{ a = Add(input_ids, position_ids) y = Add(a, token_type_ids) }"""


def test_what_a_tokenizer_gives_is_completed():
    sample = {"input_ids": np.array([[0, 0, 7, 8]]), "attention_mask": np.array([[0, 0, 1, 1]])}
    feed = next(iter(open_calibration([sample], parse(PLACED))))
    assert np.array_equal(feed["position_ids"], [[0, 0, 0, 1]]) and not feed["token_type_ids"].any()
    assert np.array_equal(feed["attention_mask"], sample["attention_mask"])


def test_a_long_prompt_is_timed_by_its_first_tokens(model):
    tokens, prompts = np.tile(TEXT, 40), Prompts.of(signature_of(model), model)
    calibration = SimpleNamespace(prompts=prompts, first=lambda count: [prompts.feed(tokens)])
    feed = timing_feed(SimpleNamespace(calibration=calibration))
    assert np.array_equal(feed["ids"], tokens[None, :64]) and feed["mask"].shape == (1, 64)
    assert feed["past_k0"].shape == (1, 2, 0, 16)


MASKED = """<ir_version: 8, opset_import: ["" : 17]>
net (int64[b,s] input_ids, int64[b,s] attention_mask) => (float[b,s] y)
<float one = {1.0}, float lowest = {-1e30}>
{ seen = Cast<to = 1>(attention_mask) padding = Sub(one, seen) hidden = Mul(padding, lowest)
  ids = Cast<to = 1>(input_ids) y = Add(ids, hidden) }"""


def test_a_mask_is_not_doubted_for_its_units():
    graph = onnx_io.load(parse(MASKED))
    samples = [{"input_ids": TEXT[None], "attention_mask": np.ones((1, 8), np.int64)}] * 2
    assert doubts(graph, open_calibration(samples, graph)) == ()


def test_without_data_the_model_writes_its_own_text(model):
    calibration = open_calibration(None, model, seed=3)
    assert calibration.is_synthetic and calibration.shows_activations and "itself wrote" in calibration.note
    feeds = [*calibration]
    assert [int(feed["ids"][0, 0]) for feed in feeds[2:5]] == [*STARTS]
    again = [*open_calibration(None, model, seed=3)]
    assert all(np.array_equal(a["ids"], b["ids"]) for a, b in zip(feeds, again, strict=True))
    text = feeds[3]
    scores = run(model, text)["logits"][0]
    likely = np.argsort(-scores, axis=1)[:-1, :40]
    assert all(token in row for token, row in zip(text["ids"][0, 1:], likely))  # each among its 40 likeliest
    plain = open_calibration(None, convnet())
    assert not plain.shows_activations and "itself" not in plain.note


def test_weights_of_few_bits_read_text_of_the_models_own_beside_the_data(model):
    calibration = open_calibration([TEXT, np.roll(TEXT, 3)], model, seed=3)
    context = SimpleNamespace(calibration=calibration, quality=SimpleNamespace(reference=model))

    def read(weight_type):
        options = graphopt.Quantize(mode="weights", weight_type=weight_type)
        return [(feed["ids"], times) for feed, times in with_texts_beside(calibration, options, context)]

    given = [(feed["ids"], 1) for feed in calibration]
    times = times_of_own([feed["ids"] for feed in calibration.own_text()], (feed["ids"] for feed in calibration))
    own = [(feed["ids"], times) for feed in open_calibration(None, model, seed=3)]
    starts = [(ids, times) for ids, times in read("int8") if ids[0, 0] in STARTS][: len(STARTS)]
    for weight_type, expected in (("int8", [*starts, *given]), ("int4", [*starts, *own, *given])):
        for (ids, times), (wanted, count) in zip(read(weight_type), expected, strict=True):
            np.testing.assert_array_equal(ids, wanted)
            assert times == count
    assert open_calibration(None, model, seed=3).own_text() == []
    assert open_calibration(None, convnet()).own_text() == []


def test_own_text_counts_more_beside_data_that_are_far_from_it():
    own = [np.arange(8).reshape(1, 8), np.arange(8).reshape(1, 8)]
    assert times_of_own(own, [np.arange(8)[::-1]] * 9) == OWN_TIMES
    assert times_of_own(own, [np.arange(8, 16)]) == round(OWN_TIMES / USUAL) > OWN_TIMES  # no token in common: one bit
    half = [np.array([0, 1, 2, 3, 8, 9, 10, 11])]  # half of each text is the other's: half a bit, below the usual
    assert times_of_own(own[:1], half) == OWN_TIMES
    assert times_of_own([], half) == OWN_TIMES


def test_divergence_and_perplexity_by_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 70, 11)).astype(np.float32)
    tokens = rng.integers(0, 11, (2, 70))
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True) for x in (a, b))
    scores = TokenScores()
    scores.add(a, b, {"input_ids": tokens, "position_ids": np.zeros((2, 70), np.int64)})
    assert scores.divergence == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-5)
    for found, x in zip(scores.perplexity, (p, q)):
        likelihood = np.take_along_axis(x[:, :-1], tokens[:, 1:, None], axis=-1)
        assert found == pytest.approx(np.exp(-np.log(likelihood).mean()), rel=1e-5)
    assert TokenScores().divergence is None
    scores.add(a, b[:, 1:], {})
    assert scores.divergence == np.inf


def test_a_language_model_is_judged_by_its_divergence(model):
    """Weights of 4 bits keep the tokens, not 15 dB: none of them returns to 8 bits unless the KL is too large."""
    prompts = [TEXT, np.roll(TEXT, 3)]
    quality = Quality(
        model, lambda m: ort_session(onnx_io.to_proto(m).SerializeToString()), open_calibration(prompts, model)
    )
    assert quality.next_tokens == {0} and quality.fidelity(model).divergence == pytest.approx(0, abs=1e-5)

    def widths(**options):
        asked = graphopt.Quantize(mode="weights", weight_type="int4", min_sqnr=60.0, speed=False, **options)
        report = graphopt.optimize(decoders.decoder(), quantize=asked, calibration=prompts, validate=False).report
        stage = report.stages[-1]
        return {row[stage.columns.index("bits")] for row in stage.rows}, stage.summary

    bits, summary = widths()
    assert bits == {4, 8} or bits == {4}
    assert "KL" in summary and "at most KL 1" in summary
    assert 8 in widths(max_kl=1e-9)[0] or None in widths(max_kl=1e-9)[0]


def test_a_model_that_takes_no_more_tokens_than_it_wrote_is_quantized():
    """Its text fills all its positions: prompts that are calibrated on must not be longer."""
    asked = graphopt.Quantize(mode="weights", speed=False, min_sqnr=1.0)
    report = graphopt.optimize(decoders.decoder(), quantize=asked, validate=False).report
    assert report.stages[-1].changed and "int8" in report.stages[-1].summary
