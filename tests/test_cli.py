"""The command line: what it prints, what it exits with, and that bad input never damages anything."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

import graphopt
from tests.command import ROOT, cli, process


def small(scale=1.0, extra=(), inputs=None) -> onnx.ModelProto:
    w = numpy_helper.from_array(np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2) * np.float32(scale), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="linear"),
        helper.make_node("Identity", ["h"], ["i"], name="nothing"),
        helper.make_node("Relu", ["i"], ["y"], name="act"),
        *extra,
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "small", inputs or [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(small(), path)
    return path


def one_line(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.strip("\n").splitlines() if not line.startswith("  ")]  # progress, where slow
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_optimize_writes_and_says_what_it_did(model, tmp_path):
    out = tmp_path / "o.onnx"
    done = process("optimize", model, out)
    assert done.returncode == 0, done.stderr
    assert "nodes" in done.stdout and "equal" in done.stdout and str(out) in done.stdout
    assert [n.op_type for n in onnx.load(out).graph.node] == ["MatMul", "Relu"]
    assert cli("verify", model, out).returncode == 0


def test_verify_tells_different_and_unverified(model, tmp_path):
    other = tmp_path / "other.onnx"
    onnx.save(small(1.01), other)
    done = cli("verify", model, other)
    assert done.returncode == 1 and "different" in done.stdout
    custom = tmp_path / "custom.onnx"
    proto = small(extra=[helper.make_node("Mystery", ["x"], ["z"], domain="my.own")])
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    proto.opset_import.append(helper.make_opsetid("my.own", 1))
    onnx.save(proto, custom)
    done = cli("verify", custom, custom)
    assert done.returncode == 3 and "unverified" in done.stdout
    done = cli("optimize", custom, other, "--force")
    assert done.returncode == 0 and "1 of 4 nodes stay as they were" in done.stdout, done.stdout
    del proto.graph.node[:], proto.graph.output[:-1], proto.graph.initializer[:]
    for op, given, made, domain in (
        ("Mystery", "x", "m", "my.own"),
        ("Identity", "m", "i", ""),
        ("Relu", "i", "z", ""),
    ):
        proto.graph.node.append(helper.make_node(op, [given], [made], domain=domain))
    onnx.save(proto, custom)  # all of it reads what nobody can compute
    done = cli("optimize", custom, other, "--force")
    assert done.returncode == 3 and "unverified" in done.stdout and other.read_bytes()
    done = cli("optimize", custom, other, "--allow-unverified")
    assert done.returncode == 0, done.stderr


def test_verify_of_a_quantized_model_says_what_would_tell_more():
    pair = (ROOT / "models" / "fashion_cnn.onnx", ROOT / "models" / "fashion_qdq.onnx")
    done = cli("verify", *pair)
    assert done.returncode == 1 and "4 made-up samples" in done.stdout
    assert "hint: the candidate is quantized" in done.stdout
    assert "--inputs samples.npz" in done.stdout and "--min-sqnr 20" in done.stdout
    real = ("--inputs", ROOT / "models" / "fashion_calibration.npz", "--min-sqnr", "20")
    done = cli("verify", *pair, *real)
    assert done.returncode == 0 and "hint" not in done.stdout and "made-up" not in done.stdout
    assert "hint" not in cli("verify", pair[1], pair[1]).stdout, "both are quantized: nothing was lost"


def test_inspect_diff_passes_and_bench(model, tmp_path):
    done = cli("inspect", model)
    assert done.returncode == 0 and "MatMul(%x, @w)" in done.stdout
    other = tmp_path / "o.onnx"
    assert cli("optimize", model, other).returncode == 0
    done = cli("diff", model, other)
    assert done.returncode == 0 and any(
        line.startswith("-") and "Identity" in line for line in done.stdout.splitlines()
    )
    done = cli("passes")
    assert done.returncode == 0 and "fold-constants" in done.stdout
    done = cli("bench", model, other, "--seconds", "0.05")
    assert done.returncode == 0 and "ms" in done.stdout


def test_the_size_of_a_file_is_that_of_the_file(tmp_path):
    """Not of the same model as it would be written: nodes of Constant take more bytes than initializers."""
    constant = helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0, 4.0])
    path = tmp_path / "m.onnx"
    onnx.save(small(extra=[constant]), path)
    found = json.loads(cli("inspect", path, "--json").stdout)
    both = json.loads(cli("diff", path, path, "--json").stdout)
    assert found["file_bytes"] == both["before"]["file_bytes"] == both["after"]["file_bytes"] == path.stat().st_size


def test_dry_run_writes_nothing(model, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert cli("optimize", model, tmp_path / "o.onnx", "--dry-run").returncode == 0
    assert sorted(tmp_path.iterdir()) == before


def test_report_as_json(model, tmp_path):
    import json

    assert cli("optimize", model, tmp_path / "o.onnx", "--report", tmp_path / "r.json").returncode == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["status"] == "equal" and report["before"]["nodes"] == 3 and report["after"]["nodes"] == 2


def bad_inputs(tmp_path):
    model = small()
    blob = model.SerializeToString()

    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    yield write("truncated.onnx", blob[: len(blob) // 2]), ()
    yield write("text.onnx", b"this is no model\n" * 20), ()
    yield write("empty.onnx", b""), ()
    yield tmp_path / "absent.onnx", ("absent.onnx",)
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    yield folder, ("folder.onnx",)

    for name, location in (
        ("gone.onnx", "gone.data"),
        ("escape.onnx", "../escape.data"),
        ("abs.onnx", "/etc/hostname"),
    ):
        proto = small()
        tensor = proto.graph.initializer[0]
        set_external_data(tensor, location)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        yield write(name, proto.SerializeToString()), (location,)

    cyclic = small()
    cyclic.graph.node[0].input[0] = "y"
    yield write("cyclic.onnx", cyclic.SerializeToString()), ("cycl",)

    undefined = small()
    undefined.graph.node[0].input[0] = "nowhere"
    yield write("undefined.onnx", undefined.SerializeToString()), ("nowhere",)

    unknown = small()
    unknown.graph.node[1].op_type = "NoSuchOperator"
    yield write("unknown.onnx", unknown.SerializeToString()), ("NoSuchOperator",)

    wrong_type = small()
    wrong_type.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 2), np.int64), "w"))
    yield write("types.onnx", wrong_type.SerializeToString()), ()


def test_bad_input_is_one_line_and_nothing_is_damaged(tmp_path):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    failures = []
    one_line(process("optimize", tmp_path / "absent.onnx", out, "--force"), "absent.onnx")
    for path, words in list(bad_inputs(tmp_path)):
        try:
            one_line(cli("optimize", path, out, "--force"), *words)
        except AssertionError as error:
            failures.append(f"{path.name}: {error}")
    assert out.read_bytes() == b"precious"
    assert not failures, "\n\n".join(failures)


def test_bad_options_are_one_line(model, tmp_path):
    out = tmp_path / "o.onnx"
    one_line(cli("optimize", model, out, "--input-shape", "z:1,4"), "'z'", "'x'")
    one_line(cli("optimize", model, out, "--input-shape", "x:1,5"), "x", "4", "5")
    one_line(cli("optimize", model, out, "--input-shape", "x:1"), "x", "2 axes")
    one_line(cli("optimize", model, out, "--input-shape", "nonsense"), "nonsense")
    one_line(cli("optimize", model, out, "--dim", "M=1"), "'M'", "N")
    one_line(cli("optimize", model, out, "--dim", "N"), "--dim 'N'")
    one_line(cli("optimize", model, out, "--opset", "13"), "opset 13", "goes up only")
    one_line(cli("optimize", model, out, "--opset", "999"), "opset 999")
    one_line(cli("optimize", model, out, "--target", "gpu"), "gpu", "portable")
    one_line(cli("optimize", model, out, "--passes", "no-such-pass"), "no-such-pass")
    one_line(cli("optimize", model, out, "--skip", "no-such-pass"), "no-such-pass")
    one_line(cli("optimize", model, tmp_path / "no" / "such" / "o.onnx"), "o.onnx")
    one_line(cli("verify", model, tmp_path / "absent.onnx"), "absent.onnx")
    assert not out.exists()


def test_bench_of_models_with_other_inputs_is_one_line(model, tmp_path):
    renamed, fixed = small(), small()
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "z"
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 77
    for name, other, words in (("renamed", renamed, ["'z'"]), ("fixed", fixed, ["x", "Expected: 77"])):
        onnx.save(other, tmp_path / f"{name}.onnx")
        one_line(cli("bench", model, tmp_path / f"{name}.onnx", "--seconds", "0.05"), f"{name}.onnx", *words)


def test_what_onnxruntime_cannot_load_is_one_line(tmp_path):
    proto = small()
    proto.graph.node[0].domain = "strange"
    proto.opset_import.append(helper.make_opsetid("strange", 1))
    onnx.save(proto, tmp_path / "m.onnx")
    for command in ("bench", "warmup"):
        one_line(cli(command, tmp_path / "m.onnx"), "onnxruntime cannot load", "strange")


def test_unwritable_output_is_one_line(model, tmp_path):
    target = tmp_path / "taken"
    target.mkdir()
    one_line(cli("optimize", model, target), "taken")


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path):
    """Writes a large model over an old one, killed at many moments; the file is always the old or the new one."""
    old, new = small(1.0), small(2.0)
    new.graph.initializer.append(numpy_helper.from_array(np.zeros(20_000_000, np.float32), "big"))
    new.graph.node.append(helper.make_node("Identity", ["big"], ["kept"]))
    new.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, [20_000_000]))
    source, target = tmp_path / "new.onnx", tmp_path / "target.onnx"
    onnx.save(new, source)
    onnx.save(old, target)
    before = target.read_bytes()
    code = (
        f"import graphopt; r = graphopt.optimize({str(source)!r}, validate=False);"
        f"print('go', flush=True); r.save({str(target)!r})"
    )
    for delay in (0.0, 0.005, 0.02, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        data = target.read_bytes()
        assert data == before or len(data) >= 80_000_000
        onnx.load(target)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(model, tmp_path):
    folder = tmp_path / "ro"
    folder.mkdir(mode=0o500)
    one_line(cli("optimize", model, folder / "o.onnx"), "o.onnx")


def test_errors_of_the_api_are_graphopt_errors(tmp_path):
    with pytest.raises(graphopt.ModelError, match="absent"):
        graphopt.optimize(tmp_path / "absent.onnx")
    with pytest.raises(graphopt.OptionError, match="quantize: mode 'integers' is not one of"):
        graphopt.optimize(small(), quantize="integers")


def test_sizes_are_fixed_by_place_and_by_name_and_the_opset_is_raised(model, tmp_path):
    out = tmp_path / "out.onnx"
    for options in (("--input-shape", "x:3,?"), ("--dim", "N=3")):
        assert cli("optimize", model, out, *options, "--opset", "18").returncode == 0
        made = onnx.load(out)
        assert [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim] == [3, 4]
        assert [o.version for o in made.opset_import if o.domain == ""] == [18]


def test_words_of_quantization(tmp_path):
    source, out, feeds = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "x.npz"
    onnx.save(small(), source)
    np.savez(feeds, x=np.random.default_rng(0).standard_normal((32, 4), np.float32))
    words = ["speed=no", "min_sqnr=-10", "calibrate_method=mse", "nodes-to-exclude=act,nothing", "samples=none"]
    words.append(f"cache={tmp_path / 'seen'}")
    given = [part for word in words for part in ("--quantize-option", word)]
    done = cli(
        "optimize", source, out, "--quantize", "static", "--sensitivity", *given, "--report", tmp_path / "r.json",
        "--calibration", feeds,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "error alone" in (tmp_path / "r.json").read_text() and (tmp_path / "seen").exists()
    for wrong, line in (
        (["--quantize", "static", "--quantize-option", "sped=no"], "no option is named sped"),
        (["--quantize", "static", "--quantize-option", "samples=few"], "samples takes a int, got 'few'"),
        (["--sensitivity"], "goes with --quantize"),
    ):
        done = cli("optimize", source, out, *wrong)
        assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["out", "report"])
def test_what_cannot_be_written_is_told_before_the_work(where, model, tmp_path):
    out, report = tmp_path / "out.onnx", tmp_path / "r.json"
    out.write_bytes(b"old")
    absent = tmp_path / "absent"
    paths = (absent / "o.onnx", report) if where == "out" else (out, absent / "r.html")
    done = cli("optimize", model, paths[0], "--report", paths[1])
    assert done.returncode == 2 and "there is no directory" in done.stderr and len(done.stderr.splitlines()) == 1
    assert out.read_bytes() == b"old" and not report.exists() and not absent.exists()
    calls = []
    with pytest.raises(graphopt.OutputError):
        graphopt.optimize(model, absent / "o.onnx", progress=lambda what, share: calls.append(what))
    assert calls == []


def test_words_of_other_cases_and_near_misses(model, tmp_path):
    from graphopt.options import as_quantize

    assert as_quantize("INT8") == graphopt.Quantize("static")
    assert as_quantize("int4") == graphopt.Quantize("weights", weight_type="int4")
    with pytest.raises(graphopt.OptionError, match="fp16 is a precision"):
        as_quantize("fp16")
    out = tmp_path / "o.onnx"
    one_line(cli("optimize", model, out, "--quantize", "dinamic"), "did you mean dynamic?")
    one_line(cli("optimize", model, out, "--target", "onnxruntme"), "did you mean onnxruntime?")
    one_line(cli("optimize", model, out, "--passes", "fold-constant"), "did you mean fold-constants?")
    one_line(cli("optimize", model, out, "--skip", "fold-constant"), "did you mean fold-constants?")
    words = ["--quantize", "Dynamic", "--quantize-option", "sped=no"]
    one_line(cli("optimize", model, out, *words), "did you mean speed?")
    assert cli("optimize", model, out, "--target", "ONNXRUNTIME").returncode == 0


@pytest.mark.parametrize(("name", "data", "words"), [
    ("m.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(90), "TensorFlow Lite"),
    ("m.pth", b"PK\x03\x04" + bytes(90), "torch.onnx.export"),
    ("m.safetensors", (40).to_bytes(8, "little") + b'{"w":{}}' + bytes(90), "weights without a graph"),
    ("m.onnx", b"<!DOCTYPE html><html></html>", "HTML"),
])  # fmt: skip
def test_files_of_other_kinds_are_named(name, data, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(graphopt.ModelError, match=words) as error:
        graphopt.optimize(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "words"), [
    ("https://example.org/m.onnx", "a URL"), ("owner/some-model", "optimum-cli export"),
    ("no/such.onnx", "cannot be read"), ("absent", "cannot be read"),
])  # fmt: skip
def test_names_that_are_no_files_are_named(name, words):
    with pytest.raises(graphopt.ModelError, match=words):
        graphopt.optimize(name)
