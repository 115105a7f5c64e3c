"""Where two models drift apart: matched by name, by codes, by provenance; and honest where nothing matches."""

from __future__ import annotations

import contextlib
import json
import math
import re

import numpy as np
import onnx
import pytest
import typer
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

import graphopt
from graphopt.cli import app
from graphopt.errors import InputError, OptionError
from graphopt.report.drift import compare_layers, drift_table, save_drift
from tests import zoo
from tests.evidence.test_html import Checker
from tests.test_cli import ROOT
from tests.test_optimize import conv_bn_model

FASHION = ROOT / "models" / "fashion_cnn.onnx"
SAMPLES = ROOT / "models" / "fashion_calibration.npz"


class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = iter(reals(16))

    def get_next(self):
        return next(self.feeds, None)


def reals(count: int = 2) -> list[dict[str, np.ndarray]]:
    with np.load(SAMPLES) as archive:
        return [{"image": archive["image"][i : i + 1]} for i in range(count)]


def figures(drift):
    return {layer.name: layer for layer in drift.layers}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "q.onnx"
    asked = graphopt.Quantize("static", speed=False, calibrate_method="minmax")
    graphopt.optimize(FASHION, path, quantize=asked, calibration=reals(4), provenance=True, validate=False)
    return path


def test_our_quantized_file_is_matched_almost_everywhere(quantized):
    drift = graphopt.compare_layers(FASHION, quantized, reals())
    assert not drift.made_up and drift.samples == 2
    found = figures(drift)
    assert len(found) >= 0.6 * (len(found) + len(drift.unmatched))
    relu = found["/1/Relu_output_0"]
    assert relu.candidate == "/1/Relu_output_0_dequantized" and 25 < relu.sqnr < 60
    assert relu.before == found["/0/0.1/BatchNormalization_output_0"].sqnr > relu.sqnr
    assert found["logits"].is_output and 15 < found["logits"].sqnr < 60
    assert all(a.added >= b.added for a, b in zip(drift.steps, drift.steps[1:])) and drift.steps


def test_a_spoilt_layer_is_the_largest_step():
    proto = onnx.load(FASHION)
    broken = onnx.load(FASHION)
    node = next(n for n in broken.graph.node if n.name == "/3/first/first.0/Conv")
    weight = next(t for t in broken.graph.initializer if t.name == node.input[1])
    array = onnx.numpy_helper.to_array(weight).copy()
    array[: len(array) // 2] *= 1.5
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    drift = graphopt.compare_layers(proto, broken, reals())
    assert not drift.unmatched and drift.steps[0].name == node.output[0]
    found = figures(drift)
    assert found["/1/Relu_output_0"].sqnr == math.inf and found[node.output[0]].before == math.inf
    x = found[node.output[0]]
    assert x.sqnr == pytest.approx(10 * math.log10(1 / (x.added)), abs=1e-6) and 3 < x.sqnr < 20


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_files_of_onnxruntime_s_quantizer(form, tmp_path):
    quantize_static(FASHION, tmp_path / "q.onnx", Reader(), quant_format=form)
    drift = graphopt.compare_layers(FASHION, tmp_path / "q.onnx", reals())
    found = figures(drift)
    assert len(found) >= 6, drift.unmatched
    assert "logits" in found and all(layer.cosine > 0.99 for layer in drift.layers), drift.layers
    clamped = found["/2/Relu_1_output_0"]  # the quantizer removes this Relu: codes begin at zero
    if form is QuantFormat.QOperator:
        assert clamped.candidate == "/2/Add_output_0_quantized" and "/2/Add_output_0" in drift.unmatched
    else:
        assert clamped.candidate == "/2/Relu_1_output_0_DequantizeLinear_Output"


def test_dynamic_quantization_keeps_names(tmp_path):
    quantize_dynamic(ROOT / "models" / "transformer_block.onnx", tmp_path / "q.onnx")
    drift = graphopt.compare_layers(ROOT / "models" / "transformer_block.onnx", tmp_path / "q.onnx")
    assert drift.made_up and drift.inner > 40 and all(layer.cosine > 0.9 for layer in drift.layers)


def test_a_fused_result_is_matched_where_it_has_the_values():
    result = graphopt.optimize(conv_bn_model(), provenance=True)
    drift = graphopt.compare_layers(conv_bn_model(), result.model)
    found = figures(drift)
    assert all(name in drift.unmatched for name in ("c0", "c1", "c2")), "a Conv before its norm is nowhere"
    assert drift.inner >= 5 and all(layer.sqnr > 90 for layer in found.values())
    assert "up to rounding" in list(drift_table(drift))[1]


def test_a_name_of_another_value_is_not_compared():
    """A tool may give the name of a Conv to the Conv that absorbed what followed it."""
    x = onnx.helper.make_tensor_value_info("x", 1, [64])
    y = onnx.helper.make_tensor_value_info("y", 1, [64])
    two = onnx.numpy_helper.from_array(np.float32(2.0), "two")

    def model(*nodes):
        made = [onnx.helper.make_node(op, reads, [result]) for op, reads, result in nodes]
        graph = onnx.helper.make_graph(made, "g", [x], [y], [two])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)

    a = model(("Neg", ["x"], "h"), ("Mul", ["h", "two"], "y"))
    b = model(("Mul", ["x", "two"], "h"), ("Neg", ["h"], "y"))
    drift = graphopt.compare_layers(a, b)
    assert [layer.name for layer in drift.layers] == ["y"] and drift.layers[0].sqnr == math.inf
    assert "another value" in drift.unmatched["h"]


def test_provenance_matches_what_lost_its_name():
    a = conv_bn_model()
    result = graphopt.optimize(a, provenance=True)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(result.model)
    given = {"r0": "lost0", "r1": "lost1"}
    for node in renamed.graph.node:
        node.input[:] = [given.get(n, n) for n in node.input]
        node.output[:] = [given.get(n, n) for n in node.output]
    (entry,) = [e for e in renamed.metadata_props if e.key == "graphopt.provenance"]
    for old, new in given.items():
        entry.value = entry.value.replace(f'"{old}":', f'"{new}":')
    found = figures(graphopt.compare_layers(a, renamed))
    assert found["r0"].candidate == "lost0" and found["r0"].sqnr > 90
    del renamed.metadata_props[:]
    assert "r0" in graphopt.compare_layers(a, renamed).unmatched


def test_nothing_to_match_is_told():
    a, b = conv_bn_model(), conv_bn_model()
    inner = {o for n in b.graph.node for o in n.output} - {o.name for o in b.graph.output}
    for node in b.graph.node:
        node.input[:] = [f"other.{n}" if n in inner else n for n in node.input]
        node.output[:] = [f"other.{n}" if n in inner else n for n in node.output]
    drift = graphopt.compare_layers(a, b)
    assert drift.inner == 0 and len(drift.unmatched) == len(inner)
    assert any("no inner value" in part for part in drift_table(drift) if isinstance(part, str))


def test_lost_numbers_are_not_hidden_by_what_stays_finite():
    x = onnx.helper.make_tensor_value_info("x", 1, [4])
    y = onnx.helper.make_tensor_value_info("y", 1, [4])

    def model(number):
        c = onnx.numpy_helper.from_array(np.array([1, 1, 1, number], np.float32), "c")
        nodes = [onnx.helper.make_node("Mul", ["x", "c"], ["h"]), onnx.helper.make_node("Relu", ["h"], ["y"])]
        graph = onnx.helper.make_graph(nodes, "g", [x], [y], [c])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)

    feed = {"x": np.array([1, 2, 3, 4], np.float32)}
    drift = graphopt.compare_layers(model(1), model(np.inf), feed)
    assert "NaN or infinite" in figures(drift)["h"].note


def test_other_interfaces_are_one_line():
    with pytest.raises(InputError, match="layer by layer"):
        graphopt.compare_layers(conv_bn_model(), FASHION)


def test_on_the_command_line(quantized, tmp_path, capsys):
    def run(*words):
        with contextlib.suppress(typer.Exit):
            app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    np.savez(tmp_path / "s.npz", **reals(1)[0])
    page = tmp_path / "d.html"
    shown = run("compare", FASHION, quantized, "--layers", "--inputs", tmp_path / "s.npz", "--report", page)
    assert "/2/second/second.1/BatchNormalization_output_0" in shown, "names are whole where nobody looks"
    assert "most noise comes in at" in shown and "values matched" in shown and "made up" not in shown
    text = (tmp_path / "d.html").read_text()
    checker = Checker()
    checker.feed(re.sub(r"<!doctype[^>]*>", "", text))
    assert not checker.open and not checker.fetched and text.count("<circle") == text.count("<title>") - 1 > 15
    shown = run("compare", FASHION, quantized, "--layers", "--samples", 1, "--report", tmp_path / "d.json")
    assert "1 sample made up by graphopt" in shown
    assert json.loads((tmp_path / "d.json").read_text())["made_up"] is True
    onnx.save(conv_bn_model(), tmp_path / "m.onnx")
    assert "equal" in run("compare", tmp_path / "m.onnx", tmp_path / "m.onnx")
    with pytest.raises(OptionError, match="--layers"):
        run("compare", FASHION, FASHION, "--report", tmp_path / "d.html")
    with pytest.raises(OptionError, match=r"\.svg"):
        run("compare", FASHION, FASHION, "--layers", "--report", tmp_path / "d.pdf")


def test_the_chart_is_an_image_of_its_own(quantized, tmp_path):
    from xml.etree import ElementTree

    drift = graphopt.compare_layers(FASHION, quantized, reals())
    save_drift(drift, tmp_path / "d.svg")
    root = ElementTree.parse(tmp_path / "d.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == len(drift.layers)
    with pytest.raises(OptionError, match=r"\.svg"):
        save_drift(drift, tmp_path / "d.png")


@zoo.parametrize("minilm-int8")
def test_few_values_are_held_at_once(name, monkeypatch):
    """Chunks of one byte give what one chunk of all gives."""
    from graphopt.equivalence.drift import layers

    model = zoo.path(name)
    whole = graphopt.compare_layers(model, model, samples=1)
    monkeypatch.setattr(layers, "_HELD", 1)
    monkeypatch.setattr(layers, "_FIRST", 40)
    monkeypatch.setattr(layers, "_MOST", 40)
    assert len(whole.layers) > 50 and all(layer.sqnr == math.inf for layer in whole.layers)


def test_masks_do_not_outweigh_the_values():
    from graphopt.equivalence.drift.layers import _Sums

    sums = _Sums()
    a = np.array([1.0, -1.0, np.finfo(np.float32).min], np.float32)
    sums.add(a, np.array([1.1, -1.1, np.finfo(np.float32).min], np.float32))
    assert sums.sqnr == pytest.approx(20.0, abs=0.1)


def test_the_page_warns_of_made_up_inputs_and_has_a_chart_for_phones():
    from dataclasses import replace

    from graphopt.report.html.drift import drift_page

    drift = compare_layers(conv_bn_model(), conv_bn_model())
    page = drift_page(drift, "t", [])
    assert 'class="drift narrow" viewBox="0 0 350' in page and 'role="alert"' not in page
    bad = replace(drift, layers=tuple(replace(layer, sqnr=3.0) for layer in drift.layers))
    assert "MADE-UP INPUTS" in drift_page(bad, "t", [])
    assert "MADE-UP INPUTS" not in drift_page(replace(bad, made_up=False), "t", [])
