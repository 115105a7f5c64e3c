"""Calibration data in every form people have, and every way it can be bad: one line, nothing written."""

import itertools
import warnings

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.calibration import Taps, observe, open_calibration, stream
from graphopt.measure import Quality, ort_session
from tests.ops import decoders
from tests.quantize.nets import convnet, images, parse

FEEDS = images(5)


class Reader:
    def __init__(self, feeds, fail_at=None):
        self.feeds, self.at, self.fail_at = feeds, 0, fail_at

    def get_next(self):
        if self.at == self.fail_at:
            raise OSError("the disk is gone")
        self.at += 1
        return self.feeds[self.at - 1] if self.at <= len(self.feeds) else None


class Rewindable(Reader):
    def rewind(self):
        self.at = 0


def stacked():
    return np.stack([f["x"] for f in FEEDS])


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: FEEDS,
        lambda folder: (f for f in FEEDS),
        lambda folder: Reader(FEEDS),
        lambda folder: Rewindable(FEEDS),
        lambda folder: {"x": stacked()},
        lambda folder: _saved(folder / "a.npz"),
        lambda folder: _saved(folder / "a.npy"),
    ],
    ids=["list", "generator", "reader", "rewindable", "stacked", "npz", "npy"],
)
def test_every_form_is_read_again_and_again(make, tmp_path):
    calibration = open_calibration(make(tmp_path), convnet())
    for _ in range(2):
        found = list(calibration)
        assert len(found) == len(FEEDS) > 1
        for feed, expected in zip(found, FEEDS):
            assert np.array_equal(feed["x"], expected["x"])


def _saved(path):
    np.savez(path, x=stacked()) if path.suffix == ".npz" else np.save(path, stacked())
    return path


def test_one_array_of_an_open_batch_is_cut_into_samples():
    rows = np.concatenate([f["x"] for f in images(40)])
    found = list(open_calibration({"x": rows}, convnet()))
    assert [len(f["x"]) for f in found] == [16, 16, 8]
    assert np.array_equal(np.concatenate([f["x"] for f in found]), rows)


def test_without_data_inputs_are_made_up_and_a_note_says_so():
    calibration = open_calibration(None, convnet())
    assert list(calibration) and "no calibration data" in calibration.note


def test_made_up_data_are_warned_of_where_scales_come_from_them():
    options = {"speed": False, "min_sqnr": -np.inf, "min_top1": 0}
    with pytest.warns(UserWarning, match="MADE-UP INPUTS: ranges of activations come from them") as told:
        made = graphopt.optimize(convnet(), quantize=graphopt.Quantize(**options), calibration="synthetic")
    assert told[0].filename == __file__ and "no calibration data was given" in made.report.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphopt.optimize(convnet(), quantize=graphopt.Quantize(mode="dynamic", **options))
        graphopt.optimize(convnet(), quantize=graphopt.Quantize(**options), calibration=FEEDS)


def test_a_stream_is_never_held_whole():
    alive = {"now": 0, "most": 0}

    class Tracked(dict):
        def __init__(self, *args):
            super().__init__(*args)
            alive["now"] += 1
            alive["most"] = max(alive["most"], alive["now"])

        def __del__(self):
            alive["now"] -= 1

    calibration = open_calibration((Tracked(f) for f in itertools.islice(itertools.cycle(FEEDS), 50)), convnet())
    assert sum(1 for _ in calibration) == 50
    assert alive["most"] <= 3


class Stuck(Reader):
    def rewind(self):
        raise OSError("it\nis stuck")


class Mute:
    def __iter__(self):
        raise RuntimeError("nothing to say")


def pair():
    """Two inputs of one batch."""
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,16] x, float[N,8] z) => (float[N,6] y)
        <float[16,6] w, float[8,6] v> { a = MatMul(x, w) b = MatMul(z, v) y = Add(a, b) }"""
    )


BAD = {
    "name": ([{"image": FEEDS[0]["x"]}], "calibration: the arrays lack ['x'] and have unknown ['image']"),
    "shape": ([{"x": np.zeros((1, 4, 16, 16), np.float32)}], "calibration: x has shape [1, 4, 16, 16]"),
    "double": ([{"x": np.zeros((1, 3, 16, 16))}], "calibration: x has dtype float64, the model takes x: float["),
    "dtype": ([{"x": np.zeros((1, 3, 16, 16), "c8")}], "calibration: x has dtype complex64"),
    "nan": ([FEEDS[0], {"x": np.full((1, 3, 16, 16), np.nan, "f4")}], "calibration: sample 2 has NaN in x"),
    "empty": ([], "calibration: there is not one sample"),
    "batch of none": ([{"x": np.zeros((0, 3, 16, 16), "f4")}], "calibration: sample 1 has an empty x"),
    "reader fails": (Reader(FEEDS, 3), "calibration: the reader failed after 3 samples: OSError: the disk is gone"),
    "late failure": (Rewindable(FEEDS, 3), "calibration: the reader failed after 3 samples: OSError"),
    "no rewinding": (Stuck(FEEDS), "calibration: the reader failed after 0 samples: OSError: it is stuck"),
    "no iterating": (Mute(), "calibration: the reader failed after 0 samples: RuntimeError: nothing to say"),
    "uneven": (
        {"x": np.zeros((3, 16), "f4"), "z": np.zeros((4, 8), "f4")},
        "calibration: stacked arrays hold different",
    ),
    "no mapping": ([[1, 2]], "calibration: each sample is a dict of arrays"),
    "no data": (7, "calibration: expected a reader"),
    "no file": ("missing.npz", "calibration: missing.npz is not there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_told_in_one_line(case):
    data, expected = BAD[case]
    with pytest.raises(graphopt.InputError) as error:
        calibration = open_calibration(data, pair() if case == "uneven" else convnet())
        for _ in range(2):
            list(calibration)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_no_more_is_read_than_asked_for():
    """A generator may be endless where `samples` says how much of it is wanted."""
    read = itertools.count()
    endless = ({"x": FEEDS[next(read) % 5]["x"]} for _ in itertools.repeat(None))
    options = graphopt.Quantize(samples=4, speed=False, min_sqnr=-np.inf, min_top1=0)
    made = graphopt.optimize(convnet(), quantize=options, calibration=endless)
    assert made.report.stages[0].figures["samples"] == 4
    assert next(read) <= 100


def test_a_wrong_first_sample_is_told_before_others_are_read():
    read = []
    data = (read.append(i) or {"y": FEEDS[0]["x"]} for i in range(1000))
    with pytest.raises(graphopt.InputError):
        open_calibration(data, convnet())
    assert len(read) == 1


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:999], lambda b: b"PK\x03\x04" + b[99:], lambda b: b[:200] + b"\0" * 99 + b[299:]]
)
def test_a_damaged_archive_is_told_in_one_line(spoil, tmp_path):
    path = _saved(tmp_path / "a.npz")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(graphopt.InputError, match="is no readable"):
        open_calibration(path, convnet())
    np.savez(path, x=np.array([None]))
    with pytest.raises(graphopt.InputError, match="is no readable"):
        open_calibration(path, convnet())


def test_inner_values_are_those_of_the_model():
    model = onnx_io.load(convnet())
    values = [model.graph.inputs[0], *(node.output for node in model.graph)]
    whole = next(stream(model, values, FEEDS[:1]))
    assert len(whole) == len(values)
    session = ort_session(convnet().SerializeToString())
    assert np.allclose(whole[model.graph.outputs[0]], session.run(None, FEEDS[0])[0], atol=1e-6)
    assert np.array_equal(whole[model.graph.inputs[0]], FEEDS[0]["x"])
    parts = list(stream(model, values, FEEDS[:2], budget=20_000))
    assert len(parts) > 4
    joined = {v: a for part in parts[: len(parts) // 2] for v, a in part.items()}
    assert set(joined) == set(values) and all(np.array_equal(joined[v], whole[v]) for v in values)


def test_inputs_that_no_sample_feeds_are_their_defaults():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, float[4] a) => (float[N,4] y) { y = Mul(x, a) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2, 3, 9], np.float32), "a"))
    model = onnx_io.load(proto)
    x, a = model.graph.inputs
    feeds = [{"x": np.ones((2, 4), np.float32)}, {"x": np.ones((2, 4), np.float32), "a": np.zeros(4, np.float32)}]
    seen = list(stream(model, [x, a], feeds))
    assert [float(arrays[a].max()) for arrays in seen] == [9, 0]
    observed = observe(model, [x, a], feeds)
    assert observed[a].high == 9 and observed[a].low == 0


HEAD = """<ir_version: 10, opset_import: ["": 17]>
g (float[B, 4] x, bool c, float[4] d = {1, 1, 1, 1}) => (float[B, 900] scores, float[B, 4] state)
  <float[4, 4] w, float[4, 900] head, float[4] b> {
    h = MatMul(x, w)
    moved = Add(h, b)
    state = If (c) <then_branch = t () => (float[B, 4] y) { y = Relu(moved) },
                    else_branch = e () => (float[B, 4] z) { z = Neg(h) }>
    scores = MatMul(state, head)
}"""


def test_what_no_value_needs_is_not_computed():
    """Scores of all tokens may be the most that a run takes; what branches capture is needed, as are defaults."""
    model = onnx_io.load(parse(HEAD))
    product = next(node for node in model.graph if node.op == "MatMul" and node.inputs[0].name == "state")
    taps = Taps(model, [product.inputs[0]])
    graph = taps.source.proto.graph
    assert [node.op_type for node in graph.node] == ["MatMul", "Add", "If"]
    assert {t.name for t in graph.initializer} == {"w", "b", "d"} and [o.name for o in graph.output] == ["state"]
    feed = {"x": np.ones((2, 4), np.float32), "c": np.array(False)}
    (seen,) = taps.run(feed).values()
    expected = ort_session(onnx_io.to_proto(model).SerializeToString()).run(["state"], feed)[0]
    np.testing.assert_array_equal(seen, expected)


def test_quality_counts_evaluations_and_measures_fidelity():
    model = onnx_io.load(convnet())
    calls = []

    def metric(session):
        calls.append(session.run(None, FEEDS[0])[0].shape)
        return 0.5

    quality = Quality(
        model, lambda m: ort_session(onnx_io.to_proto(m).SerializeToString()), FEEDS, metric, evaluations=3
    )
    assert quality.drop(model) == 0.0 and quality.drop(model) == 0.0
    assert len(calls) == 2 and quality.left == 2
    perfect = quality.fidelity(model)
    assert perfect.sqnr_db == np.inf and perfect.top1 == 1.0
    changed = onnx_io.load(convnet(seed=1))
    assert quality.fidelity(changed).sqnr_db < 10


def test_the_first_step_of_a_decoder_has_an_empty_cache():
    steps = [decoders.feeds(1, 3, 0), decoders.feeds(1, 1, 3)]
    read = list(open_calibration(steps, decoders.decoder()))
    assert [feed["past_k0"].shape[2] for feed in read] == [0, 3]
