"""Models whose weights are not to be copied: on disk and in mapped files they give what they give in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.stages import FEW, MADE_UP, stage_context
from graphopt.equivalence import runnable
from graphopt.machine import spool
from graphopt.measure import latency, ort_session
from graphopt.onnx_io import lend, pieces, saving, weights
from graphopt.passes.quantize.candidates import calibrated_model, half
from graphopt.passes.quantize.errors import single_unit_errors
from tests.bench.memory import large_model

OPTIONS = {
    "exact": {},
    "int8": {"quantize": "weights"},
    "int4": {"quantize": graphopt.Quantize(mode="weights", weight_type="int4"), "target": "onnxruntime"},
    "int4 portable": {"quantize": graphopt.Quantize(mode="weights", weight_type="int4")},
    "dynamic": {"quantize": graphopt.Quantize(mode="dynamic", speed=False)},
}


@pytest.fixture(params=[32, 16], ids=["f32", "f16"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return large_model(tmp_path / "source" / "m.onnx", 2 * 2 * 64 * 256 * request.param / 8e9, request.param, hidden=64)


def small_limits(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """All that is large beyond a gigabyte is, from a kilobyte on."""
    for module in (runnable, weights):
        patch.setattr(module, "LARGE", 1 << 10)
    patch.setattr(calibrated_model, "SPOOLED", 1 << 10)
    patch.setattr(saving, "WORTH", 1 << 10)
    patch.setattr(spool, "SEGMENT", 1 << 16)
    folder.mkdir()
    patch.setattr(tempfile, "tempdir", str(folder))


def test_what_validation_takes_is_said_before(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    graphopt.optimize(source, progress=lambda what, share: told.append(what))
    assert told and not any("runs" in what for what in told)
    small_limits(monkeypatch, tmp_path / "scratch")
    graphopt.optimize(source, progress=lambda what, share: told.append(what))
    before = next(i for i, what in enumerate(told) if "up to 28 runs" in what)
    assert "validate=False" in told[before] and before < len(told) - 1


def test_candidates_are_judged_by_the_runs_that_made_up_inputs_were_found_by(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original is not run once more on them where it is large."""
    runs = {False: 2, True: 1}  # of the original and the candidate, or of the candidate alone
    for large, sessions in runs.items():
        if large:
            small_limits(monkeypatch, tmp_path / "scratch")
        quality, opened = stage_context(onnx_io.load(source), None).quality, list[object]()
        monkeypatch.setattr(quality, "session", lambda m, q=quality.session, seen=opened: seen.append(m) or q(m))
        assert quality.fidelity(quality.reference).sqnr_db > 100
        assert len(opened) == sessions and quality.held == (FEW if large else MADE_UP)


def read(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("form", OPTIONS)
def test_large_models_give_the_same(form: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = graphopt.optimize(source, tmp_path / "plain.onnx", **OPTIONS[form])
    small_limits(monkeypatch, tmp_path / "scratch")
    large = graphopt.optimize(source, tmp_path / "large.onnx", **OPTIONS[form])
    assert large.report.status == plain.report.status
    nodes, others = ([(n.op_type, *n.input) for n in onnx.load(tmp_path / f"{name}.onnx").graph.node]
                     for name in ("large", "plain"))  # fmt: skip
    assert nodes == others
    ours, theirs = read(tmp_path / "large.onnx"), read(tmp_path / "plain.onnx")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    assert (tmp_path / "large.onnx.data").stat().st_size > 1 << 12
    assert (tmp_path / "large.onnx").stat().st_size < 1 << 14
    runnable.open_runnable(tmp_path / "large.onnx").session(optimize=True)


def test_codes_of_4_bits_lie_on_disk(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No protobuf holds them, of those for sessions and that of the result."""
    small_limits(monkeypatch, tmp_path / "scratch")
    seen: list[lend.Emission] = []
    for module, name in ((runnable, "lent_emission"), (onnx_io, "emission")):
        made = getattr(module, name)
        monkeypatch.setattr(module, name, lambda model, made=made, **more: seen.append(made(model, **more)) or seen[-1])
    graphopt.optimize(source, tmp_path / "out.onnx", **OPTIONS["int4 portable"])
    packed = [
        (tensor, emitted.lent)
        for emitted in seen
        for tensor in emitted.proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT4 and np.prod(tensor.dims) > lend.ELEMENTS
    ]
    assert packed
    for tensor, lent in packed:
        assert not tensor.raw_data and spool.place_of(lent[tensor.name]) is not None
        assert lent[tensor.name].nbytes == np.prod(tensor.dims) // 2


def test_layers_of_half_precision_that_return_to_float_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict that fails asks for models of which layers are float: widened, they took four times the file's size."""
    (tmp_path / "source").mkdir()
    source = large_model(tmp_path / "source" / "m.onnx", 8 * 2 * 64 * 256 * 16 / 8e9, 16, hidden=64)
    options = graphopt.Quantize(mode="weights", min_sqnr=50)
    small_limits(monkeypatch, tmp_path / "scratch")
    monkeypatch.setattr(half, "LARGE_WEIGHT", 1)
    seen: list[lend.Emission] = []
    monkeypatch.setattr(
        lend, "lent_emission", lambda model, made=lend.lent_emission: seen.append(made(model)) or seen[-1]
    )
    graphopt.optimize(source, tmp_path / "large.onnx", quantize=options, validate=False)
    rows = {"x": np.random.default_rng(1).standard_normal((4, 64)).astype(np.float16)}
    right, found = (ort_session(path).run(None, rows)[0].astype(float) for path in (source, tmp_path / "large.onnx"))
    assert 45 < 10 * np.log10(np.mean(right**2) / np.mean((right - found) ** 2)) < 70
    returned = [e for e in seen if {"Cast", "DequantizeLinear"} <= {n.op_type for n in e.proto.graph.node}]
    assert returned
    kept: set[int] = set()
    for emitted in returned:
        assert all(array.dtype != np.float32 or array.size <= 256 for array in emitted.lent.values())
        nodes, stored = list(emitted.proto.graph.node), {t.name for t in emitted.proto.graph.initializer}
        casts = [i for i, node in enumerate(nodes) if node.op_type == "Cast" and node.input[0] in stored]
        assert all(any(nodes[i].output[0] in n.input for n in nodes[i + 1 : i + 3]) for i in casts)  # bias, too
        kept.update(casts)
    assert kept


def test_no_layer_of_a_large_model_takes_its_own_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that fails asks which layers harm most: the errors of their codes tell, for no memory."""
    (tmp_path / "source").mkdir()
    source = large_model(tmp_path / "source" / "m.onnx", 30 * 2 * 64 * 256 * 16 / 8e9, 16, hidden=64)
    small_limits(monkeypatch, tmp_path / "scratch")
    opened: list[int] = []
    open_session = latency.open_session
    for module in (latency, lend, pieces):
        monkeypatch.setattr(module, "open_session", lambda *a, **k: opened.append(1) or open_session(*a, **k))
    monkeypatch.setattr(single_unit_errors, "predicted_errors", lambda *_: pytest.fail("a gradient copies weights"))
    options = graphopt.Quantize(mode="weights", weight_type="int4", min_sqnr=24)
    result = graphopt.optimize(source, tmp_path / "out.onnx", quantize=options, target="onnxruntime", validate=False)
    (stage,) = result.report.stages
    kinds = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert stage.changed and 0 < kinds.count("MatMulNBits") < 60 and "of 60 as int8" in stage.summary
    assert 0 < len(opened) < 14  # the reference, the first verdict, and a bisection of 60 layers
