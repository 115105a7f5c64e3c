"""Caches that kernels keep while a text is written: nobody else has them, and logits of the last token are enough."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import ModelError
from graphopt.runtime.execute.growing import KeptCache, SharedMemory
from graphopt.runtime.execute.region import Region
from tests.runtime.language import HEADS, SIZE, feeds, make_language_model, on_kernels
from tests.runtime.test_language import assert_likeliest


@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_of_generation_computes_the_last_row_of_logits(session: graphopt.Session, batch: int) -> None:
    """The row that `run` computes, bit for bit; of several prompts at once all rows."""
    given = feeds(0, 5, batch=batch)
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, given)))
    memory = SharedMemory()
    empty = {name: KeptCache(batch, HEADS, SIZE, np.float32, memory) for name in given if "past" in name}
    made = dict(zip(names, session._step(names, {**given, **empty})))
    rows = slice(-1, None) if batch == 1 else slice(None)
    np.testing.assert_array_equal(made["logits"], expected["logits"][:, rows])
    for name in names[1:]:
        np.testing.assert_array_equal(made[name].array[:, :, :5], expected[name])


def test_a_text_goes_on_in_onnxruntime_where_kernels_refuse(
    model: onnx.ModelProto, session: graphopt.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [3, 1, 4, 2, 5, 40, 33]
    other = on_kernels(model)
    tokens = other.tokens(prompt, 20)
    begun = [next(tokens) for _ in range(9)]
    monkeypatch.setattr(Region, "on_kernels", lambda *_: None)
    assert_likeliest(model, prompt, [*prompt, *begun, *tokens])
    coded = session.tokens(prompt, 2, cache="int8")
    with pytest.raises(ModelError, match="cache='int8' cannot be had"):
        next(coded)


def test_caches_that_other_nodes_read_are_arrays(session: graphopt.Session) -> None:
    model, prompt = make_language_model(), [3, 1, 4, 2]
    model.graph.node.append(helper.make_node("Relu", ["present.0.key"], ["positive"]))
    model.graph.output.append(helper.make_tensor_value_info("positive", TensorProto.FLOAT, None))
    other = on_kernels(model)
    assert other.regions
    assert other.generate(prompt, 20).tolist() == session.generate(prompt, 20).tolist()
    with pytest.raises(ModelError, match="whose attention kernels compute"):
        other.generate(prompt, 2, cache="int8")
