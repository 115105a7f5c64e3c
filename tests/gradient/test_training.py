"""Training steps: equal to numpy and to torch, losses that fall, frozen weights, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.liveness import Liveness
from graphopt.errors import InputError, ModelError, OptionError
from graphopt.gradient import KL, MSE, SGD, Adam, AdamW, CrossEntropy, Tensor, Trainer, training_step
from graphopt.onnx_io import load

from .checking import session

FASHION = Path(__file__).parents[2] / "models" / "fashion_cnn.onnx"
RATE = 0.05


def linear(**weights: Any) -> onnx.ModelProto:
    """y = x w + b"""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3))],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="me")
    model.metadata_props.add(key="who", value="kept")
    return model


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def oracle_loss(name: str, y: Any, t: Any, temperature: float) -> tuple[float, Any]:
    """The loss and dL/dy, in double precision."""
    n = len(y)
    if name == "mse":
        return float(((y - t) ** 2).mean()), 2 * (y - t) / y.size
    if name == "cross_entropy":
        kept = t >= 0
        p, hot = softmax(y), np.eye(3)[np.maximum(t, 0)]
        count = max(kept.sum(), 1)
        return float(-(np.log(p) * hot)[kept].sum() / count), (p - hot) * kept[:, None] / count
    p, q = softmax(t / temperature), softmax(y / temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum() / n), temperature * (q - p) / n


def oracle_update(rule: Any, w: Any, g: Any, state: list[Any], t: int) -> tuple[Any, list[Any]]:
    """One step of one weight, in double precision."""
    decay = rule.weight_decay
    if isinstance(rule, SGD):
        g = g + decay * w
        m = rule.momentum * state[0] + g
        return w - RATE * (g + rule.momentum * m if rule.nesterov else m), [m]
    if isinstance(rule, AdamW):
        w = w * (1 - RATE * decay)
    else:
        g = g + decay * w
    a, b = rule.betas
    m, v = a * state[0] + (1 - a) * g, b * state[1] + (1 - b) * g * g
    return w - RATE * (m / (1 - a**t)) / (np.sqrt(v / (1 - b**t)) + rule.epsilon), [m, v]


@pytest.mark.parametrize(
    "rule",
    [SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True, weight_decay=0.1), Adam(weight_decay=0.1), AdamW()],
    ids=str,
)
@pytest.mark.parametrize("loss", [MSE(), CrossEntropy(), KL(), KL(temperature=3)], ids=str)
def test_steps_equal_numpy(loss: Any, rule: Any) -> None:
    rng = np.random.default_rng(0)
    start = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    trainer = Trainer(linear(**{n: v.astype(np.float32) for n, v in start.items()}), loss=loss, optimizer=rule)
    assert set(trainer.weights) == {"w", "b"}
    weights = {n: v.astype(np.float32).astype(np.float64) for n, v in start.items()}
    state = {n: [np.zeros_like(v), np.zeros_like(v)] for n, v in weights.items()}
    name = {"MSE": "mse", "CrossEntropy": "cross_entropy", "KL": "kl"}[type(loss).__name__]
    for t in range(1, 5):
        x = rng.standard_normal((6, 4)).astype(np.float32)
        target = rng.integers(-1, 3, 6) if name == "cross_entropy" else rng.standard_normal((6, 3)).astype(np.float32)
        expected, g = oracle_loss(name, x @ weights["w"] + weights["b"], target, getattr(loss, "temperature", 1))
        assert trainer.step({"x": x, "y.target": target}, RATE) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        for n, slope in (("w", x.T.astype(np.float64) @ g), ("b", g.sum(0))):
            weights[n], state[n] = oracle_update(rule, weights[n], slope, state[n], t)
    found = trainer.state()
    assert int(found["step"]) == trainer.steps == 4
    for n, w in weights.items():
        assert np.allclose(found[n], w, rtol=1e-4, atol=1e-5)
        for kind, s in zip(rule.state, state[n]):
            assert np.allclose(found[f"{n}.{kind}"], s, rtol=1e-4, atol=1e-6)


def test_frozen_weights_have_no_state_and_the_model_keeps_all_but_trained_weights() -> None:
    rng = np.random.default_rng(0)
    proto = linear(w=rng.standard_normal((4, 3)).astype(np.float32), b=np.ones(3, np.float32))
    step = training_step(proto, ["b"], optimizer=SGD(momentum=0.9))
    assert [i.name for i in step.graph.input] == ["x", "b", "y.target", "learning_rate", "step", "b.momentum"]
    assert [o.name for o in step.graph.output] == ["loss", "step.new", "b.new", "b.momentum.new"]
    trainer = Trainer(proto, ["b"], optimizer="sgd")
    trainer.step({"x": np.ones((2, 4)), "y.target": np.zeros((2, 3))}, RATE)
    made = trainer.model()
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (proto, made))
    assert np.array_equal(before["w"], after["w"]) and not np.array_equal(before["b"], after["b"])
    assert np.array_equal(after["b"], trainer.state()["b"])
    assert made.producer_name == "me" and made.metadata_props[0].value == "kept" and made.opset_import[0].version == 17
    untrained = Trainer(proto).model()
    assert all(np.array_equal(before[t.name], numpy_helper.to_array(t)) for t in untrained.graph.initializer)


def test_the_loss_of_the_fashion_cnn_falls_with_a_teacher_and_with_labels() -> None:
    proto = onnx.load(FASHION)
    image = np.load(FASHION.with_name("fashion_calibration.npz"))["image"][:8]
    teacher = session(proto).run(None, {"image": image})[0]
    rng = np.random.default_rng(1)
    for t in proto.graph.initializer:
        w = numpy_helper.to_array(t)
        if w.ndim > 1 and w.dtype == np.float32:
            t.CopyFrom(
                numpy_helper.from_array(w + 0.5 * w.std() * rng.standard_normal(w.shape).astype(np.float32), t.name)
            )
    statistics = {name for node in proto.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    for loss, target in ((KL(temperature=2), teacher), (CrossEntropy(), teacher.argmax(-1))):
        trainer = Trainer(proto, loss=loss)
        assert len(trainer.weights) > 8 and statistics and not statistics & set(trainer.weights)
        losses = trainer.fit([{"image": image, "logits.target": target}] * 8, lambda step: 1e-3 if step < 6 else 5e-4)
        assert losses[-1] < 0.5 * losses[0]
        after = session(trainer.model()).run(None, {"image": image})[0]
        held = {**trainer.state()}
        assert trainer.step({"image": image, "logits.target": target}) < losses[0]
        trainer.restore(held)
        assert trainer.steps == 8 and np.isfinite(after).all()


def test_a_loss_of_ones_own_losses_by_output_and_a_loss_in_the_model() -> None:
    def absolute(y: Tensor, target: Tensor) -> Tensor:
        return (y - target).Abs().mean()

    rng = np.random.default_rng(0)
    w, b, x = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), 3, (5, 4)))
    feeds = {"x": x, "y.target": np.zeros((5, 3), np.float32)}
    assert Trainer(linear(w=w, b=b), loss={"y": absolute}).step(feeds) == pytest.approx(np.abs(x @ w + b).mean(), 1e-5)
    inside = Trainer(linear(w=w, b=b), ["w"], loss="y", optimizer="sgd")
    assert inside.step({"x": x}, 1.0) == pytest.approx((x @ w + b).sum(), rel=1e-4)
    assert np.allclose(inside.state()["w"], w - x.sum(0)[:, None], rtol=1e-4, atol=1e-5)


def test_half_precision_is_updated_in_single() -> None:
    rng = np.random.default_rng(0)
    proto = linear(w=rng.standard_normal((4, 3)).astype(np.float16), b=np.ones(3, np.float16))
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    trainer = Trainer(proto)
    losses = trainer.fit([{"x": np.ones((2, 4)), "y.target": np.zeros((2, 3))}] * 5, RATE)
    state = trainer.state()
    assert state["w"].dtype == np.float16 and state["w.square"].dtype == np.float32 and losses[-1] < losses[0]


def test_a_loss_that_is_not_finite_leaves_the_last_good_state() -> None:
    trainer = Trainer(linear(w=np.ones((4, 3), np.float32), b=np.ones(3, np.float32)))
    good = {"x": np.ones((2, 4)), "y.target": np.zeros((2, 3))}
    trainer.step(good)
    before = trainer.state()
    with pytest.raises(InputError, match="the loss of step 2 is nan; weights are left"):
        trainer.step({**good, "x": np.full((2, 4), np.nan)})
    after = trainer.state()
    assert before.keys() == after.keys() and all(np.array_equal(before[n], after[n]) for n in before)


def test_data_that_end_early_or_cannot_be_read_leave_what_was_learnt() -> None:
    trainer = Trainer(linear(w=np.ones((4, 3), np.float32), b=np.ones(3, np.float32)))
    batch = {"x": np.ones((2, 4)), "y.target": np.zeros((2, 3))}
    with pytest.raises(InputError, match="the data end after 2 of 5 batches; weights are those of step 2"):
        trainer.fit([batch] * 2, RATE, steps=5)
    before = trainer.state()

    def broken() -> Any:
        yield batch
        raise OSError("the disk is gone")

    with pytest.raises(InputError, match="batch 2 cannot be read: the disk is gone; weights are those of step 3"):
        trainer.fit(broken(), RATE)
    assert trainer.steps == 3 and not np.array_equal(before["w"], trainer.state()["w"])
    assert len(trainer.fit(iter(lambda: batch, None), RATE, steps=2)) == 2 and trainer.steps == 5
    assert trainer.fit([]) == []


def test_memory_that_does_not_suffice_is_told_before_a_step() -> None:
    proto = onnx.load(FASHION)
    image = np.load(FASHION.with_name("fashion_calibration.npz"))["image"][:64]
    batch = {"image": image, "logits.target": np.zeros((64, 10), np.float32)}
    trainer = Trainer(proto, memory=8_000_000)
    held = trainer.state()
    told = r"takes about \d+\.\d MB, and 8.0 MB of memory are there: give smaller batches, or name fewer weights in wrt"
    with pytest.raises(InputError, match=told):
        trainer.step(batch)
    assert trainer.steps == 0 and all(np.array_equal(held[n], v) for n, v in trainer.state().items())
    trainer.step({n: v[:2] for n, v in batch.items()})
    assert trainer.steps == 1


def test_the_peak_of_a_chain() -> None:
    """y = Σ tanh(sin(x w)): while tanh is made, it and sin are alive; b and y are results and stay."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 4] x) => (float[] y, float[N, 4] b) <float[4, 4] w, int64[2] axes> {
        a = MatMul(x, w)
        b = Sin(a)
        c = Tanh(b)
        y = ReduceSum<keepdims = 0>(c, axes)
    }"""
    proto = onnx.parser.parse_model(text)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4), np.float32), "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), "axes"))
    liveness = Liveness(load(proto).graph)
    assert liveness.peak({"N": 10}) == 2 * 10 * 4 * 4 + 4
    assert liveness.peak({}) == 4  # nothing is known of N


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wrt": ["v"]}, "no initializer 'v'; it has b, w"),
        ({"wrt": ["x"]}, "'x' is an input and has no value to start from"),
        ({"wrt": []}, "wrt names no weight"),
        ({"loss": "kl_div"}, "loss 'kl_div' is none of mse, cross_entropy, kl"),
        ({"loss": {"z": "mse"}}, "no output 'z'"),
        ({"loss": {}}, "loss names none"),
        ({"optimizer": "adamv"}, r"optimizer 'adamv' is none of .*\(did you mean adam"),
        ({"loss": CrossEntropy(axis=2)}, "no axis 2 of classes"),
    ],
)
def test_names_and_words_that_are_not_known(arguments: dict[str, Any], message: str) -> None:
    proto = linear(w=np.ones((4, 3), np.float32), b=np.ones(3, np.float32))
    with pytest.raises(OptionError, match=message) as told:
        training_step(proto, **arguments)
    assert "\n" not in str(told.value)


def test_numbers_feeds_and_names_that_do_not_fit() -> None:
    for bad in (
        lambda: KL(temperature=0),
        lambda: SGD(momentum=1),
        lambda: SGD(nesterov=True),
        lambda: Adam(epsilon=-1),
    ):
        with pytest.raises(OptionError):
            bad()
    proto = linear(w=np.ones((4, 3), np.float32), b=np.ones(3, np.float32))
    trainer = Trainer(proto)
    x, target = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match=r"the feed has no 'y.target'"):
        trainer.step({"x": x})
    with pytest.raises(InputError, match="no input 'z'"):
        trainer.step({"x": x, "y.target": target, "z": x})
    with pytest.raises(InputError, match="'x' is int64"):
        trainer.step({"x": x.astype(np.int64), "y.target": target})
    with pytest.raises(InputError, match="step 1 does not run"):
        trainer.step({"x": np.ones((2, 5), np.float32), "y.target": target})
    with pytest.raises(InputError, match="the state has no"):
        trainer.restore({})
    with pytest.raises(InputError, match="instead of"):
        trainer.restore({**trainer.state(), "w": np.ones(2)})
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "step"
    with pytest.raises(OptionError, match="an input 'step', which is a name of the training step"):
        training_step(proto)
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Odd", "mine"
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ModelError, match="Odd"):
        training_step(proto, ["w"])


def test_steps_equal_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra `train`")
    rng = np.random.default_rng(0)
    w, b, x, t = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), 3, (6, 4), (6, 3)))
    pairs = (
        (SGD(0.9, True, 0.1), torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (Adam(weight_decay=0.1), torch.optim.Adam, {"weight_decay": 0.1}),
        (AdamW(), torch.optim.AdamW, {}),
    )  # fmt: skip
    for ours, theirs, options in pairs:
        trainer = Trainer(linear(w=w, b=b), loss=KL(temperature=2), optimizer=ours)
        tw, tb = (torch.nn.Parameter(torch.tensor(v)) for v in (w, b))
        optimizer = theirs([tw, tb], lr=RATE, **options)
        for _ in range(4):
            optimizer.zero_grad()
            y = torch.tensor(x) @ tw + tb
            logs = [torch.log_softmax(v / 2, -1) for v in (y, torch.tensor(t))]
            loss = 4 * torch.nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)
            loss.backward()
            optimizer.step()
            assert trainer.step({"x": x, "y.target": t}, RATE) == pytest.approx(loss.item(), rel=1e-4)
        state = trainer.state()
        assert np.allclose(state["w"], tw.detach(), rtol=1e-4, atol=1e-5)
        assert np.allclose(state["b"], tb.detach(), rtol=1e-4, atol=1e-5)
