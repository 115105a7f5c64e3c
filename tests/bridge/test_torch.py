"""Models as modules of torch: outputs as onnxruntime's, gradients as graphopt's, and back into the same file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt.torch
from graphopt.errors import InputError, ModelError, OptionError
from graphopt.gradient import gradient_model
from tests import zoo
from tests.gradient.checking import session
from tests.test_conformance import Case, cases, run

MODELS = Path(__file__).parents[2] / "models"
LARGEST = 100_000
"""Elements of the inputs of a backend case that is run."""
NOT_TORCH: dict[str, str] = {
    "_uint64": "torch has no arithmetic of these integers", "_uint32": "torch has no arithmetic of these integers",
    "_uint16": "torch has no arithmetic of these integers", "bitwise_not": "torch has no arithmetic of u16",
    "string": "torch has no strings", "scan_sum": "opset 8 has another Scan, which no converter knows",
    "qk_matmul_bias": "ONNX's own definition differs from onnxruntime's kernel",
    "_bool": "torch reduces booleans otherwise",
}  # fmt: skip


def linear(**weights: Any) -> onnx.ModelProto:
    """y = x w + b, with names that torch refuses"""
    names = list(weights)
    nodes = [helper.make_node("MatMul", ["x", names[0]], ["h"]), helper.make_node("Add", ["h", names[1]], ["y"])]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3))],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="me")
    helper.set_model_props(made, {"kept": "yes"})
    return made


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"type": rng.standard_normal((4, 3)).astype(np.float32), "type./b": rng.standard_normal(3).astype("f")}


def torch_of() -> Any:
    return pytest.importorskip("torch", reason="torch comes with the extra `train`")


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (graphopt.torch.to_module, graphopt.torch.TorchSession):
        with pytest.raises(OptionError, match=r"pip install 'graphopt\[train\]'"):
            call(linear(**weights()))


@pytest.mark.parametrize("name", ["fashion_cnn", "fashion_qdq", "transformer_block"])
def test_models_run_as_in_onnxruntime_and_come_back_bit_for_bit(name: str) -> None:
    torch = torch_of()
    path, rng = MODELS / f"{name}.onnx", np.random.default_rng(0)
    ours = session(onnx.load(path))
    feeds: dict[str, Any] = {}
    for given in ours.get_inputs():
        shape = [d if isinstance(d, int) else 2 for d in given.shape]
        feeds[given.name] = rng.random(shape).astype(np.float32) if "float" in given.type else rng.integers(0, 9, shape)
    made = graphopt.torch.TorchSession(path)
    for mine, theirs in zip(made.run(None, feeds), ours.run(None, feeds)):
        if "qdq" in name:  # a code may fall to either side of a half
            assert np.abs(mine - theirs).max() <= 0.05 * np.abs(theirs).max()
        else:
            assert np.allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    back = graphopt.torch.from_module(made.module, path)
    assert back.SerializeToString() == onnx.load(path).SerializeToString()
    tensors = {t.name for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.FLOAT}
    parameters = {n for n, p in made.module.named_parameters() if isinstance(p, torch.nn.Parameter)}
    assert parameters <= tensors and bool(parameters) == ("qdq" not in name)


@zoo.parametrize(*zoo.distinct())
@pytest.mark.slow
def test_models_of_the_zoo_come_back_bit_for_bit(name: str) -> None:
    torch_of()
    path = zoo.path(name)
    module = graphopt.torch.to_module(path)
    assert module.state_dict() or module.program.steps
    back = graphopt.torch.from_module(module, path)
    assert back.SerializeToString() == onnx.load(path, load_external_data=False).SerializeToString()


def test_names_that_modules_have_themselves_and_external_data(tmp_path: Path) -> None:
    torch = torch_of()
    proto = linear(**weights())
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    module = graphopt.torch.to_module(tmp_path / "m.onnx")
    assert [n for n, _ in module.named_parameters()] == ["type", "type./b"]
    assert list(module.state_dict()) == ["type", "type./b"]
    x = torch.ones(2, 4)
    y = module(x)
    assert torch.equal(module(x=x), y)
    assert np.allclose(y.detach(), np.ones((2, 4)) @ weights()["type"] + weights()["type./b"], atol=1e-5)
    with torch.no_grad():
        dict(module.named_parameters())["type./b"].add_(1)
    back = graphopt.torch.from_module(module, tmp_path / "m.onnx")
    first, second = back.graph.initializer
    assert first.data_location == TensorProto.EXTERNAL and second.data_location != TensorProto.EXTERNAL
    assert np.array_equal(numpy_helper.to_array(second), weights()["type./b"] + 1)
    assert back.producer_name == "me" and back.metadata_props[0].value == "yes" and back.opset_import[0].version == 17


def test_a_trained_module_goes_back_into_its_file() -> None:
    torch = torch_of()
    proto = onnx.load(MODELS / "fashion_cnn.onnx")
    module = graphopt.torch.to_module(proto)
    image = torch.tensor(np.load(MODELS / "fashion_calibration.npz")["image"][:8])
    target = module(image).detach().roll(1, 0)
    optimizer, losses = torch.optim.AdamW(module.parameters(), lr=1e-3), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(module(image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    back = graphopt.torch.from_module(module.half().float(), proto)  # through another precision, too
    found = session(back).run(None, {"image": image.numpy()})[0]
    assert np.allclose(found, module(image).detach(), rtol=1e-3, atol=1e-3)
    statistics = {name for node in proto.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    names = {name for name, _ in module.named_parameters()}
    assert statistics and not statistics & names and statistics <= set(module.state_dict())


def test_gradients_equal_those_of_the_ir() -> None:
    torch = torch_of()
    proto = onnx.load(MODELS / "fashion_cnn.onnx")
    module = graphopt.torch.to_module(proto)
    parameters = dict(module.named_parameters())
    rng = np.random.default_rng(0)
    image, g = rng.random((2, 1, 28, 28), np.float32), rng.standard_normal((2, 10)).astype(np.float32)
    ours = session(gradient_model(proto, list(parameters))).run(None, {"image": image, "logits.cotangent": g})[1:]
    theirs = torch.autograd.grad(module(torch.tensor(image)), list(parameters.values()), torch.tensor(g))
    assert len(ours) == len(theirs) > 8
    for a, b in zip(ours, theirs):
        assert np.abs(a - b.numpy()).max() < 2e-5 * max(1e-2, float(b.abs().max()))


@pytest.mark.parametrize("op", ["Elu", "Selu", "Celu", "Softplus", "Mish", "Gelu", "Swish"])
def test_gradients_are_finite_where_another_branch_would_overflow(op: str) -> None:
    """e^x − 1 has no finite gradient at 200, and 0 · ∞ is NaN."""
    torch = torch_of()
    x = torch.tensor([-200.0, -1.0, 0.5, 200.0], requires_grad=True)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4,)) for name in "xy"]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", info[:1], info[1:])
    module = graphopt.torch.to_module(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]))
    module(x).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    assert x.grad[3] == pytest.approx(1.0507 if op == "Selu" else 1, rel=1e-5)


def test_what_does_not_fit_is_one_line() -> None:
    torch = torch_of()
    proto = linear(**weights())
    module = graphopt.torch.to_module(proto)
    with pytest.raises(InputError, match="input 'x' is missing"):
        module()
    with pytest.raises(InputError, match="the model has inputs x"):
        module(z=torch.ones(2, 4))
    with pytest.raises(InputError, match="a Linear is no module"):
        graphopt.torch.from_module(torch.nn.Linear(2, 2), proto)
    with torch.no_grad():
        next(module.parameters()).add_(1)
    other = linear(**{"w": np.ones((4, 3), np.float32), "type./b": np.ones(3, np.float32)})
    with pytest.raises(InputError, match="no initializer 'type'"):
        graphopt.torch.from_module(module, other)
    other = linear(**{"type": np.ones((4, 2), np.float32), "type./b": np.ones(3, np.float32)})
    with pytest.raises(InputError, match=r"'type' is \(4, 3\) in the module and \(4, 2\) in the model"):
        graphopt.torch.from_module(module, other)
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Odd", "mine"
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ModelError, match="torch has no mine::Odd, the operator of node 'h'"):
        graphopt.torch.to_module(proto)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype.kind in "SUO" or x.shape != y.shape:
        return x.shape == y.shape and bool(np.all(x == y))
    with np.errstate(all="ignore"):
        wide = 2e-2 if x.dtype.itemsize < 4 else 2e-4
        scale = np.abs(np.nan_to_num(x.astype(np.float64), posinf=0, neginf=0)).max(initial=1e-3)
        return bool(np.allclose(y.astype(np.float64), x.astype(np.float64), rtol=0, atol=wide * scale, equal_nan=True))


def outcomes(chosen: list[Case]) -> tuple[int, dict[str, str], dict[str, str]]:
    """Backend cases that onnxruntime runs: how many are alike in torch, those declined, and those that differ."""
    alike, declined, wrong = 0, {}, {}
    for name, model, data in chosen:
        small = data and sum(v.size for v in data[0] if isinstance(v, np.ndarray)) <= LARGEST
        if not small or "train" in name or any(part in name for part in NOT_TORCH):
            continue
        expected = run(model, data[:1])
        if expected is None:
            continue
        try:
            ours = graphopt.torch.TorchSession(model)
        except ModelError as error:
            declined[name] = str(error)
            continue
        try:
            made = ours.run(None, dict(zip((i.name for i in model.graph.input), data[0])))
        except ModelError as error:
            declined[name] = str(error)
            continue
        except Exception as error:  # collected: one failure must not hide the others
            wrong[name] = f"{type(error).__name__}: {error}"
            continue
        if all(_close(a, b) for a, b in zip(expected[0], made)):
            alike += 1
        else:
            wrong[name] = "other results"
    return alike, declined, wrong


@pytest.mark.parametrize("part", [pytest.param(i, marks=[] if i == 3 else pytest.mark.slow) for i in range(8)])
def test_the_backend_suite(part: int) -> None:
    torch_of()
    alike, declined, wrong = outcomes(cases()[part::8])
    assert not wrong
    assert alike > 100
    assert len(declined) < 0.2 * alike
