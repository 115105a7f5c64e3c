"""Writing: what is at the path is the old model or the new one, whole; data is streamed, shared or copied as asked."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.errors import ModelError, OutputError
from graphopt.ir import Constant, Value
from graphopt.onnx_io import load, save, to_proto


def linear(seed: int = 0, size: int = 64) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(rng.standard_normal((size, size)).astype(np.float32), f"w{i}") for i in range(3)]
    nodes = [helper.make_node("MatMul", ["x" if i == 0 else f"h{i - 1}", f"w{i}"], [f"h{i}"]) for i in range(3)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name in ("x", "h2")]
    graph = helper.make_graph(nodes, "linear", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def result(path: Path, size: int = 64) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.linspace(-1, 1, 2 * size, dtype=np.float32).reshape(2, size)
    return session.run(None, {"x": x})[0]


def locations(path: Path) -> set[str]:
    proto = onnx.load(path, load_external_data=False)
    return {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}


def test_external_on_request(tmp_path):
    save(load(linear()), tmp_path / "inline.onnx")
    save(load(linear()), tmp_path / "m.onnx", external=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inline.onnx", "m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 1500
    np.testing.assert_array_equal(result(tmp_path / "m.onnx"), result(tmp_path / "inline.onnx"))
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


def test_proto_is_saved_external_too(tmp_path):
    save(linear(), tmp_path / "m.onnx", external=True)
    assert locations(tmp_path / "m.onnx") == {"m.onnx.data"}
    assert result(tmp_path / "m.onnx").shape == (2, 64)


def test_untouched_data_in_the_same_folder_is_shared(tmp_path):
    save(linear(), tmp_path / "a.onnx", external=True)
    model = load(tmp_path / "a.onnx")
    node = next(iter(model.graph))
    model.graph.set_input(node, 1, Value(constant=Constant.of(np.eye(64, dtype=np.float32))))
    save(model, tmp_path / "b.onnx")
    assert locations(tmp_path / "b.onnx") == {"a.onnx.data"}
    assert not (tmp_path / "b.onnx.data").exists()
    assert not np.array_equal(result(tmp_path / "a.onnx"), result(tmp_path / "b.onnx"))


def test_data_is_copied_into_another_folder(tmp_path):
    save(linear(), tmp_path / "a.onnx", external=True)
    (tmp_path / "out").mkdir()
    save(load(tmp_path / "a.onnx"), tmp_path / "out" / "b.onnx")
    assert locations(tmp_path / "out" / "b.onnx") == {"b.onnx.data"}
    np.testing.assert_array_equal(result(tmp_path / "a.onnx"), result(tmp_path / "out" / "b.onnx"))


def test_external_false_brings_everything_into_the_file(tmp_path):
    save(linear(), tmp_path / "a.onnx", external=True)
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx", external=False)
    assert locations(tmp_path / "b.onnx") == set()
    np.testing.assert_array_equal(result(tmp_path / "a.onnx"), result(tmp_path / "b.onnx"))


def test_a_pair_is_replaced_under_its_own_names_and_bytes_repeat(tmp_path):
    save(linear(0), tmp_path / "m.onnx", external=True)
    first = [(tmp_path / n).read_bytes() for n in ("m.onnx", "m.onnx.data")]
    save(linear(1), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").read_bytes() != first[1]
    save(linear(0), tmp_path / "m.onnx", external=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert [(tmp_path / n).read_bytes() for n in ("m.onnx", "m.onnx.data")] == first


def test_saving_over_the_source_keeps_its_data(tmp_path):
    save(linear(), tmp_path / "m.onnx", external=True)
    before, data = result(tmp_path / "m.onnx"), (tmp_path / "m.onnx.data").read_bytes()
    model = load(tmp_path / "m.onnx")
    node = next(iter(model.graph))
    old = node.constant(1).array()
    model.graph.set_input(node, 1, Value(constant=Constant.of(old * np.float32(2))))
    save(model, tmp_path / "m.onnx", external=True)
    np.testing.assert_allclose(result(tmp_path / "m.onnx"), before * 2, rtol=1e-6)
    assert (tmp_path / "m.onnx.data").read_bytes() == data
    assert len(locations(tmp_path / "m.onnx")) == 2


def test_a_data_file_that_belongs_to_nobody_here_is_left_alone(tmp_path):
    (tmp_path / "m.onnx.data").write_bytes(b"someone's")
    save(linear(), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").read_bytes() == b"someone's"
    assert result(tmp_path / "m.onnx").shape == (2, 64)


@pytest.mark.parametrize("switches", range(12))
def test_the_pair_is_whole_after_every_step(tmp_path, monkeypatch, switches):
    """Stop at the n-th rename or link: the path must hold the old model or the new one."""
    path = tmp_path / "m.onnx"
    save(linear(0), path, external=True)
    old = result(path)
    save(linear(1), tmp_path / "new.onnx")
    new = result(tmp_path / "new.onnx")
    calls = 0

    class Killed(BaseException):
        pass

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > switches:
                raise Killed
            return function(*args, **kwargs)

        return call

    for name in ("replace", "link", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    with suppress(Killed):
        save(linear(1), path, external=True)
    monkeypatch.undo()
    found = result(path)
    assert np.array_equal(found, old) or np.array_equal(found, new)


def test_killed_while_writing_leaves_the_old_pair(tmp_path):
    path = tmp_path / "m.onnx"
    save(linear(0), path, external=True)
    old = [(tmp_path / n).read_bytes() for n in ("m.onnx", "m.onnx.data")]
    code = (
        "import sys, time, graphopt.onnx_io.digesting as f, graphopt.onnx_io.saving as s\n"
        "from tests.onnx_io.test_save import linear\n"
        "write = f.DigestingFile.write\n"
        "def slow(self, data):\n"
        "    write(self, data); self.file.flush(); print('writing', flush=True); time.sleep(60)\n"
        "f.DigestingFile.write = slow\n"
        f"s.save(linear(1), {str(path)!r}, external=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]
    )
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    assert [(tmp_path / n).read_bytes() for n in ("m.onnx", "m.onnx.data")] == old


@pytest.mark.parametrize("what", ["directory", "no folder", "device", "no name"])
def test_unwritable_output(tmp_path, what):
    path = {
        "directory": tmp_path,
        "no folder": tmp_path / "no" / "m.onnx",
        "device": "/dev/null",
        "no name": f"{tmp_path}/",
    }[what]
    with pytest.raises(OutputError, match="cannot be written") as error:
        save(linear(), path)
    assert "\n" not in str(error.value)
    assert Path("/dev/null").is_char_device()


def test_failing_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save(linear(0), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save(linear(1), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_every_dtype_survives_external_data(tmp_path):
    proto = linear()
    kinds = (TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16)
    for kind in kinds:
        name = f"t{kind}"
        proto.graph.initializer.append(helper.make_tensor(name, kind, [4096], np.arange(4096) % 7))
        proto.graph.node.append(helper.make_node("Cast", [name], [f"o{kind}"], to=1))
        proto.graph.output.append(helper.make_tensor_value_info(f"o{kind}", 1, [4096]))
    proto.opset_import[0].version, proto.ir_version = 21, 10
    save(proto, tmp_path / "m.onnx", external=True)
    read = {t.name: t for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    lifted = load(tmp_path / "m.onnx")
    constants = {v.name: v.constant for n in lifted.graph for v in n.inputs if v.constant is not None}
    for tensor in proto.graph.initializer:
        expected = numpy_helper.to_array(tensor).astype(np.float32)
        np.testing.assert_array_equal(numpy_helper.to_array(read[tensor.name]).astype(np.float32), expected)
        np.testing.assert_array_equal(constants[tensor.name].array().astype(np.float32), expected)


@pytest.mark.slow
def test_three_gigabytes_pass_through_without_entering_memory(tmp_path):
    """RssAnon stays below 1.5 GB while a 3 GB model is loaded, edited and copied into another folder."""
    count, size = 48, 4096  # 48 x 64 MB
    path = tmp_path / "big.onnx"
    nodes, weights = [], []
    for i in range(count):
        nodes.append(helper.make_node("MatMul", ["x" if i == 0 else f"h{i - 1}", f"w{i}"], [f"h{i}"]))
        tensor = TensorProto(name=f"w{i}", data_type=1, dims=[size, size], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "big.data"), ("offset", i * size * size * 4), ("length", size * size * 4)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    ends = [helper.make_tensor_value_info(name, 1, ["N", size]) for name in ("x", f"h{count - 1}")]
    graph = helper.make_graph(nodes, "big", ends[:1], ends[1:], weights)
    path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    with open(tmp_path / "big.data", "wb") as file:
        file.truncate(count * size * size * 4)
    (tmp_path / "out").mkdir()
    code = (
        "import threading, time, numpy as np\n"
        "from graphopt.onnx_io import load, save\n"
        "from graphopt.ir import Constant, Value\n"
        "peak, done = 0, False\n"
        "def watch():\n"
        "    global peak\n"
        "    while not done:\n"
        "        line = next(l for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "        peak = max(peak, int(line.split()[1])); time.sleep(0.01)\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        f"model = load({str(path)!r})\n"
        "node = next(iter(model.graph))\n"
        "model.graph.set_input(node, 1, Value(constant=Constant.of(node.constant(1).array() + np.float32(1))))\n"
        f"save(model, {str(tmp_path / 'out' / 'copy.onnx')!r})\n"
        f"save(model, {str(tmp_path / 'near.onnx')!r})\n"
        "done = True; thread.join(); print(peak)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(f"RssAnon peak {int(done.stdout) / 1024:.0f} MB, {time.perf_counter() - start:.1f} s")
    assert int(done.stdout) < 1.5 * 1024 * 1024
    assert (tmp_path / "out" / "copy.onnx.data").stat().st_size >= (count - 1) * size * size * 4
    assert locations(tmp_path / "near.onnx") == {"big.data", "near.onnx.data"}  # what is new lies outside, too
    assert (tmp_path / "near.onnx.data").stat().st_size < 2 * size * size * 4


def test_missing_data_is_found_when_loading(tmp_path):
    save(linear(), tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"'w0'.*does not exist"):
        load(tmp_path / "m.onnx")


def test_to_proto_keeps_external(tmp_path):
    save(linear(), tmp_path / "m.onnx", external=True)
    proto = to_proto(load(tmp_path / "m.onnx"))
    assert [t.data_location for t in proto.graph.initializer] == [TensorProto.EXTERNAL] * 3


def test_external_data_is_found_after_a_change_of_directory(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    inputs, outputs = ([helper.make_tensor_value_info(name, 1, [1, 64])] for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs, outputs, [weights])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(proto, tmp_path / "in/m.onnx", save_as_external_data=True, location="m.data")
    for folder, path in ((tmp_path, "in/m.onnx"), (tmp_path / "in", "m.onnx")):
        monkeypatch.chdir(folder)
        result = graphopt.optimize(path)
        monkeypatch.chdir(tmp_path / "elsewhere")
        feed = {"x": np.ones((1, 64), np.float32)}
        assert result.session().run(None, feed)[0][0, 0] == 64
        assert graphopt.optimize(onnx_io.to_onnx(result.ir)).report.status == "equal"
        result.save("copy.onnx")
        assert graphopt.Session("copy.onnx").run(None, feed)[0][0, 0] == 64


def test_functions_are_found_after_every_module_of_the_package():
    """Importing a submodule sets the package's attribute of its name, which must not be a function's."""
    code = (
        "import pkgutil, graphopt.onnx_io as package\n"
        "names = [found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "assert len(names) > 10\n"
        "for name in names: __import__(name)\n"
        "assert len(package.__all__) > 5\n"
        "print(*(name for name in package.__all__ if not callable(getattr(package, name))))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == []
