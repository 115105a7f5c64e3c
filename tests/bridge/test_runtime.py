"""Torch as the runtime of a comparison: what is equal and different there, and what it cannot run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import OptionError
from tests.bridge.test_torch import MODELS, linear, torch_of, weights
from tests.command import cli


def with_relu(op: str = "Relu", domain: str = "", **given: Any) -> onnx.ModelProto:
    """y = op(x w + b)"""
    proto = linear(**{**weights(), **given})
    proto.graph.node[1].output[0] = "z"
    proto.graph.node.append(helper.make_node(op, ["z"], ["y"], domain=domain, name="last"))
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def test_equal_and_different_models() -> None:
    torch_of()
    plain = with_relu()
    found = graphopt.compare(plain, plain, runtime="torch")
    assert found.is_equal and found.samples == 4 and found.inner == 2 and found.made_up
    assert found.power is not None and found.power > 0.5 and found.perturbations
    moved = with_relu(type=weights()["type"] * np.float32(1.01))
    assert graphopt.compare(plain, moved, runtime="torch").status == "different"
    given = graphopt.compare(plain, plain, {"x": np.ones((2, 4), np.float32)}, runtime="torch")
    assert given.is_equal and not given.made_up


def test_an_optimised_model_and_half_precision() -> None:
    torch_of()
    fashion = MODELS / "fashion_cnn.onnx"
    assert graphopt.compare(fashion, graphopt.optimize(fashion).model, samples=2, runtime="torch").is_equal
    proto = with_relu()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        raw = helper.make_tensor(
            tensor.name, TensorProto.BFLOAT16, tensor.dims, numpy_helper.to_array(tensor).ravel().tolist()
        )
        tensor.CopyFrom(raw)
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = TensorProto.BFLOAT16
    assert graphopt.compare(proto, proto, runtime="torch").is_equal


def test_weights_beside_the_file(tmp_path: Path) -> None:
    torch_of()
    onnx.save(with_relu(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    assert graphopt.compare(tmp_path / "m.onnx", with_relu(), runtime="torch").is_equal


def test_an_operator_that_torch_lacks_leaves_a_model_unverified() -> None:
    torch_of()
    plain, odd = with_relu(), with_relu("Odd", "mine")
    found = graphopt.compare(odd, plain, runtime="torch")
    assert found.status == "unverified" and found.reason == "torch has no mine::Odd, the operator of node 'last'"
    found = graphopt.compare(plain, odd, runtime="torch")
    assert found.status == "unverified" and "the candidate: torch has no mine::Odd" in found.reason


def test_an_unknown_runtime_and_a_missing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = with_relu()
    with pytest.raises(OptionError, match=r"runtime 'troch' is none of onnxruntime, torch \(did you mean torch\?\)"):
        graphopt.compare(plain, plain, runtime="troch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r"graphopt.torch needs PyTorch: pip install 'graphopt\[train\]'"):
        graphopt.compare(plain, plain, runtime="torch")


def test_the_command(tmp_path: Path) -> None:
    onnx.save(with_relu(), tmp_path / "m.onnx")
    done = cli("verify", tmp_path / "m.onnx", tmp_path / "m.onnx", "--runtime", "toch")
    assert done.returncode == 2 and "did you mean torch?" in done.stderr and "Traceback" not in done.stderr
    torch_of()
    done = cli("verify", tmp_path / "m.onnx", tmp_path / "m.onnx", "--runtime", "torch")
    assert done.returncode == 0 and done.stdout.startswith("equal")
