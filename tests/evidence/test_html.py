"""The HTML report: complete, offline, small, quick, and without errors in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import graphopt
from graphopt.report.html import layout
from graphopt.report.html.cost import layers
from tests import generators, nets, zoo
from tests.command import ROOT, cli
from tests.test_cli import one_line
from tests.test_optimize import conv_bn_model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Checker(HTMLParser):
    """Every element is closed where it should be, and nothing is fetched."""

    VOID = frozenset(("meta", "link", "input", "br"))

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("data:", "#"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


EDGES = [(0, 1), (1, 2), (0, 2), (2, 3), (4, 3), (0, 3), *((i, i + 1) for i in range(6, 60)), (6, 40)]


def drawn(text: str) -> dict:
    return json.loads(re.search(r'id="drawings">(.*?)</script>', text, re.S).group(1))


def test_report_tells_everything_and_fetches_nothing():
    result = graphopt.optimize(conv_bn_model())
    text = result.report.to_html("blocks", seconds=0.02)
    checker = Checker()
    checker.feed(re.sub(r"<!doctype[^>]*>", "", text))
    assert not checker.open and not checker.fetched and "http" not in re.sub(r"http://www.w3.org\S*", "", text)
    for words in ("blocks", "equal", "fold-batchnorm", "fold_norm_into_conv", "BatchNormalization", "ms", "SQNR"):
        assert words in text
    data = drawn(text)
    assert [n["o"] for n in data["after"][0]["nodes"]] == ["Conv", "Relu"] * 3
    merged = {n["k"]: n for n in data["before"][0]["nodes"]}["bn0"]
    assert merged["r"] and data["passes"][merged["c"]] == "fold-batchnorm"
    assert any("gamma" in data["steps"][s][1] for s in merged["s"])


def test_layers_have_their_time_and_the_page_has_one_speed():
    from dataclasses import replace

    report = replace(
        graphopt.optimize(conv_bn_model(), validate=False).report, reason="half int8, 1.93× as fast; 37 dB"
    )
    text = report.to_html("blocks", seconds=0.02)
    assert "time in onnxruntime, one thread" in text and text.count("µs</td>") == 3, "a time for each Conv"
    assert "half int8; 37 dB" in text and re.search(r"(faster|slower|as fast as before) \(± \d+ %", text), (
        "the page's own"
    )
    unmeasured = report.to_html("blocks", seconds=0)
    assert "1.93× as fast" in unmeasured and "time in onnxruntime" not in unmeasured


def test_report_is_the_same_each_time(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_sugiyama", None)  # its drawings differ a little from run to run
    first, second = (graphopt.optimize(conv_bn_model()).report.to_html(seconds=0) for _ in range(2))
    untimed = [re.sub(r"[\d.]+ s\b|<td class=\"n\">[\d.]+</td>", "", text) for text in (first, second)]
    assert untimed[0] == untimed[1]


def test_names_from_the_model_cannot_break_out():
    proto = conv_bn_model()
    proto.graph.node[0].name = "</script><script>alert(1)</script>"
    proto.graph.name = "<b>bold"
    text = graphopt.optimize(proto, validate=False).report.to_html(seconds=0)
    assert "<script>alert" not in text and "<b>bold" not in text


def test_what_was_refused_is_told():
    with graphopt.Registry():

        @graphopt.register_pass("bad-pass", before="fold-batchnorm")
        def bad_pass(graph):
            raise RuntimeError("on purpose")

        report = graphopt.optimize(conv_bn_model()).report
    text = report.to_html(seconds=0)
    assert "bad-pass" in text and "on purpose" in text
    (rolled_back,) = json.loads(report.to_json())["rolled_back"]
    assert rolled_back["what"] == "bad-pass" and "on purpose" in rolled_back["reason"]


def test_stages_are_shown_whatever_they_tell():
    from dataclasses import dataclass, field, replace

    from graphopt.compress.report import LayerReport, StageFigures, StageReport

    @dataclass(frozen=True)
    class Halved(LayerReport):
        row: tuple[str | float | None, ...]

        def cells(self):
            return dict(zip(("layer", "before", "after", "error", "why"), self.row))

    @dataclass(frozen=True)
    class Figures(StageFigures):
        macs_after: int = 8680848
        safe: bool = True
        nothing: None = None
        refitted: list[dict[str, str | float]] = field(default_factory=lambda: [{"layer": "conv2", "error": 0.1}])

    rows = (("conv <1>", 64, 32, 0.25, None), ("conv2", 16, 16, 1e-6, "no smaller multiple"))
    refused = (("conv3", "it does not gain"),)
    stage = StageReport("prune", "half went", tuple(map(Halved, rows)), Figures(), refused, 1.5)
    report = replace(graphopt.optimize(conv_bn_model(), validate=False).report, stages=(stage,), metric=(0.9, 0.89))
    text = report.to_html(seconds=0)
    checker = Checker()
    checker.feed(re.sub(r"<!doctype[^>]*>", "", text))
    for words in ("conv &lt;1&gt;", "half went", "refitted layers: 1", "it does not gain", "-0.01"):
        assert words in text, words
    assert "nothing</dt>" not in text and "width:50.0%" in text


def test_more_nodes_are_not_praised_and_open_sizes_stay_symbols():
    from graphopt import onnx_io
    from graphopt.measure import macs_by_size

    path = ROOT / "models" / "fashion_cnn.onnx"
    result = graphopt.optimize(path, quantize="static", calibration=ROOT / "models" / "fashion_calibration.npz")
    text = result.report.to_html("fashion", seconds=0)
    nodes = re.search(r"<tr><th>nodes</th>.*?</tr>", text, re.S).group()
    assert result.report.after.nodes > result.report.before.nodes and "good" not in nodes and "bad" not in nodes
    (counted,) = macs_by_size(onnx_io.load(path)).items()
    assert counted == ("N", 9602144) and "9.60\u00a0M·N" in text
    assert result.report.to_dict()["before"]["macs_by_size"] == {"N": 9602144}
    shown = " ".join(str(result.report).split())  # where a fourth input channel gains time, it is padded in
    assert re.search(r"multiply-accumulates 9\.60 M·N 9\.(60 M·N =|94 M·N \+3\.5%)", shown)
    for field in ("share_of_macs", "share of macs", "objective", "per channel activations"):
        assert field not in text
    shown = [n["o"] for n in drawn(text)["after"][0]["nodes"]]
    graph = drawn(text)["after"][0]
    assert graph["nodes"][graph["first"]]["o"] == "Conv", "the graph opens at a layer, not at a conversion"
    assert result.report.after.operators["DequantizeLinear"] > 30
    assert shown.count("DequantizeLinear") <= 3, "pairs and constants are drawn as plain lines"
    words = result.report.to_markdown("fashion", seconds=0)
    assert words.startswith("## fashion\n\n**") and "| nodes | 51 |" in words and "### Quantize static" in words
    widths = [line.count("|") for line in words.splitlines() if line.startswith("| ") and "J nearest" in line]
    assert widths == [10]


SIZES = """<ir_version: 8, opset_import: ["" : 17]> net (float[{batch},8] x) => (float[{batch},4] y)
<float[8,16] a, float[16,4] b> {{ h = MatMul(x, a) y = MatMul(h, b) }}"""


def test_multiply_accumulates_of_other_sizes_are_not_compared():
    """8·16 + 16·4 a row: 192, and 384 of the model with two rows."""
    from graphopt import onnx_io
    from graphopt.measure import figures
    from graphopt.report.tables import figures_table, model_table
    from tests.quantize.nets import parse

    opened, fixed = (figures(onnx_io.load(parse(SIZES.format(batch=batch)))) for batch in ("N", "2"))
    assert (opened.macs_by_size, fixed.macs_by_size) == ({"N": 192}, {"": 384})
    rows = {label: list(cells) for label, *cells in shown(figures_table(opened, fixed))}
    assert rows["multiply-accumulates"] == ["192·N", "384", ""]
    assert rows["peak activations (open sizes as 1)"][2] == ""
    same = {label: list(cells) for label, *cells in shown(figures_table(fixed, fixed))}
    assert same["multiply-accumulates"] == ["384", "384", "="] and "peak activations" in same
    assert ["multiply-accumulates", "192·N"] in [list(row) for row in shown(model_table(opened, {}))]


def test_only_operator_sets_of_operators_are_listed():
    from graphopt import onnx_io
    from graphopt.measure import figures
    from graphopt.report.tables import model_table
    from tests.quantize.nets import parse

    net = parse("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2, "com.microsoft" : 1, "own" : 3]>
        net (float[2] x) => (float[2] y) { h = com.microsoft.Gelu(x) y = Relu(h) }""")
    lifted = onnx_io.load(net)
    rows = dict(shown(model_table(figures(lifted), lifted.opsets)))
    assert rows["opset"] == "ai.onnx 17, com.microsoft 1, 2 unused"


def shown(table):
    """The rows of a table of rich."""
    return zip(*(column.cells for column in table.columns))


def test_a_model_that_cannot_run_has_a_report():
    from onnx import TensorProto, helper

    proto = conv_bn_model()
    proto.graph.node.append(helper.make_node("Mystery", ["r2"], ["z"], domain="my.own"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    proto.opset_import.append(helper.make_opsetid("my.own", 1))
    text = graphopt.optimize(proto).report.to_html(seconds=0.01)
    assert "unverified" in text and "not measured" in text


@pytest.mark.parametrize("name", ["if", "scan", "loop"])
def test_nested_graphs_are_drawn(name):
    data = drawn(graphopt.optimize(nets.load(name), validate=False).report.to_html(seconds=0))
    assert len(data["after"]) > 1 and all(graph["nodes"] for graph in data["after"])


@zoo.parametrize("light-densenet121", "silero-default", "rapidocr-rec", "smart-turn")
def test_large_reports_are_small(name):
    report = graphopt.optimize(zoo.path(name), validate=False).report
    assert report.trail.provenance
    text = report.to_html(seconds=0)
    assert len(text.encode()) < 3_000_000


def test_very_large_graphs_say_what_is_not_drawn():
    text = graphopt.optimize(generators.chain(6000), validate=False, passes=[]).report.to_html(seconds=0)
    assert len(text.encode()) < 3_000_000 and "Not drawn" in text


def test_layers_read_precision_through_dequantization():
    from graphopt import onnx_io

    found = layers(onnx_io.load(ROOT / "models" / "fashion_qdq.onnx"))
    convs = [layer for layer in found if layer.op == "Conv"]
    assert convs and {layer.precision for layer in convs} == {"i8"} and all(layer.macs for layer in convs)


def test_layout_by_networkx_is_the_same_each_time(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_sugiyama", None)
    assert layout.arrange(62, EDGES) == layout.arrange(62, EDGES)


@pytest.mark.parametrize("engine", ["fast-sugiyama", "networkx"])
def test_layout_keeps_boxes_apart_and_edges_downwards(engine, monkeypatch):
    if engine == "networkx":
        monkeypatch.setitem(sys.modules, "fast_sugiyama", None)
    else:
        pytest.importorskip("fast_sugiyama", reason="the extra `report` is not installed")
    made = layout.arrange(62, EDGES)
    assert len(made.points) == 62 and set(made.routes) == set(EDGES)
    boxes = sorted(made.points)
    for i, (x, y) in enumerate(boxes):
        for u, v in boxes[i + 1 :]:
            assert abs(x - u) >= layout.WIDTH or abs(y - v) >= layout.HEIGHT, ((x, y), (u, v))
    columns = sum(made.points[b][1] <= made.points[a][1] for a, b in EDGES)
    assert columns <= 8, "edges go down but for those into the next column"


def test_command_line_writes_html(tmp_path):
    model, out = ROOT / "models" / "fashion_cnn.onnx", tmp_path / "o.onnx"
    assert cli("optimize", model, out, "--report", tmp_path / "r.html").returncode == 0
    assert "fashion_cnn.onnx" in (tmp_path / "r.html").read_text()
    one_line(cli("optimize", model, out, "--report", tmp_path / "r.pdf"), "r.pdf", ".html")
    one_line(cli("optimize", model, out, "--report", tmp_path / "no" / "r.html"), "r.html")


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome to open the report with")
@pytest.mark.parametrize("width", [1280, 500])
@pytest.mark.parametrize("model", ["fashion_cnn", "fashion_qdq"])
def test_browser_shows_it_without_errors(tmp_path, width, model):
    result = graphopt.optimize(ROOT / "models" / f"{model}.onnx", validate=False)
    page = tmp_path / "r.html"
    page.write_text(result.report.to_html("fashion", seconds=0).replace("</main>", PROBE + "</main>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command = [BROWSER, *options, f"--window-size={width},1600", f"--user-data-dir={tmp_path / 'profile'}", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(re.search(r'id="probe">(.*?)<', done.stdout, re.S).group(1).replace("&quot;", '"'))
    assert seen["boxes"] == len(drawn(page.read_text())["after"][0]["nodes"]) and seen["history"]
    assert seen["chosen"] == "Conv", "the first layer is chosen, not a conversion before it"
    assert seen["overflow"] <= 0, "the page is no wider than the window"


PROBE = """<p id="probe"></p><script>
const first = document.querySelector("aside h3").textContent;
document.querySelector(".box").dispatchEvent(new MouseEvent("click", { bubbles: true }));
document.getElementById("probe").textContent = JSON.stringify({
  chosen: first, boxes: document.querySelectorAll(".box").length,
  history: document.querySelectorAll("aside li, aside button").length > 0,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth });
</script>"""
