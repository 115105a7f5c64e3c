"""Every node of an optimised model has a story, and every node of the original an end."""

from __future__ import annotations

import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.provenance import KEY, Provenance, explanation, read, sidecar
from tests import nets, zoo
from tests.command import cli
from tests.test_cli import one_line
from tests.test_optimize import conv_bn_model


def proto_nodes(graph: onnx.GraphProto):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for nested in (attribute.g, *attribute.graphs):
                yield from proto_nodes(nested)


def assert_explained(source, result: graphopt.Result) -> None:
    found = result.report.trail.provenance
    lifted = onnx_io.load(result.model, infer=False)
    assert found.original and found.nodes
    given = {node.name for node in proto_nodes(source.graph)}
    unnamed = {name for name in found.original if name not in given}
    assert len(unnamed) <= sum(node.name == "" for node in proto_nodes(source.graph)) + len(given)
    for node in lifted.graph.walk():
        output = next(v.name for v in node.outputs if v.name)
        kept = found.nodes[output]
        assert kept.op == node.op
        assert kept.sources or kept.by, output
        assert set(kept.sources) <= set(found.original), output
        lines = explanation(found, lifted.graph, output)
        assert len(lines) >= 2 and not any("unknown" in line for line in lines), lines
    ends = {name for kept in found.nodes.values() for name in kept.sources}
    for name in found.original:
        assert (name in ends) != (name in found.gone), name
        assert explanation(found, lifted.graph, name)
    assert all(how.by for how in found.gone.values()), found.gone


@zoo.parametrize(*zoo.distinct())
def test_zoo_is_explained(name):
    path = zoo.path(name)
    assert_explained(onnx.load(path, load_external_data=False), graphopt.optimize(path, validate=False))


@pytest.mark.parametrize("name", nets.NAMES)
def test_texts_are_explained(name):
    model = nets.load(name)
    assert_explained(model, graphopt.optimize(model, validate=False))


def test_merged_nodes_name_all_they_came_from():
    result = graphopt.optimize(conv_bn_model())
    found = result.report.trail.provenance
    (first, *_) = [kept for kept in found.nodes.values() if kept.op == "Conv"]
    assert set(first.sources) == {"conv0", "bn0"} and first.by == "fold-batchnorm"
    lines = explanation(found, result.ir.graph, "bn0")
    assert lines[0].startswith("BatchNormalization bn0") and "lives on in Conv" in lines[1]
    assert any("gamma" in line for line in lines)


def test_foreign_passes_are_named_as_the_cause():
    from onnx import helper

    proto = conv_bn_model()
    proto.graph.node.insert(1, helper.make_node("Identity", ["c0"], ["unread"], name="idle"))

    with graphopt.Registry():

        @graphopt.register_pass("drop-idle")
        def drop_idle(graph):
            return graph.erase_unused(next(node for node in graph if node.op == "Identity"))

        result = graphopt.optimize(proto, passes=["fold-batchnorm", "drop-idle"])
    assert result.report.trail.provenance.gone["idle"].by == "drop-idle"


def test_the_record_survives_the_file_and_counts_nowhere(tmp_path):
    plain = graphopt.optimize(conv_bn_model())
    told = graphopt.optimize(conv_bn_model(), tmp_path / "o.onnx", provenance=True)
    assert told.report.after == plain.report.after and KEY not in plain.ir.metadata
    loaded = onnx_io.load(tmp_path / "o.onnx")
    found = read(tmp_path / "o.onnx", loaded.metadata)
    assert isinstance(found, Provenance) and found == told.report.trail.provenance
    onnx.checker.check_model(str(tmp_path / "o.onnx"))
    again = graphopt.optimize(tmp_path / "o.onnx")
    assert KEY not in again.ir.metadata, "it tells of another run"
    assert graphopt.compare(plain.model, told.model).status == "equal"


def test_explain_and_diff_on_the_command_line(tmp_path):
    onnx.save(conv_bn_model(), tmp_path / "m.onnx")
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    assert cli("optimize", source, out, "--provenance").returncode == 0
    done = cli("explain", out, "bn1")
    assert done.returncode == 0 and "fold_norm_into_conv" in done.stdout, done.stdout + done.stderr
    done = cli("explain", out)
    assert done.returncode == 0 and "made by fold-batchnorm" in done.stdout
    done = cli("diff", source, out)
    assert done.returncode == 0 and "Conv ×3 → Conv ×3" in done.stdout and "-  %b0" in done.stdout
    one_line(cli("explain", out, "bm1"), "bm1", "bn1")
    one_line(cli("explain", source, "bn1"), "--provenance")


def test_the_record_beside_the_file(tmp_path):
    onnx.save(conv_bn_model(), tmp_path / "m.onnx")
    out = tmp_path / "o.onnx"
    assert cli("optimize", tmp_path / "m.onnx", out, "--provenance-beside").returncode == 0
    assert sidecar(out).name == "o.provenance.json"
    assert KEY not in onnx_io.load(out).metadata
    assert "bn1" in cli("explain", out, "conv1").stdout
    sidecar(out).write_text("{}")
    one_line(cli("explain", out, "conv1"), "o.provenance.json")
    one_line(cli("explain", out, "conv1", "--beside", tmp_path / "absent.json"), "absent.json")
