"""Files of onnxruntime-genai on kernels: GroupQueryAttention and the norms beside it give onnxruntime's results."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.kernels import select_level
from graphopt.runtime.lower.decoders.spelling import spelled_for_kernels
from tests.passes.harness import lift, ops
from tests.runtime.genai import Form, feeds, make_genai_model
from tests.runtime.language import LAYERS, SIZE, stock

CASES = [
    {"past": 7, "tokens": 1}, {"past": 0, "tokens": 6}, {"past": 130, "tokens": 1}, {"past": 5, "tokens": 3},
    {"past": 9, "tokens": 1, "batch": 2},
]  # fmt: skip
pytestmark = pytest.mark.skipif(bool(SIZE % select_level().lanes), reason="heads are no whole vectors")


def on_kernels(form: Form) -> graphopt.Session:
    return graphopt.Session(make_genai_model(form).SerializeToString(), threads=1, kernels=True)


def assert_alike(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Products round their inputs to 8 bits on both sides: one step more or less where a sum lies between two."""
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=(0.05 if index == 0 else 0.02) * np.abs(b).max())


@pytest.mark.parametrize(
    "form",
    [
        Form(), Form(packed=False), Form(interleaved=True), Form(turned=16), Form(window=5), Form(rotary=False),
        Form(open_heads=False),
    ],
)  # fmt: skip
def test_results_are_those_of_onnxruntime(form: Form) -> None:
    session, other = on_kernels(form), stock(make_genai_model(form))
    for case in CASES:
        assert_alike(session.run(None, feeds(**case)), other.run(None, feeds(**case)))
    (region,) = session.regions
    assert region.refusals == []
    kinds = [operation for part in session.describe().parts for operation in part.operators]
    assert "CachedAttention" in kinds and "com.microsoft::GroupQueryAttention" not in kinds
    assert session.covered == (5 if form.packed else 7) * LAYERS + 1


def test_norms_of_heads_are_spelled_for_kernels() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
    g (float[B,S,12] x) => (float[a,b,c] y) <float[4] gamma> {
      y = com.microsoft.BranchwiseRMSNorm<num_branches = 3, epsilon = 0.01>(x, gamma)
    }"""
    model = lift(text, 23)
    spelled = spelled_for_kernels(model)
    assert spelled is not None and ops(spelled.model) == ["Reshape", "SimplifiedLayerNormalization", "Reshape"]
    given = {"x": np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)}
    before, after = (stock(onnx_io.to_proto(one)).run(None, given)[0] for one in (model, spelled.model))
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_a_cap_of_scores_stays_with_onnxruntime() -> None:
    form = Form(softcap=10.0)
    session, other = on_kernels(form), stock(make_genai_model(form))
    for case in CASES[:2]:
        assert_alike(session.run(None, feeds(**case)), other.run(None, feeds(**case)))
    kinds = {operation for part in session.describe().parts for operation in part.operators}
    assert "com.microsoft::GroupQueryAttention" in kinds and "CachedAttention" not in kinds


def test_padded_batches_run_whole_in_onnxruntime() -> None:
    """Their new keys lie amid the cache, which kernels only make longer."""
    session, other = on_kernels(Form()), stock(make_genai_model())
    for past in (0, 4):
        given = feeds(past, 5 if past == 0 else 1, batch=2)
        given["attention_mask"][0, -1 - (past == 0) :] = 0
        expected = other.run(None, given)
        assert all(np.array_equal(a, b) for a, b in zip(session.run(None, given), expected, strict=True))
    assert "whole in onnxruntime" in str(session.describe())


def test_a_text_is_that_of_onnxruntime() -> None:
    """Products do not round here, so that the likeliest tokens are the same."""
    model = make_genai_model(accuracy_level=1)
    session, other = graphopt.Session(model.SerializeToString(), threads=1), stock(model)
    given, tokens = feeds(0, 1), [3, 1, 4]
    given["input_ids"] = np.array([tokens])
    names = [output.name for output in other.get_outputs()][1:]
    for _ in range(12):
        length = given["past_key_values.0.key"].shape[2] + given["input_ids"].shape[1]
        given["attention_mask"] = np.ones((1, length), np.int64)
        logits, *caches = other.run(None, given)
        tokens.append(int(logits[0, -1].argmax()))
        given = {name.replace("present", "past_key_values"): cache for name, cache in zip(names, caches)}
        given["input_ids"] = np.array([tokens[-1:]])
    assert session.generate([3, 1, 4], 12).tolist() == tokens


def test_caches_grow_in_place_and_plans_are_kept() -> None:
    source = make_genai_model().SerializeToString()
    first = graphopt.Session(source, threads=1, kernels=True)
    given = feeds(3, 1)
    names = [output.name for output in first.get_outputs()][1:]
    _, *caches = first.run(None, given)
    more = {name.replace("present", "past_key_values"): cache for name, cache in zip(names, caches)}
    more |= {"input_ids": np.array([[5]]), "attention_mask": np.ones((1, 5), np.int64)}
    again = first.run(None, more)
    assert all(np.shares_memory(a, b) for a, b in zip(caches, again[1:]))
    second = graphopt.Session(source, threads=1, kernels=True)
    for a, b in zip(second.run(None, given), first.run(None, given), strict=True):
        np.testing.assert_array_equal(a, b)
