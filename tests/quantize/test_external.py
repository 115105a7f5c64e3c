"""Models whose weights lie in a file beside them go through every lossy stage, from whatever directory."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.measure import ort_session
from tests.quantize.nets import convnet, images, parse

FEEDS = images(6)
FREE = {"speed": False, "min_sqnr": 10.0, "min_top1": 0.0}


def beside(folder, model):
    """The model's path; its weights lie in `weights.bin`."""
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / "m.onnx"


def result(session):
    return session.run(None, FEEDS[0])[0]


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": graphopt.Quantize(**FREE)},
        {"quantize": graphopt.Quantize(mode="dynamic", **FREE)},
        {"quantize": graphopt.Quantize(mode="weights", **FREE)},
        {"quantize": graphopt.Quantize(**FREE, nodes_to_exclude=["c2", "c4"]), "input_shapes": {"x": (1, 3, 16, 16)}},
        {"quantize": "static"},
        {"quantize": "static", "target": "graphopt"},
        {"prune": 0.2},
    ],
    ids=["static", "dynamic", "weights", "shapes", "timed", "graphopt", "prune"],
)
def test_lossy_stages_read_weights_where_they_lie(options, tmp_path, monkeypatch):
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir(), home.mkdir()
    path = beside(home, convnet())
    monkeypatch.chdir(elsewhere)
    made = graphopt.optimize(path, home / "o.onnx", calibration=FEEDS, **options)
    written, session = result(ort_session(str(home / "o.onnx"))), result(made.session())
    signal = result(ort_session(convnet().SerializeToString()))
    for found in (written, session):
        assert np.mean((found - signal) ** 2) < 0.05 * np.mean(signal**2)


def test_an_older_operator_set_is_raised(tmp_path):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 12]>
        net (float[N,3,16,16] x) => (float[N,8,16,16] y) <float[8,3,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }"""
    )
    made = graphopt.optimize(beside(tmp_path, model), quantize=graphopt.Quantize(**FREE), calibration=FEEDS)
    assert made.report.status == "lossy" and made.model.opset_import[0].version == 13


def test_other_processes_calibrate(tmp_path):
    with ProcessPoolExecutor(1) as executor:
        quantize = graphopt.Quantize(**FREE, executor=executor)
        made = graphopt.optimize(beside(tmp_path, convnet()), quantize=quantize, calibration=FEEDS)
    assert made.report.stages[0].figures["share_of_macs"] == 1.0
