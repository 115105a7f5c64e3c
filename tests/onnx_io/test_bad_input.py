"""What is not a valid model is refused in one line that names the place."""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import graphopt
from graphopt.bench import bench_timings, profile_models
from graphopt.errors import ModelError
from graphopt.onnx_io import check, load
from graphopt.runtime.execute.ort_segment import OrtSegment
from graphopt.runtime.place.extract import input_name, output_name
from graphopt.runtime.warmup import warmup

from .spelled import parse


def refused(source, what: str, how=load) -> None:
    with pytest.raises(ModelError) as error:
        how(source)
    assert "\n" not in str(error.value)
    assert re.search(what, str(error.value)), str(error.value)


def test_no_model_at_all(tmp_path):
    valid = parse("g (float[2] x) => (float[2] y) <float[400] w = {1.0}> { y = Relu(x) }").SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(valid[: len(valid) // 2])
    (tmp_path / "text.onnx").write_text("hello, this is a text file\n" * 20)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "tensor.onnx").write_bytes(numpy_helper.from_array(np.ones(9, np.float32)).SerializeToString())
    refused(tmp_path / "cut.onnx", "cut off")
    refused(str(tmp_path / "text.onnx"), "not an ONNX model")
    refused(tmp_path / "empty.onnx", "empty")
    refused(tmp_path / "tensor.onnx", "not an ONNX model")
    refused(tmp_path, "is a directory")
    refused(tmp_path / "none.onnx", "No such file")
    refused(b"", "empty")
    refused(3, "int")


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_a_file_cut_anywhere_is_refused_or_smaller(length):
    data = parse("g (float[2] x) => (float[2] y) { h = Relu(x) y = Exp(h) }").SerializeToString()
    try:
        load(data[:length])
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("text", "what"), [
    ("g (float[2] x) => (float[2] y) { y = Add(x, nowhere) }", "node 0 \\(Add\\) input 'nowhere'"),
    ("g (float[2] x) => (float[2] z) { y = Relu(x) }", "output 'z'"),
    ("g (float[2] x) => (float[2] y) { y = Add(x, b) a = Neg(b) b = Exp(a) }", "cycle"),
    ("g (float[2] x) => (float[2] y) { y = Relu(x) y = Exp(x) }", "defines 'y' twice"),
    ("g (float[2] x, float[2] x) => (float[2] y) { y = Relu(x) }", "defines 'x' twice"),
    ("g (float[2] x) => (float[2] y) { y = strange.Relu(x) }", "domain 'strange'"),
])  # fmt: skip
def test_broken_structure(text, what):
    refused(parse(text), what)


def test_a_cycle_through_a_nested_graph():
    refused(parse("""g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = a () => (float[2] t) { t = Neg(h) }, else_branch = b () => (float[2] e) { e = Abs(x) }>
        h = Relu(y)
    }"""), "cycle")  # fmt: skip


@pytest.mark.parametrize(("text", "what"), [
    ("g (float[2] x, int64[2] i) => (float[2] y) { y = Add(x, i) }", "Add"),
    ("g (float[2, 3] x, float[4, 5] w) => (float[2, 5] y) { y = MatMul(x, w) }", "MatMul"),
    ("g (float[2] x) => (float[2] y) { y = Softmax<axis = 0.5>(x) }", "axis"),
    ("g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }", "NoSuchOperator"),
    ("g (float[2] x) => (float[2] y) { y = Relu(x, x) }", "Relu"),
])  # fmt: skip
def test_check_finds_what_lifting_keeps(text, what):
    proto = parse(text)
    load(proto)
    refused(proto, what, check)


def test_check_accepts_what_is_valid():
    check(parse("g (float[N] x) => (float[N] y) <float w = {2.0}> { y = Mul(x, w) }"))


def test_tensors_that_cannot_be():
    proto = parse("g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul(x, w) }")
    proto.graph.initializer[0].data_type = 99
    refused(proto, "'w': element type 99")
    proto.graph.initializer[0].data_type = 1
    proto.graph.initializer[0].dims[0] = -2
    refused(proto, "negative")
    del proto.graph.initializer[0].float_data[:]
    proto.graph.initializer[0].dims[0] = 2
    proto.graph.initializer[0].raw_data = b"1234567"
    refused(proto, "name: w.* 7 bytes|raw_data size \\(7 bytes", check)


def test_a_large_tensor_of_the_wrong_length():
    proto = parse("g (float[5000] x) => (float[5000] y) { y = Mul(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(5000, np.float32), "w"))
    proto.graph.initializer[0].raw_data = bytes(19_999)
    refused(proto, "'w'.*f32\\[5000\\]", check)


def test_an_element_type_that_is_none():
    proto = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.elem_type = 77
    refused(proto, "input 'x': element type 77")


def external(folder: Path, **entries: object) -> Path:
    proto = parse("g (float[4] x) => (float[4] y) { y = Mul(x, w) }")
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    proto.graph.initializer.append(tensor)
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def data(tmp_path):
    (tmp_path / "in").mkdir()
    for place in (tmp_path / "w.data", tmp_path / "in" / "w.data"):
        place.write_bytes(np.arange(8, dtype=np.float32).tobytes())
    return tmp_path


def test_external_data_inside_is_mapped(data):
    model = load(external(data / "in", location="w.data", offset=8, length=16))
    array = next(iter(model.graph)).constant(1).array()
    assert array.tolist() == [2, 3, 4, 5] and not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize("location", ["../w.data", "x/../../w.data", "", ".", "..\\w.data"])
def test_external_data_outside_is_refused(data, location):
    refused(external(data / "in", location=location, length=16), "not inside the model's folder")


def test_absolute_and_linked_paths_are_refused(data):
    refused(external(data / "in", location=data / "w.data", length=16), "not inside the model's folder")
    os.symlink(data / "w.data", data / "in" / "link.data")
    refused(external(data / "in", location="link.data", length=16), "leads out of the model's folder")


def test_a_store_that_links_model_and_data_is_read(data):
    """Model caches keep files under digests, and a folder with links to them."""
    path = external(data / "in", location="weights", offset=0, length=16)
    (data / "store").mkdir()
    path.rename(data / "store" / "0a1b")
    (data / "w.data").rename(data / "store" / "2c3d")
    (data / "cache").mkdir()
    os.symlink(data / "store" / "0a1b", data / "cache" / "m.onnx")
    os.symlink(data / "store" / "2c3d", data / "cache" / "weights")
    assert next(iter(load(data / "cache" / "m.onnx").graph)).constant(1).array().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("entries", "what"), [
    ({"location": "none.data", "length": 16}, "does not exist"),
    ({"location": "w.data", "length": 15}, "takes 16 bytes"),
    ({"location": "w.data", "offset": 20, "length": 16}, "32 bytes"),
    ({"location": "w.data", "offset": -4, "length": 16}, "offset -4"),
    ({"location": "w.data", "offset": "many"}, "not integers"),
])  # fmt: skip
def test_external_data_that_does_not_fit(data, entries, what):
    refused(external(data / "in", **entries), f"'w'.*{what}")


def test_external_strings_are_refused(data):
    path = external(data / "in", location="w.data", length=16)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].data_type = TensorProto.STRING
    path.write_bytes(proto.SerializeToString())
    refused(path, "strings")


def unloadable(case: str) -> onnx.ModelProto:
    """A model that can be lifted, and that onnxruntime cannot load or run."""
    proto = parse("g (float[2] x) => (float[2] y) { h = Exp(x) y = Relu(h) }")
    if case == "empty":
        del proto.graph.node[:], proto.graph.input[:], proto.graph.output[:]
    elif case == "no outputs":
        del proto.graph.output[:]
    elif case == "type":
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    elif case == "operands":
        proto.graph.node[1].input.append("x")
    elif case == "opset":
        proto.opset_import[0].version = 99
    elif case == "ir version":
        proto.ir_version = 99
    else:
        proto.graph.node[1].domain = "strange"
        proto.opset_import.add(domain="strange", version=1)
    return proto


CALLS = {
    "optimize": graphopt.optimize,
    "session": lambda path: graphopt.Session(path).run(None, {"x": np.ones(2, np.float32)}),
    "compare": lambda path: graphopt.compare(path, path),
    "warmup": lambda path: warmup(path, {"x": np.ones(2, np.float32)}, seconds=0.01),
    "bench": lambda path: bench_timings([path], threads=1, seconds=0.01, inputs=None),
    "profile": lambda path: profile_models([path], inputs=None),
}


@pytest.mark.parametrize("case", ["empty", "no outputs", "type", "operands", "opset", "ir version", "domain"])
def test_no_error_of_onnxruntime_escapes(case, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(unloadable(case).SerializeToString())
    refusals = 0
    for name, call in CALLS.items():
        try:
            call(path)
        except graphopt.GraphoptError as error:
            assert "\n" not in str(error) and "ONNXRuntimeError" not in str(error) and ".cc:" not in str(error), name
            refusals += 1
    assert refusals >= (2 if case == "empty" else 3)


def test_a_segment_that_cannot_run_is_one_line():
    proto = parse("g (float[N, 4] i0) => (float[a, b] o0) <int64[2] s = {7, 3}> { o0 = Reshape(i0, s) }")
    names = {"i0": input_name(0), "o0": output_name(0)}
    proto.graph.input[0].name, proto.graph.output[0].name = names.values()
    proto.graph.node[0].input[0], proto.graph.node[0].output[0] = names.values()
    with pytest.raises(graphopt.InputError, match="shape") as error:
        OrtSegment(proto.SerializeToString(), 1, 1, 1).run([np.ones((2, 4), np.float32)])
    assert "\n" not in str(error.value)


def test_a_rank_that_is_not_known_is_valid():
    proto = parse("g (float[2] x) => (float[2] y) { y = Softmax(x) }")
    for info in (proto.graph.input[0], proto.graph.output[0]):
        info.type.tensor_type.ClearField("shape")
    check(proto)


def test_an_attribute_twice_is_refused():
    proto = parse("g (float[2] x) => (float[2] y) { y = Softmax<axis = 0>(x) }")
    proto.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    refused(proto, "'axis' is there twice")


def test_data_outside_is_not_sought_where_types_are_inferred(tmp_path, monkeypatch):
    """Of a model with operators of other domains, whose strict inference may want declared types."""
    proto = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[2, 8] x) => (float[a, b] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
        h = com.microsoft.QuickGelu(x) k = ai.other.Unknown(h) y = Mul(k, w) }"""
    )
    proto.opset_import.add(domain="ai.other", version=1)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check(load(tmp_path / "m.onnx"))


def test_what_onnxruntime_cannot_load_is_not_called_validated(tmp_path):
    """With nothing changed there was nothing to compare, and the model was called equal without being loaded."""
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], domain="my.own")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy")
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("my.own", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=8)
    made = graphopt.optimize(model)
    reason = made.report.reason
    assert made.report.status == "unverified" and made.model == model and "validated" not in str(made.report)
    assert reason.startswith("nothing was changed; onnxruntime cannot load the model: ") and "my.own:Mystery" in reason
    assert "\n" not in reason


def invalid(case: str) -> onnx.ModelProto:
    """A model that ONNX's checker refuses, and in which no pass finds anything to do."""
    proto = parse(
        "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}> { h = MatMul(x, w) y = Relu(h) }"
    )
    if case == "attribute":
        proto.graph.node[0].attribute.append(helper.make_attribute("nonsense", 3))
    elif case == "kind of an attribute":
        proto.graph.node[1].op_type = "LeakyRelu"
        proto.graph.node[1].attribute.append(helper.make_attribute("alpha", "text"))
    elif case == "size of a weight":
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 2), np.float32), "w"))
    elif case == "bytes of a weight":
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 2), np.float32), "w"))
        proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    else:
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 2), np.int32), "w"))
    return proto


INVALID = {
    "attribute": "nonsense", "kind of an attribute": "alpha", "size of a weight": "Incompatible dimensions",
    "bytes of a weight": r"\bw\b.*(does not fit|too small)", "type of a weight": "inconsistent type",
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_invalid_models_are_refused_also_where_no_pass_changes_them(case, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"as it was")
    refused(invalid(case), INVALID[case], lambda proto: graphopt.optimize(proto, output))
    assert output.read_bytes() == b"as it was"


@pytest.mark.parametrize("changed", [False, True])
def test_nodes_of_a_file_need_no_order(changed):
    """onnxruntime sorts them, too."""
    more = "h = MatMul(x, w) i = Identity(h) y = Relu(i)" if changed else "h = MatMul(x, w) y = Relu(h)"
    proto = parse(f"g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {{1.0, 2.0, 3.0, 4.0}}> {{ {more} }}")
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    result = graphopt.optimize(proto)
    assert result.report.status == "equal" and [n.op_type for n in result.model.graph.node] == ["MatMul", "Relu"]
    found = result.session(threads=1).run(None, {"x": np.array([[1, -2]], np.float32)})[0]
    np.testing.assert_array_equal(found, [[0, 0]])
