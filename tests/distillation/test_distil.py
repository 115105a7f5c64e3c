"""Distillation: the held-out gate, determinism, resumption after SIGKILL, what stays as it was, and bad input."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.distillation import run
from graphopt.distillation.codes import _limits
from graphopt.distillation.epochs import Epochs, Variety
from graphopt.distillation.loop import cosine
from graphopt.distillation.matching import skill
from graphopt.distillation.running import run_session
from graphopt.distillation.samples import Samples
from graphopt.errors import InputError, ModelError, OptionError
from graphopt.ir import DType
from graphopt.measure import ort_session
from graphopt.onnx_io import load

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
SHORT = {"steps": 50, "learning_rate": 2e-2, "batch_size": 8, "threads": 1}


def network(noise: float = 0.0, *, act: str = "Relu", hidden: int = 8, batch: Any = "N") -> onnx.ModelProto:
    """Two layers from x [N,6] to scores y [N,3]; noise: of the weights, as of a student."""
    rng = np.random.default_rng(1)
    shapes = {"w1": (6, hidden), "b1": (hidden,), "w2": (hidden, 3), "b2": (3,)}
    weights = {n: rng.normal(size=shape) for n, shape in shapes.items()}
    shift = np.random.default_rng(2)
    arrays = [
        numpy_helper.from_array((w + noise * shift.normal(size=w.shape)).astype(np.float32), n)
        for n, w in weights.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"), helper.make_node("Add", ["a", "b1"], ["h"], "bias"),
        helper.make_node(act, ["h"], ["r"], "act"), helper.make_node("MatMul", ["r", "w2"], ["s"], "second"),
        helper.make_node("Add", ["s", "b2"], ["y"], "last"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, 3))], arrays,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="me")
    model.metadata_props.add(key="who", value="kept")
    return model


def quantized_while_running() -> onnx.ModelProto:
    """A network with an operator that has no gradient."""
    model = network(0.1)
    act = next(node for node in model.graph.node if node.name == "act")
    act.op_type, act.output[:] = "DynamicQuantizeLinear", ["q", "scale", "zero"]
    place = list(model.graph.node).index(act)
    model.graph.node.insert(place + 1, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"], "back"))
    return model


def weights_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_a_student_learns_its_teacher_and_all_else_stays():
    student = network(0.3)
    found = graphopt.distil(student, network(), {"x": X}, **SHORT)
    report = found.report
    assert report.improved and report.error_after < 0.4 * report.error_before
    assert report.fidelity_after.sqnr_db > report.fidelity_before.sqnr_db + 1
    assert report.held_out == 6 and report.samples == 60 and report.matched[0] == "y"
    assert "samples held out" in report.gained and report.to_dict()["improved"] is True
    new = found.model
    assert [t.name for t in new.graph.initializer] == [t.name for t in student.graph.initializer]
    assert new.graph.node == student.graph.node and new.producer_name == "me"
    assert [(p.key, p.value) for p in new.metadata_props] == [("who", "kept")]
    assert all((weights_of(new)[n] != w).any() for n, w in weights_of(student).items())


def test_a_student_that_cannot_become_better_is_returned_as_it_was():
    teacher = network()
    found = graphopt.distil(teacher, teacher, {"x": X}, **SHORT)
    assert not found.report.improved and found.report.error_after == found.report.error_before < 1e-6
    assert "did not fall" in found.report.gained
    assert found.model.SerializeToString() == load_and_emit(teacher)


def load_and_emit(model: onnx.ModelProto) -> bytes:
    from graphopt.onnx_io import to_proto

    return bytes(to_proto(load(model)).SerializeToString())


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    made = [graphopt.distil(network(0.3), network(), {"x": X}, seed=s, **SHORT).model for s in (5, 5, 6)]
    assert made[0].SerializeToString() == made[1].SerializeToString() != made[2].SerializeToString()


def test_weights_that_decide_worse_are_not_taken():
    """A loss that falls while decisions get worse: those weights alone are taken that decide as before."""

    def negated(y, target):
        return (y + target).Abs().mean()

    found = graphopt.distil(network(), network(), {"x": X}, loss=negated, **SHORT)
    assert found.report.history[-1][2] < found.report.error_after <= found.report.error_before
    assert found.report.fidelity_before.top1 == found.report.fidelity_after.top1 == 1.0


KILLED = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {root!r})
from tests.distillation.test_distil import SHORT, X, network
import graphopt
def progress(what, share):
    if {kill} and share >= 0.7:
        os.kill(os.getpid(), signal.SIGKILL)
found = graphopt.distil(network(0.3), network(), {{"x": X}}, checkpoint={path!r}, progress=progress, **SHORT)
open({out!r}, "wb").write(found.model.SerializeToString())
"""


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    path, out = str(tmp_path / "run.npz"), str(tmp_path / "out.onnx")
    for kill, code in ((True, -signal.SIGKILL), (False, 0)):
        script = KILLED.format(root=str(ROOT), path=path, out=out, kill=kill)
        assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == code
    undisturbed = graphopt.distil(network(0.3), network(), {"x": X}, **SHORT)
    assert Path(out).read_bytes() == undisturbed.model.SerializeToString()
    assert undisturbed.report.best_step > 0


def test_inner_values_are_matched_on_request():
    results = graphopt.distil(network(0.1), network(), {"x": X}, **SHORT).report
    assert results.matched == ("y",)
    inner = graphopt.distil(network(0.1), network(), {"x": X}, inner=True, **SHORT).report
    assert inner.matched[0] == "y" and len(inner.matched) > 1
    assert inner.error_before > results.error_before  # inner values count
    assert inner.error_after < inner.error_before


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    first = graphopt.distil(network(0.3), network(), {"x": X}, checkpoint=path, **SHORT)
    again = graphopt.distil(network(0.3), network(), {"x": X}, checkpoint=path, **SHORT)
    assert again.report.steps == first.report.steps
    with pytest.raises(OptionError, match="is of other models, data or options"):
        graphopt.distil(network(0.3), network(), {"x": X + 1}, checkpoint=path, **SHORT)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged"):
        graphopt.distil(network(0.3), network(), {"x": X}, checkpoint=path, **SHORT)


@pytest.mark.parametrize(("hidden", "times"), [(32, 1.0), (16, 1.0), (10, 1.6), (2, 2.0)])
def test_a_small_student_learns_longer(hidden, times, monkeypatch):
    monkeypatch.setattr(run, "STEPS", 10)
    options = {**SHORT, "steps": None, "learning_rate": 1e-4}
    found = graphopt.distil(network(hidden=hidden), network(hidden=32), {"x": X}, **options)
    assert found.report.steps == round(10 * times)


def test_labels_alone_are_a_task_and_go_beside_a_teacher():
    rng = np.random.default_rng(3)
    labels = (X @ rng.normal(size=(6, 3))).argmax(1)
    alone = graphopt.distil(network(), None, {"x": X}, labels=labels, **{**SHORT, "steps": 120})
    assert alone.report.error_after < 0.5 * alone.report.error_before and alone.report.fidelity_after is None
    both = graphopt.distil(network(0.3), network(), {"x": X}, labels={"y": labels}, **SHORT)
    assert both.report.matched[:2] == ("y", "y.labelled")


def test_labels_that_say_nothing_change_nothing():
    """A start that its own decisions and some drawn ones are labels of; a quarter of the samples judges by default."""
    x = RNG.normal(size=(512, 6)).astype(np.float32)
    known = ort_session(network().SerializeToString()).run(None, {"x": x})[0].argmax(1)
    labels = np.where(np.arange(512) % 8 == 0, np.random.default_rng(4).integers(3, size=512), known)
    for holdout, share in ((None, 4), (0.1, 10)):
        found = graphopt.distil(network(), None, {"x": x}, labels=labels, holdout=holdout, **SHORT).report
        assert found.held_out == 512 // share and found.matched == ("y.labelled", "y")
        assert found.fidelity_before is None


def test_a_start_is_kept_as_far_as_it_explains_the_labels():
    scores = np.eye(3)[[0, 1, 2, 0, 0, 0]]
    assert skill([(scores[:3], np.array([0, 1, 2])), (scores[3:], np.array([0, 0, 1]))]) == pytest.approx(2 / 3)
    assert skill([(scores, np.array([0, 1, 2, -100, 0, -100]))]) == 1.0  # padding does not count
    assert skill([(scores, np.zeros(6, int))]) == skill([(scores, np.array([1, 2, 0, 1, 2, 1]))]) == 0.0
    numbers = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert skill([(numbers, numbers)]) == 1.0
    assert skill([(numbers, numbers + np.array([[0.5], [-0.5], [0.5], [-0.5]]))]) == pytest.approx(0.75)
    assert skill([(numbers, -numbers)]) == skill([(numbers, np.ones((4, 1)))]) == 0.0
    assert skill([(np.ones((4, 2)), numbers)]) == 0.0  # that they do not fit is told where the loss is made


def test_a_loss_of_ones_own():
    def absolute(y, target):
        return (y - target).Abs().mean()

    found = graphopt.distil(network(0.3), network(), {"x": X}, loss=absolute, **SHORT)
    assert found.report.improved


@pytest.mark.parametrize("peak", [1.0, 3.0])
def test_the_rate_warms_up_and_falls_to_zero(peak):
    rates = [cosine(k, 100, peak) for k in range(100)]
    assert rates[0] < 0.3 * peak and max(rates) > 0.95 * peak and rates[-1] < 1e-3 * peak
    assert rates[50] == pytest.approx(peak / 2)


def test_batches_depend_on_the_step_alone_and_no_step_sees_what_is_held_out():
    samples = Samples([{"x": X[i : i + 7]} for i in range(0, 56, 7)], load(network()), 0.1)
    first, second = (Epochs(samples, 8, 3, Variety(mixing=0.05)) for _ in range(2))
    ahead = second.batch(9)
    seen = [first.batch(k) for k in range(10)]
    assert (seen[9].feeds["x"] == ahead.feeds["x"]).all()
    assert any(b.is_mixed for b in seen) and not all(b.is_mixed for b in seen)
    assert samples.held and not {row for b in seen for row in b.rows} & set(samples.held)
    epoch = [row for b in seen[: first.steps] for row in b.rows]
    assert len(epoch) == len(set(epoch)) == 48


def test_models_with_a_fixed_batch_learn_a_sample_a_step():
    found = graphopt.distil(network(0.3, batch=1), network(batch=1), {"x": X}, **SHORT)
    assert found.report.improved


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"data": {"x": X[:5]}}, InputError, "5 samples are too few"),
        ({"data": None}, InputError, "made-up inputs teach nothing"),
        ({"data": {"z": X}}, InputError, "calibration"),
        ({"teacher": None}, OptionError, "give a teacher, or labels"),
        ({"steps": 0}, OptionError, "steps 0 is not a positive integer"),
        ({"loss": "klx"}, OptionError, "did you mean kl"),
        ({"loss": {"q": "kl"}}, OptionError, "no float output 'q'"),
        ({"lr": 1}, OptionError, "no option is named lr"),
        ({"labels": np.zeros(3, np.int64)}, InputError, "3 labels of 'y' for 60 samples"),
        ({"labels": np.full(60, 3)}, InputError, "a label of 'y' is class 3, and the output has 3"),
        ({"labels": np.full((60, 3), np.nan, np.float32)}, InputError, "labels of 'y' hold NaN"),
        ({"labels": np.zeros((60, 5), np.float32)}, InputError, r"labels of 'y' are \[60, 5\] and the output"),
        ({"labels": np.full(60, "cat")}, InputError, "give numbers"),
        ({"teacher": network(act="Log")}, InputError, "the teacher's 'y' is NaN on some of the samples"),
        ({"student": quantized_while_running()}, ModelError, "DynamicQuantizeLinear"),
        ({"weights": ["nothing"]}, OptionError, "nothing"),
        ({"checkpoint": "/nowhere/x.npz"}, graphopt.OutputError, "no directory"),
        ({"loss": lambda y, t: (y - y) / (t - t)}, InputError, "loss of the student is nan"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(change, error, words):
    given = {"student": network(0.1), "teacher": network(), "data": {"x": X}, **SHORT, **change}
    with pytest.raises(error, match=words) as caught:
        graphopt.distil(given.pop("student"), given.pop("teacher"), given.pop("data"), **given)
    assert "\n" not in str(caught.value)


def test_data_that_end_early_are_one_line():
    def read():
        yield {"x": X[:1]}
        raise OSError("the disk is gone")

    with pytest.raises(InputError, match="failed after 1 samples: OSError: the disk is gone"):
        graphopt.distil(network(0.1), network(), read(), **SHORT)


def test_a_loss_that_overflows_later_keeps_the_last_good_weights():
    found = graphopt.distil(network(0.1), network(), {"x": X}, **{**SHORT, "learning_rate": 1e30})
    assert "the loss of step" in found.report.stopped
    assert found.report.error_after <= found.report.error_before
    assert all(np.isfinite(w).all() for w in weights_of(found.model).values())


def test_labels_of_another_width_are_converted():
    targets = network_results()
    found = [
        graphopt.distil(network(0.3), None, {"x": X}, labels=targets.astype(kind), **SHORT).report.error_after
        for kind in (np.float64, np.float32)
    ]
    assert found[0] == found[1] > 0


def network_results() -> Any:
    return ort_session(network().SerializeToString()).run(None, {"x": X})[0]


@pytest.mark.parametrize("where", ["step", "judge"])
def test_memory_that_no_longer_suffices_keeps_the_best_weights(where, monkeypatch):
    """Both fail half-way: numpy's error in a step, onnxruntime's where weights are judged."""
    if where == "step":
        batch = Epochs.batch

        def fails(epochs, step):
            if step == 20:
                raise MemoryError
            return batch(epochs, step)

        monkeypatch.setattr(Epochs, "batch", fails)
    else:
        looks = iter([True] * 8)

        def judged(session, names, feeds, what):
            if what == "the student's result" and not next(looks, False):
                raise InputError("distil: the student's result cannot be computed: bad allocation")
            return list(session.run(names, feeds))

        monkeypatch.setattr("graphopt.distillation.run.run_session", judged)
    found = graphopt.distil(network(0.3), network(), {"x": X}, **SHORT).report
    assert "memory does not suffice" in found.stopped or "bad allocation" in found.stopped
    assert found.improved and found.error_after < found.error_before and found.steps < SHORT["steps"]


def test_what_onnxruntime_cannot_run_is_one_line():
    session = ort_session(network().SerializeToString())
    with pytest.raises(InputError, match=r"distil: the loss cannot be computed: .*") as caught:
        run_session(session, None, {"x": np.zeros((1, 7), np.float32)}, "the loss")
    assert "\n" not in str(caught.value)


def test_external_weights_stay_external(tmp_path):
    student = network(0.3, hidden=256)
    onnx.save(student, tmp_path / "s.onnx", save_as_external_data=True, location="s.bin", size_threshold=64)
    found = graphopt.distil(tmp_path / "s.onnx", network(hidden=256), {"x": X}, **SHORT)
    assert found.report.improved
    found.save(tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx.data").is_file() and (tmp_path / "new.onnx").stat().st_size < 4096
    assert graphopt.compare(tmp_path / "new.onnx", found.model).status == "equal"


def quantized(**options: Any) -> onnx.ModelProto:
    wide = graphopt.Quantize("static", speed=False, **options)
    return graphopt.optimize(network(hidden=32), quantize=wide, calibration={"x": X}).model


def test_weights_of_a_quantized_student_are_codes_again():
    student = quantized()
    codes = {n: w for n, w in weights_of(student).items() if w.dtype in (np.int8, np.uint8) and w.ndim == 2}
    assert codes, "nothing is quantized"
    for name, array in codes.items():  # a student that is far from its teacher
        tensor = next(t for t in student.graph.initializer if t.name == name)
        shifted = np.clip(array.astype(int) + np.random.default_rng(4).integers(-9, 10, array.shape), -127, 127)
        tensor.CopyFrom(numpy_helper.from_array(shifted.astype(array.dtype), name))
    found = graphopt.distil(student, network(hidden=32), {"x": X}, **{**SHORT, "steps": 200})
    assert found.report.improved and found.report.error_after < 0.5 * found.report.error_before
    assert found.model.graph.node == student.graph.node
    new = weights_of(found.model)
    assert all(new[n].dtype == w.dtype for n, w in weights_of(student).items())
    assert any((new[n] != weights_of(student)[n]).any() for n in codes)


@pytest.mark.parametrize(
    ("kind", "bits", "read"), [("int4", 4, "uint8"), ("int3", 3, "uint8"), ("int2", 2, "uint8"), ("int4", 4, "uint4")]
)
def test_weights_of_few_bits_in_a_wider_type_stay_on_their_grid(kind, bits, read):
    """A row reaches from −2ᵇ⁻¹ to 2ᵇ⁻¹ − 1, or one further up, also where the teacher's weights are larger."""
    half = 1 << (bits - 1)
    student = quantized(weight_type=kind, activation_type=read, min_sqnr=-np.inf, min_top1=0, rounding=False)
    assert any(node.op_type == "Clip" for node in student.graph.node) == (read == "uint4")
    teacher = network(hidden=32)
    for tensor in teacher.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(tensor), tensor.name))
    names = [n for n, w in weights_of(student).items() if w.dtype == np.int8 and w.ndim == 2]
    assert names, "nothing is quantized"
    found = graphopt.distil(student, teacher, {"x": X}, **{**SHORT, "steps": 200})
    assert found.report.improved and found.report.error_after < 0.8 * found.report.error_before
    pairs = [tuple(weights_of(model)[n].astype(int) for model in (student, found.model)) for n in names]
    assert any((new != old).any() for old, new in pairs)
    for old, new in pairs:
        up = (old.max(axis=0) >= half).astype(int)
        assert (new >= up - half).all() and (new <= up + half - 1).all()


def test_the_grid_of_codes_is_read_from_them():
    cases = {
        "bytes": ([[-8, 7], [-7, 8]], 0, DType.INT8, [[-8], [-7]], [[7], [8]]),
        "eight bits": ([[-8, 7], [-8, 9]], 0, DType.INT8, -128, 127),
        "full type": ([[-8, 7], [-8, 6]], 0, DType.INT4, -8, 7),
        "unsigned": ([[0, 15], [3, 4]], 8, DType.UINT8, [[0], [0]], [[15], [15]]),
        "around 128": ([[126, 129], [127, 130]], 128, DType.UINT8, [[126], [127]], [[129], [130]]),
        "wide": ([[0, 1], [0, 1]], 0, DType.INT32, -(1 << 31), (1 << 31) - 1),
    }
    for name, (codes, zero, dtype, low, high) in cases.items():
        found = _limits(np.array(codes), np.asarray(zero), dtype, (1,))
        assert [a.tolist() for a in found] == [low, high], name
