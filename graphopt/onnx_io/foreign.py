"""Recognition of files and names that users pass instead of an ONNX model, for error messages."""

from __future__ import annotations

import os
import re

_SUFFIXES = {
    ".tflite": "a TensorFlow Lite model: convert it, as `python -m tf2onnx.convert --tflite IN --output OUT` does",
    ".pt": "a PyTorch file: export it first, as `torch.onnx.export(model, (inputs,), 'model.onnx')` does",
    ".safetensors": "a file of weights without a graph: load it in its framework and export the model as ONNX",
    ".h5": "a Keras file: convert it first, as `python -m tf2onnx.convert --keras IN --output OUT` does",
    ".pb": "a TensorFlow graph: convert it first, as `python -m tf2onnx.convert --graphdef IN --output OUT` does",
    ".gguf": "a GGUF file, which holds no ONNX graph",
    ".xml": "an OpenVINO model, which holds no ONNX graph",
    ".ort": "in onnxruntime's own format: give the ONNX file that it was made from",
}
_SAME = {".pth": ".pt", ".ckpt": ".pt", ".bin": ".pt", ".pt2": ".pt", ".keras": ".h5", ".hdf5": ".h5"}
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def kind_of_path(path: str) -> str:
    """What a path that names no file probably is: a URL, or an id of a model hub; "" for neither."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
        return "a URL: download the file first"
    folder = os.path.dirname(path)
    if (
        _HUB.fullmatch(path)
        and not os.path.splitext(path)[1]
        and folder not in (".", "..")
        and not os.path.isdir(folder)
    ):
        return (
            f"no file; if it is a model of a hub, export it first, as `optimum-cli export onnx --model {path} OUT` does"
        )
    return ""


def kind_of_data(data: bytes, path: str = "") -> str:
    """The format of a file, by its first bytes, then by its name; "" if the file may be ONNX."""
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of git-LFS, not the file itself: run `git lfs pull`"
    if data[4:8] == b"TFL3":
        return _SUFFIXES[".tflite"]
    if data.startswith(b"\x89HDF"):
        return _SUFFIXES[".h5"]
    if data.startswith(b"GGUF"):
        return _SUFFIXES[".gguf"]
    if data[4:8] == b"ORTM":
        return _SUFFIXES[".ort"]
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") < max(len(data), 1):
        return _SUFFIXES[".safetensors"]
    if data.startswith(b"PK\x03\x04"):
        return _SUFFIXES[".pt"] if path.endswith((".pt", ".pth", ".ckpt", ".bin", ".pt2")) else "a zip archive"
    if data.lstrip()[:1] == b"<":
        return "a page of HTML or XML, perhaps the answer of a server instead of the file"
    suffix = os.path.splitext(path)[1].lower()
    return _SUFFIXES.get(_SAME.get(suffix, suffix), "")
