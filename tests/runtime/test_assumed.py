"""Shapes under assumed open sizes: what ONNX is asked for, and how often."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.equivalence.synthesis.probe import Probe
from graphopt.onnx_io import load
from graphopt.runtime.place.assumed import assumed_shapes


def _float(name: str, dims: list[str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def test_shapes_that_are_known_are_not_inferred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds behind the first read what is unknown, with its captures; a constant without elements asks for no longer
    sizes."""
    n = helper.make_node
    body = helper.make_graph([n("Mul", ["wide", "half"], ["scaled"])], "body", [], [_float("scaled", None)])
    nodes = [
        n("Relu", ["x"], ["r"]), n("Relu", ["r"], ["wide"]), n("Concat", ["x", "nothing"], ["kept"], axis=1),
        n("Range", ["zero", "length", "one"], ["positions"]), n("Add", ["positions", "one"], ["moved"]),
        n("Shape", ["x"], ["sizes"]), n("Gather", ["sizes", "one"], ["length"]),
        n("If", ["yes"], ["y"], then_branch=body, else_branch=body),
    ]  # fmt: skip
    constants = {
        "zero": np.int64(0), "one": np.int64(1), "yes": np.bool_(True), "half": np.float32(0.5),
        "nothing": np.empty((1, 0), np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        [nodes[i] for i in (0, 1, 2, 5, 6, 3, 4, 7)], "open", [_float("x", ["batch", "length"])],
        [helper.make_tensor_value_info("moved", TensorProto.INT64, None), _float("kept", None), _float("y", None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    read: list[list[str]] = []
    shapes = Probe.shapes

    def counted(probe: Probe, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        read.append([node.op_type for node in probe.bare.graph.node])
        return shapes(probe, inputs)

    monkeypatch.setattr(Probe, "shapes", counted)
    found = {value.name: shape for value, shape in assumed_shapes(load(proto)).items()}
    (_, length) = found["x"]
    assert found["moved"] == found["positions"] == (length,) and found["kept"] == found["y"] == (1, length)
    assert len(read[0]) == len(nodes) and "Add" in read[1] and "Relu" not in read[1]
    assert [len(ops) for ops in read].count(len(nodes)) == 1  # one size was enough
