"""Calibration data as people have it: loaders with labels, samples without a batch, tensors, folders."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

import graphopt
from graphopt.calibration import PRESETS, Preprocess, open_calibration, preprocess_named
from tests.quantize.nets import convnet, images, parse

FEEDS = images(4)
ARRAYS = [feed["x"] for feed in FEEDS]
IGNORED = "what follows the inputs in each sample, such as labels, is ignored"


class Tensor:
    """What graphopt touches of a tensor of torch, which the tests do not need."""

    def __init__(self, array, moves=(), bfloat=False):
        self.array, self.moves, self.bfloat = array, moves, bfloat
        self.ndim, self.dtype = array.ndim, "torch.float32"

    def detach(self):
        return Tensor(self.array, (*self.moves, "detach"), self.bfloat)

    def cpu(self):
        return Tensor(self.array, (*self.moves, "cpu"), self.bfloat)

    def float(self):
        return Tensor(self.array, self.moves)

    def numpy(self):
        if self.bfloat:
            raise TypeError("Got unsupported ScalarType BFloat16")
        assert self.moves == ("detach", "cpu"), "a tensor that has a gradient or lies elsewhere is no array"
        return self.array


class DataSet:
    def __len__(self):
        return len(ARRAYS)

    def __getitem__(self, index):
        if not 0 <= index < len(ARRAYS):
            raise AssertionError("read beyond its length")
        return ARRAYS[index][0], index


class Loader:
    """Batches of two with labels, as torch's DataLoader gives them."""

    def __iter__(self):
        for at in range(0, len(ARRAYS), 2):
            yield [Tensor(np.concatenate(ARRAYS[at : at + 2])), Tensor(np.arange(2))]


def single():
    """The same network for one row at a time."""
    model = convnet()
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


FORMS = {
    "pairs": ([(x, 3) for x in ARRAYS], IGNORED),
    "generator of pairs": (((x, 3) for x in ARRAYS), IGNORED),
    "dict and label": ([(feed, 3) for feed in FEEDS], IGNORED),
    "arrays": (ARRAYS, ""),
    "without a batch": ([x[0] for x in ARRAYS], ""),
    "dicts without a batch": ([{"x": x[0]} for x in ARRAYS], ""),
    "tensors": ([Tensor(x) for x in ARRAYS], ""),
    "tensors of bfloat16": ([Tensor(x, bfloat=True) for x in ARRAYS], ""),
    "dicts of tensors": ([{"x": Tensor(x)} for x in ARRAYS], ""),
    "a tensor of all": (Tensor(np.stack(ARRAYS)), ""),
    "a data set": (DataSet(), IGNORED),
    "further keys": ([{**feed, "label": np.int64(3)} for feed in FEEDS], "'label' is ignored"),
    "stacked with further keys": (
        {"x": np.stack(ARRAYS), "label": np.arange(4), "id": np.arange(4)},
        "'label', 'id' are ignored",
    ),
}


@pytest.mark.parametrize("case", FORMS)
@pytest.mark.parametrize("net", [convnet, single])
def test_every_form_gives_the_same_feeds_again_and_again(case, net):
    data, note = FORMS[case]
    if case == "generator of pairs":
        data = ((x, 3) for x in ARRAYS)
    calibration = open_calibration(data, net())
    for _ in range(2):
        found = list(calibration)
        assert [np.array_equal(feed["x"], x) for feed, x in zip(found, ARRAYS, strict=True)] == [True] * 4
    assert (note in calibration.note and calibration.note.count("ignored") == 1) if note else calibration.note == ""


def test_a_batch_is_taken_apart_where_the_model_takes_one_row():
    assert [len(feed["x"]) for feed in open_calibration(Loader(), convnet())] == [2, 2]
    rows = list(open_calibration(Loader(), single()))
    assert [np.array_equal(feed["x"], x) for feed, x in zip(rows, ARRAYS, strict=True)] == [True] * 4


def two():
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,16] x, int64[N,8] z) => (float[N,6] y)
        <float[16,6] w, float[8,6] v> { f = Cast<to=1>(z) a = MatMul(x, w) b = MatMul(f, v) y = Add(a, b) }"""
    )


def test_pairs_of_models_with_several_inputs_go_by_order():
    x, z = np.ones((2, 16), np.float32), np.ones((2, 8), np.int64)
    feed = next(iter(open_calibration([(x, z, "a label")], two())))
    assert np.array_equal(feed["x"], x) and np.array_equal(feed["z"], z)
    with pytest.raises(graphopt.InputError, match="each sample is a dict of arrays"):
        open_calibration([(x,)], two())
    with pytest.raises(graphopt.InputError, match="one array was given, the model takes 2"):
        open_calibration([x], two())


def test_casts_that_lose_nothing_are_made_others_are_offered():
    x = np.ones((2, 16), np.float16)
    feed = next(iter(open_calibration([{"x": x, "z": np.ones((2, 8), np.int32)}], two())))
    assert feed["x"].dtype == np.float32 and feed["z"].dtype == np.int64
    for wrong in (np.float64, np.uint8):
        with pytest.raises(graphopt.InputError, match="give it as float32"):
            open_calibration([{"x": x.astype(wrong), "z": np.ones((2, 8), np.int64)}], two())
    with pytest.raises(graphopt.InputError, match=r"dtype float32.* give it as int64"):
        open_calibration([{"x": np.ones((2, 16), np.float32), "z": np.full((2, 8), 0.5, np.float32)}], two())


def test_a_note_of_ignored_labels_is_in_the_report():
    made = graphopt.optimize(
        convnet(), quantize={"mode": "dynamic", "speed": False}, calibration=[(x, 1) for x in ARRAYS]
    )
    assert any("labels" in note for note in made.report.notes)


def test_folders_of_arrays(tmp_path):
    (tmp_path / "b").mkdir()
    for at, array in enumerate(ARRAYS):
        np.save(tmp_path / ("b" if at % 2 else "") / f"{at}.npy", array[0])
    (tmp_path / "readme.txt").write_text("not data")
    found = list(open_calibration(tmp_path, convnet()))
    assert [np.array_equal(f["x"], ARRAYS[at]) for f, at in zip(found, (0, 2, 1, 3), strict=True)] == [True] * 4
    np.savez(tmp_path / "4.npz", x=ARRAYS[0], label=3)
    with_label = open_calibration(tmp_path, convnet())
    assert len(list(with_label)) == 5 and "'label' is ignored" in with_label.note
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(graphopt.InputError, match="holds no image and no array"):
        open_calibration(empty, convnet())


def test_words_for_preprocessing():
    found = preprocess_named("imagenet,size=160x128, colour=BGR")
    assert found is not None and found.size == (160, 128) and found.colour == "bgr"
    assert found.mean == PRESETS["imagenet"].mean and found.crop
    assert preprocess_named("scale=1/255,mean=0.5:0.4:0.3,std=0.25,layout=nhwc,size=64") == Preprocess(
        1 / 255, (0.5, 0.4, 0.3), (0.25,), (64, 64), "nhwc"
    )
    assert preprocess_named(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imagenett", "did you mean imagenet"), ("layout=hwcn", "layout 'hwcn' is not one of nchw, nhwc"),
        ("scale=much", "scale 'much' cannot be read"), ("std=0", "std is not zero"), ("size=0x4", "size is height"),
        ("scale=1/0", "cannot be read"), ("unit,raw", "is not one of"),
    ],
)  # fmt: skip
def test_bad_words_for_preprocessing_are_one_line(text, expected):
    with pytest.raises(graphopt.OptionError, match="preprocess: ") as error:
        preprocess_named(text)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_images_need_pillow_and_a_preprocessing(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(graphopt.InputError, match="images need a preprocessing, the model's own: raw, unit"):
        open_calibration(tmp_path, convnet())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(graphopt.InputError, match=r"pip install 'graphopt\[images\]'"):
        open_calibration(tmp_path, convnet(), preprocess="unit")
    np.save(tmp_path / "b.npy", ARRAYS[0])
    with pytest.raises(graphopt.InputError, match="both images and arrays"):
        open_calibration(tmp_path, convnet(), preprocess="unit")


needs_pillow = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")


def _pictures(folder, *shapes):
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    for at, array in enumerate(pixels):
        Image.fromarray(array).save(folder / f"{at}.png")
    return pixels


@needs_pillow
def test_images_are_scaled_normalised_and_laid_out(tmp_path):
    pixels = _pictures(tmp_path, (16, 16), (16, 16))
    for text, expected in (
        ("raw", lambda p: p), ("unit", lambda p: p / 255), ("signed", lambda p: p / 127.5 - 1),
        ("unit,colour=bgr,mean=0.5:0.4:0.3", lambda p: p[:, :, ::-1] / 255 - np.array([0.5, 0.4, 0.3])),
    ):  # fmt: skip
        found = list(open_calibration(tmp_path, convnet(), preprocess=text))
        for feed, picture in zip(found, pixels, strict=True):
            wanted = expected(picture.astype(np.float64)).transpose(2, 0, 1)[None]
            assert feed["x"].dtype == np.float32 and np.allclose(feed["x"], wanted, atol=1e-5)


@needs_pillow
def test_images_are_resized_or_cut_to_what_the_model_takes(tmp_path):
    _pictures(tmp_path, (40, 60), (9, 7))
    for text in ("unit", "imagenet"):
        found = list(open_calibration(tmp_path, convnet(), preprocess=text))
        assert [feed["x"].shape for feed in found] == [(1, 3, 16, 16)] * 2
    any_size = "net (float[N,H,W,3] x) => (float[N,H,W,3] y) { y = Relu(x) }"
    last = parse(f'<ir_version: 8, opset_import: ["" : 17]> {any_size}')
    with pytest.raises(graphopt.InputError, match="say which, as size=224x224"):
        open_calibration(tmp_path, last, preprocess="unit")
    feed = next(iter(open_calibration(tmp_path, last, preprocess="unit,size=8x12")))
    assert feed["x"].shape == (1, 8, 12, 3)


@needs_pillow
def test_damaged_images_and_models_without_images_are_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(graphopt.InputError, match=r"a\.png is no readable image"):
        open_calibration(tmp_path, convnet(), preprocess="unit")
    flat = parse("""<ir_version: 8, opset_import: ["" : 17]> net (float[N,16] x) => (float[N,16] y) { y = Relu(x) }""")
    with pytest.raises(graphopt.InputError, match="has no height and width"):
        open_calibration(tmp_path, flat, preprocess="unit")
    with pytest.raises(graphopt.InputError, match="2 numbers of mean for 3 channels"):
        open_calibration(tmp_path, convnet(), preprocess="unit,mean=0.5:0.5")
