"""A failing example is printed as IR text and kept as a file."""

import re

import onnx
import pytest
from hypothesis import Phase, given, settings

from graphopt.testing import assert_equivalent, graphs
from graphopt.testing.equivalent import failing_example
from tests import generators
from tests.test_optimize import conv_bn_model


def other_model():
    proto = conv_bn_model()
    proto.graph.node[-1].op_type = "Abs" if proto.graph.node[-1].op_type != "Abs" else "Neg"
    del proto.graph.node[-1].attribute[:]
    return proto


def test_a_failing_model_is_text_and_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(AssertionError, match="%c0 = Conv") as caught:
        assert_equivalent(conv_bn_model(), other_model(), power=False)
    text = str(caught.value)
    path = re.search(r"saved as (\S+)", text).group(1)
    assert "test_a_failing_model_is_text_and_file" in path and path.startswith(str(tmp_path))
    assert [n.op_type for n in onnx.load(path).graph.node] == [n.op_type for n in conv_bn_model().graph.node]


def test_the_last_that_shrinking_tried_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tried = []

    @settings(max_examples=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(graphs(blocks=2))
    def wrong(model):
        tried.append(len(model.graph.node))
        raise AssertionError(failing_example(model))

    with pytest.raises(AssertionError, match="saved as"):
        wrong()
    (kept,) = (tmp_path / "graphopt-failing").iterdir()
    assert tried and onnx.load(kept).graph.node


def test_large_models_are_not_printed():
    assert failing_example(generators.chain(200)) == "" and failing_example(b"no model") == ""
