"""Rounding learnt block by block: the blocks, what is learnt, and what happens where nothing can be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.frontier import Frontier
from graphopt.compress.stages import stage_context
from graphopt.passes.quantize.candidates.assignment import Assignment
from graphopt.passes.quantize.candidates.calibrated_model import calibrate_model
from graphopt.passes.quantize.refit import learned
from graphopt.passes.quantize.refit.blocks import blocks_of
from graphopt.passes.quantize.refit.learned import learn
from graphopt.passes.quantize.refit.streams import Streams, layers_of
from tests.quantize.nets import convnet, images, parse

FEEDS = 24


def without_gradient() -> onnx.ModelProto:
    """Between its layers an operator that has no gradient."""
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,16,16] x) => (float[N,4,16,16] y)
        <float[8,3,3,3] w1, float[8] b1, float[4,8,1,1] w2, float[4] b2, float[8,8,1,1] w3>
        {
            c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
            d = Det(c1)
            u = ReduceMax<keepdims=1>(d)
            c3 = Conv(c1, w3)
            s = Add(c3, u)
            y = Conv(s, w2, b2)
        }"""
    )


def assigned(model: onnx.ModelProto, seed: int = 0, **options: object) -> tuple[Assignment, object, list]:
    feeds = images(FEEDS)
    lifted = onnx_io.load(model)
    context = stage_context(lifted, feeds, seed=seed)
    quantize = graphopt.Quantize("static", rounding="learned", min_sqnr=-np.inf, min_top1=0, **options)
    return calibrate_model(lifted, quantize, context).assignment, context, feeds


def learnt(monkeypatch: pytest.MonkeyPatch, steps: int = 60, **options: object) -> tuple[Assignment, Assignment, list]:
    monkeypatch.setattr(learned, "STEPS", steps)
    before, context, feeds = assigned(convnet(), **options)
    return before, learn(before, context, feeds), feeds


def test_blocks_end_where_one_activation_waits():
    assignment, _, feeds = assigned(convnet())
    layers = layers_of(assignment)
    blocks = blocks_of(Frontier(assignment.model, feeds[:1]), layers)
    assert [u.node for block in blocks for u in block.layers] == [u.node for u in layers]
    assert [len(block.layers) for block in blocks] == [2, 2, 1]
    assert blocks[0].end.producer.op == "Relu" and blocks[0].end.producer.inputs[0].producer.op == "Add"
    assert blocks[-1].end.is_result


def test_what_is_learnt_is_closer_on_held_out_samples_and_repeatable(monkeypatch):
    errors: list[tuple[int, float]] = []
    run = learned._run

    def recorded(streams, block):
        errors.append((len(errors), run(streams, block)))
        return errors[-1][1]

    monkeypatch.setattr(learned, "_run", recorded)
    options = {"weight_type": "int2", "activation_type": "uint4"}
    _, first, _ = learnt(monkeypatch, **options)
    assert len(errors) == 6  # of three blocks, before and after
    pairs = [(errors[k][1], errors[k + 1][1]) for k in (0, 2, 4)]
    assert any(after < before for before, after in pairs), pairs
    _, again, _ = learnt(monkeypatch, **options)
    for a, b in zip(layers_of(first), layers_of(again)):
        assert np.array_equal(first.codes[a.node].rows, again.codes[b.node].rows)
        assert np.array_equal(first.codes[a.node].scale, again.codes[b.node].scale)


def test_codes_that_are_learnt_stay_on_their_grids(monkeypatch):
    before, after, feeds = learnt(monkeypatch, weight_type="int2", activation_type="uint4")
    moved = 0
    for unit in layers_of(after):
        codes = after.codes[unit.node]
        spread = codes.rows.max(axis=-1).astype(int) - codes.rows.min(axis=-1)
        assert spread.max() <= 3 and codes.bits == 2 and (codes.scale > 0).all()
        moved += not np.array_equal(codes.rows, before.codes[unit.node].rows)
    assert moved
    assert all(after.narrow[v].zero == grid.zero or grid.zero >= 0 for v, grid in before.narrow.items())
    assert Streams(after, feeds, 0).count == FEEDS


def test_a_block_without_a_gradient_keeps_its_closed_form(monkeypatch):
    monkeypatch.setattr(learned, "STEPS", 5)
    assignment, context, feeds = assigned(without_gradient(), weight_type="int4")
    reached: list[str] = []
    init = learned.Learner.__init__

    def refused(self, *given):
        try:
            init(self, *given)
        except Exception as error:
            reached.append(str(error))
            raise

    monkeypatch.setattr(learned.Learner, "__init__", refused)
    after = learn(assignment, context, feeds)
    assert any("Det" in reason for reason in reached)
    assert set(after.codes) == set(assignment.codes)
