"""The headline: one line for terminal, HTML, Markdown and JSON, without a part that was not measured."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.compress.report import StageReport
from graphopt.measure import Fidelity, metric_name
from graphopt.report.headline import headline
from graphopt.report.html.brief import brief
from graphopt.report.latency import Latency, RuntimeLatency
from graphopt.report.markdown import markdown
from graphopt.report.tables import report_lines
from models.fashion import accuracy
from tests.test_cli import ROOT
from tests.test_optimize import conv_bn_model

FASHION = ROOT / "models" / "fashion_cnn.onnx"
DATA = ROOT / "models" / "fashion_calibration.npz"
SMALL = graphopt.Quantize("weights", speed=False)
STAGE = StageReport("quantize static", "all of it")


@pytest.fixture(scope="module")
def exact():
    return graphopt.optimize(conv_bn_model()).report


def lossy(report, **changes):
    after = replace(report.after, file_bytes=report.before.file_bytes // 4)
    return replace(report, after=after, stages=(STAGE,), status="lossy", validation="equal", **changes)


def timed(ratio, error, runtime="onnxruntime"):
    return Latency((RuntimeLatency(runtime, 1.0, 1 / ratio, ratio, error),), {"x": (1, 3, 224, 224)})


def test_every_part_has_its_words(exact):
    shown = headline(
        lossy(exact, latency=timed(2.16, 0.014), metric=(0.924, 0.9225), metric_name="accuracy", metric_samples=2000)
    )
    assert shown == (
        "4.00 × smaller · 2.16 × faster (± 3 %, 1 thread, 1×3×224×224, this CPU) · "
        "accuracy 92.4 → 92.25 % on 2,000 samples · validated"
    )


def test_what_was_not_measured_is_absent(exact):
    assert headline(exact).endswith(" nodes · validated") and "×" not in headline(exact).partition("·")[2]
    assert headline(lossy(exact)) == "4.00 × smaller · loss not measured"
    assert headline(lossy(exact, fidelity=Fidelity(31.24, 0.984, 0.984), fidelity_samples=32)) == (
        "4.00 × smaller · SQNR 31.2 dB, top-1 agreement 98.40% on 32 samples · validated"
    )
    assert headline(replace(exact, latency=Latency((), {}, "not measured: no"))) == headline(exact)
    assert "not validated" in headline(graphopt.optimize(conv_bn_model(), validate=False).report)


@pytest.mark.parametrize(("ratio", "error", "words"), [
    (0.5, 0.01, "2.00 × slower (± 2 %"), (1.01, 0.02, "as fast as before (± 4 %"),
    (1.1, 0.0001, "1.10 × faster (± 1 %"),
])  # fmt: skip
def test_speed_is_claimed_where_it_is_clear(exact, ratio, error, words):
    assert words in headline(replace(exact, latency=timed(ratio, error)))


def test_speed_is_that_of_the_target(exact):
    report = replace(exact, latency=timed(2.0, 0.001, "Session"))
    assert "faster" not in headline(report)
    assert "2.00 × faster (± 1 %, 1 thread, graphopt.Session, 1×3" in headline(replace(report, target="graphopt"))


def test_it_is_the_same_everywhere():
    with np.load(DATA) as archive:
        data = {name: array[:16] for name, array in archive.items()}
    report = graphopt.optimize(FASHION, quantize="static", calibration=data, metric=accuracy).report.timed(0.02)
    line = report.headline
    assert "× smaller" in line and "1 thread, 1×1×28×28, this CPU" in line and line.endswith("· validated")
    assert f"on {report.metric_samples:,} samples" in line and report.metric_samples >= 1000
    assert "accuracy 9" in line and " % on" in line
    assert str(report).splitlines()[0].rstrip() == line
    assert report.to_markdown().splitlines()[2] == f"**{line}**"
    assert f'<p class="headline">{line}</p>' in report.to_html() and line in report._repr_html_()
    written = json.loads(report.to_json())
    assert written["headline"] == line and next(iter(written)) == "headline"
    assert written["latency"]["runs"] and written["metric_name"] == "accuracy" and written["validation"] == "equal"


def test_fidelity_is_told_of_given_data_and_never_of_made_up_ones():
    with np.load(DATA) as archive:
        data = {name: array[:16] for name, array in archive.items()}
    report = graphopt.optimize(FASHION, quantize=SMALL, calibration=data).report
    assert report.is_lossy and report.fidelity is not None and report.fidelity_samples > 0
    assert f"{report.fidelity} on" in report.headline
    report = graphopt.optimize(FASHION, quantize=SMALL).report
    assert report.is_lossy and report.fidelity is None and report.headline.endswith("loss not measured")


def test_names_of_metrics():
    def top1_accuracy(session, count):
        return 0.5

    assert metric_name(top1_accuracy) == metric_name(partial(top1_accuracy, count=3)) == "top1 accuracy"
    assert metric_name(lambda session: 0.5) == metric_name(type("M", (), {"__call__": None})()) == "metric"


def test_details_of_layers_are_for_the_verbose(exact):
    from rich.console import Console

    from graphopt.report.tables import report_lines

    report = graphopt.optimize(FASHION, quantize=SMALL).report
    texts = []
    for verbose in (False, True):
        console = Console(width=4096)
        with console.capture() as capture:
            console.print(*report_lines(report, verbose))
        texts.append(capture.get())
    for heading in ("J nearest", "J found", "worst pair", "16 bits"):
        assert heading not in texts[0] and heading in texts[1]
    assert "weight error" in texts[0] and "J nearest" not in str(report)


def test_names_with_brackets_are_shown_as_they_are(exact):
    report = replace(exact, notes=("[layer] of [red]",), reason="at [b, 3]")
    assert "[layer] of [red]" in str(report) and "at [b, 3]" in str(report)


def test_notebooks_show_figures():
    result = graphopt.optimize(conv_bn_model())
    shown = result._repr_html_()
    assert result.report.headline in shown and "<th>nodes</th>" in shown
    compared = graphopt.compare(conv_bn_model(), result.model)
    assert compared.outputs and "<td>equal</td>" in compared._repr_html_() and "<b>equal</b>" in compared._repr_html_()


def test_a_stage_tells_its_reason_once():
    """In the terminal, in Markdown and in a notebook, where a stage has a line of its own."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    )
    report = graphopt.optimize(model, quantize="dynamic").report
    (stage,) = report.stages
    assert not stage.changed and report.reason.endswith(f"; {stage.name}: {stage.summary}")
    lines = [line for line in report_lines(report) if isinstance(line, str)]
    for text in ("\n".join(lines), markdown(report), brief(report)):
        assert text.count(stage.summary) == 1 and report.reason_alone in text
