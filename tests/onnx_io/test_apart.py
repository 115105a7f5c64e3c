"""Weights that are read apart from their file: the same model, the same results, the same bytes when written."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.errors import ModelError
from graphopt.onnx_io.lend import WeightPool
from graphopt.onnx_io.parts.apart import ELEMENTS, read_apart, with_lent

RNG = np.random.default_rng(0)
WIDE = RNG.standard_normal((512, 640)).astype(np.float32)


def _node(op, inputs, output):
    return helper.make_node(op, inputs.split(), [output])


def _model(*more):
    """An Identity and two products, whose weights are 1.3 MB each."""
    weights = {"w": WIDE, "v": np.ascontiguousarray(WIDE.T), "b": np.ones(640, np.float32)}
    nodes = [
        _node("Identity", "x", "i"),
        _node("MatMul", "i w", "a"),
        _node("Add", "a b", "c"),
        _node("MatMul", "c v", "y"),
    ]
    ports = [helper.make_tensor_value_info(name, T.FLOAT, ["N", 512]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.graph.initializer.extend(more)
    model.graph.initializer[0].doc_string = "the first"
    return model


def _saved(model, folder):
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return str(path)


def test_the_proto_only_describes_large_weights_and_all_of_them_come_back(tmp_path):
    model = _model(numpy_helper.from_array(np.arange(3), "idle"))
    proto, lent = read_apart(_saved(model, tmp_path))
    assert set(lent) == {"w", "v"} and np.array_equal(lent["w"], WIDE) and lent["w"].flags.aligned
    assert not lent["w"].flags.writeable
    assert proto.ByteSize() < 10_000 and with_lent(proto, lent) == model


@pytest.mark.parametrize("external", [None, True])
def test_a_model_read_apart_is_written_as_the_one_that_was_parsed_whole(tmp_path, external):
    model = _model()
    path = _saved(model, tmp_path)
    apart, whole = onnx_io.load(path), onnx_io.load(model)
    assert onnx_io.emission(apart).lent and not onnx_io.emission(whole).lent
    assert onnx_io.to_proto(apart) == onnx_io.to_proto(whole)
    assert onnx_io.file_bytes(apart, onnx_io.emission(apart)) == onnx_io.to_proto(whole).ByteSize()
    files = []
    for name, lifted in (("a", apart), ("b", whole)):
        folder = tmp_path / name
        folder.mkdir()
        onnx_io.save(lifted, folder / "out.onnx", external=external)
        files.append({entry.name: entry.read_bytes() for entry in folder.iterdir()})
    assert files[0] == files[1] and len(files[0]) == (2 if external else 1)


@pytest.mark.parametrize("passes", [None, ["drop-identities"], []])
def test_a_file_is_optimised_as_its_bytes_are(tmp_path, passes):
    model = _model()
    path = _saved(model, tmp_path)
    a = graphopt.optimize(path, tmp_path / "a.onnx", passes=passes)
    b = graphopt.optimize(model.SerializeToString(), tmp_path / "b.onnx", passes=passes)
    assert a.report.status == b.report.status == "equal" and a.report.reason == b.report.reason
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert a.report.after.file_bytes == (tmp_path / "a.onnx").stat().st_size
    assert a.model == b.model == onnx.load(tmp_path / "a.onnx")


def test_weights_that_passes_make_are_compared_and_written(tmp_path):
    """y = ((x W) s) V, the scale folded into a weight: an array that the file does not hold."""
    model = _model(numpy_helper.from_array(np.full(640, 3, np.float32), "s"))
    model.graph.node[2].CopyFrom(_node("Mul", "a s", "c"))
    result = graphopt.optimize(_saved(model, tmp_path), tmp_path / "out.onnx")
    assert result.report.status == "equal" and result.report.comparison.power > 0.2
    assert [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node].count("Mul") == 0
    assert graphopt.compare(model, str(tmp_path / "out.onnx")).status == "equal"


def test_an_edited_result_is_what_is_saved(tmp_path):
    result = graphopt.optimize(_saved(_model(), tmp_path))
    result.model.doc_string = "edited"
    result.save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").doc_string == "edited"


def test_the_file_may_be_replaced_by_its_result(tmp_path):
    path = _saved(_model(), tmp_path)
    graphopt.optimize(path, path)
    assert graphopt.compare(_model(), path).status == "equal" and len(onnx.load(path).graph.node) < 4


def _not_lendable():
    """Typed lists, types of no session, few elements, a name that is there twice, a field that onnx does not know."""
    listed = helper.make_tensor("listed", T.FLOAT, [5000], [1.0] * 5000)
    longs = numpy_helper.from_array(np.arange(5000), "longs")
    small = numpy_helper.from_array(np.ones(ELEMENTS, np.float32), "small")
    twice = [numpy_helper.from_array(np.full(5000, i, np.float32), "twice") for i in (1, 2)]
    known = numpy_helper.from_array(np.ones(5000, np.float32), "strange")
    strange = T.FromString(known.SerializeToString() + b"\xfa\x3e\x02hi")
    assert len(strange.SerializeToString()) > len(known.SerializeToString())
    return [listed, longs, small, *twice, strange]


def test_other_tensors_keep_their_data(tmp_path):
    others = _not_lendable()
    model = _model(*others)
    proto, lent = read_apart(_saved(model, tmp_path))
    assert set(lent) == {"w", "v"} and with_lent(proto, lent).SerializeToString() == model.SerializeToString()


def test_small_files_two_graphs_and_broken_files_are_parsed_whole(tmp_path):
    data = _model().SerializeToString()
    two = data + onnx.ModelProto(graph=onnx.GraphProto(doc_string="more")).SerializeToString()
    assert read_apart(_saved(onnx.ModelProto(ir_version=8), tmp_path)) is None
    assert read_apart(_saved(two, tmp_path)) is None and onnx_io.load(str(tmp_path / "model.onnx")).graph.doc == "more"
    assert read_apart(str(tmp_path / "none.onnx")) is None
    for broken in (data[: len(data) // 2], data[:-3] + b"\xff" * 3, b"\x00" * (1 << 21), b"\xff" * (1 << 21)):
        path = _saved(broken, tmp_path)
        assert read_apart(path) is None
        with pytest.raises(ModelError):
            onnx_io.load(path)


def test_one_array_stands_for_equal_weights():
    pool, rows = WeightPool(), RNG.standard_normal(70_000).astype(np.float32)
    other = rows.copy()
    other[12_345] += 1
    first = pool.adopt({"a": rows, "b": rows.copy(), "c": other})
    assert first["a"] is first["b"] is rows and first["c"] is other
    proto = _model(numpy_helper.from_array(rows, "r"))
    assert pool.lend(proto)[1]["r"] is rows
