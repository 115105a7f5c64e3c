"""Folders of images or arrays as samples, and the standard preprocessing of images into model inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..equivalence.feeds import only_input, read_arrays
from ..equivalence.value_info import Signature, ValueInfo
from ..errors import InputError, OptionError, did_you_mean, one_line
from ..ir import Array, DType

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))
ARRAYS = frozenset((".npy", ".npz"))
LAYOUTS, COLOURS = ("nchw", "nhwc"), ("rgb", "bgr", "grey")
_PILLOW = "images need Pillow: pip install 'graphopt[images]'"
_SHORT_SIDE = 256 / 224
"""Short side of an image before its centre is cut out, as a share of the cut: the usual evaluation of ImageNet models
(torchvision, `transforms._presets.ImageClassification`)."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes an input: resized to `size` (height, width), (pixels · scale − mean) / std, in a layout.

    mean, std: one number, or one a channel, in the order of `colour` ("rgb", "bgr" or "grey"). crop: keep proportions
    and cut out the centre, instead of stretching. None of size, layout and colour: as the model's input says.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    layout: str | None = None
    colour: str | None = None
    crop: bool = False

    def __post_init__(self) -> None:
        for name, value, choices in (("layout", self.layout, LAYOUTS), ("colour", self.colour, COLOURS)):
            if value is not None and value not in choices:
                close = did_you_mean(str(value), choices)
                raise OptionError(f"preprocess: {name} {value!r} is not one of {', '.join(choices)}{close}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise OptionError(f"preprocess: size is height x width, as 224x224, got {self.size!r}")
        if not all(self.std):
            raise OptionError("preprocess: std is not zero")


PRESETS: Mapping[str, Preprocess] = {
    "raw": Preprocess(),
    "unit": Preprocess(scale=1 / 255),
    "signed": Preprocess(scale=1 / 255, mean=(0.5,), std=(0.5,)),
    "imagenet": Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), colour="rgb", crop=True),
}
"""Pixels of 0 to 255, 0 to 1, −1 to 1, and normalised as torchvision's ImageNet models ask for."""


def preprocess_named(text: str | Preprocess | None) -> Preprocess | None:
    """The preprocessing named by a text: a preset, then any of `name=value`, separated by commas.

    `imagenet,size=256x256` or `scale=1/255,mean=0.5:0.5:0.5,std=0.25,layout=nhwc,colour=bgr`. OptionError.
    """
    if text is None or isinstance(text, Preprocess):
        return text
    found = Preprocess()
    for number, word in enumerate(part.strip() for part in text.split(",") if part.strip()):
        name, equals, value = (part.strip().lower() for part in word.partition("="))
        name = "colour" if name == "color" else name
        if not equals and number == 0 and name in PRESETS:
            found = PRESETS[name]
        elif not equals and name == "crop":
            found = replace(found, crop=True)
        elif equals and name in _READERS:
            try:
                found = replace(found, **{name: _READERS[name](value)})
            except (ValueError, ZeroDivisionError) as error:
                raise OptionError(f"preprocess: {name} {value!r} cannot be read: {one_line(error)}") from error
        else:
            known = [*PRESETS, *(field.name for field in fields(Preprocess))]
            raise OptionError(f"preprocess: {word!r} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return found


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(":")))


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.partition("x")
    return int(height), int(width if x else height)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "scale": _number, "mean": _numbers, "std": _numbers, "size": _size, "layout": str, "colour": str,
    "crop": lambda text: text in ("1", "true", "yes"),
}  # fmt: skip


def read_folder(
    folder: Path, source: Signature, preprocess: Preprocess | None
) -> Callable[[], Iterator[Mapping[str, Any]]]:
    """The samples of a folder and its subfolders, in the order of their paths, read lazily.

    Images (for models of one input), or arrays: a `.npy` for models of one input, or a `.npz` of inputs by name, each
    file a sample. InputError where there are none, or both, or images without a preprocessing.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in IMAGES]
    arrays = [path for path in files if path.suffix.lower() in ARRAYS]
    if bool(images) == bool(arrays):
        held = "both images and arrays" if images else f"no image and no array ({', '.join(sorted(IMAGES | ARRAYS))})"
        raise InputError(f"inputs: the folder {folder} holds {held}")
    if arrays:
        return lambda: (read_arrays(path, source) for path in arrays)
    if preprocess is None:
        presets = ", ".join(PRESETS)
        raise InputError(
            f"inputs: images need a preprocessing, the model's own: {presets}, or as scale=1/255,mean=0.5,size=224x224"
        )
    info = only_input(source)
    read = partial(read_image, info=info, preprocess=_completed(preprocess, info))
    return lambda: ({info.name: read(path)} for path in images)


def _completed(asked: Preprocess, info: ValueInfo) -> Preprocess:
    """The preprocessing with the layout, size and colours of the model's input. InputError where these stay open."""
    dims = info.dims
    if dims is None or len(dims) not in (3, 4):
        raise InputError(f"inputs: images do not fit {info}, which has no height and width")
    inside = dims[-3:]
    layout = asked.layout or ("nhwc" if inside[2] in (1, 3) and inside[0] not in (1, 3) else "nchw")
    channels, height, width = inside if layout == "nchw" else (inside[2], inside[0], inside[1])
    size = asked.size
    if size is None and isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        size = height, width
    if size is None:
        raise InputError(f"inputs: the model takes images of any size, {info}: say which, as size=224x224")
    colour = asked.colour or ("grey" if channels == 1 else "rgb")
    count = 1 if colour == "grey" else 3
    for name, values in (("mean", asked.mean), ("std", asked.std)):
        if len(values) not in (1, count):
            raise InputError(f"inputs: preprocess has {len(values)} numbers of {name} for {count} channels")
    return replace(asked, layout=layout, size=size, colour=colour)


def read_image(path: Path, info: ValueInfo, preprocess: Preprocess) -> Array:
    """An image as an input of the model, a batch of one where the input has four axes. InputError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"inputs: {_PILLOW}") from error
    assert preprocess.size is not None
    height, width = preprocess.size
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if preprocess.colour == "grey" else "RGB")
    except Exception as error:  # Pillow's readers raise many kinds
        raise InputError(f"inputs: {path} is no readable image: {one_line(error)}") from error
    if preprocess.crop:
        share = max(height * _SHORT_SIDE / image.height, width * _SHORT_SIDE / image.width)
        wide, high = max(width, round(image.width * share)), max(height, round(image.height * share))
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(height, width, -1)
    pixels = pixels[:, :, ::-1] if preprocess.colour == "bgr" else pixels
    mean, std = (np.asarray(values, np.float32) for values in (preprocess.mean, preprocess.std))
    array: Array = (pixels * np.float32(preprocess.scale) - mean) / std
    array = array.transpose(2, 0, 1) if preprocess.layout == "nchw" else array
    dtype = DType(info.elem).numpy
    array = np.clip(np.rint(array), 0, 255) if dtype == np.uint8 else array
    array = array.astype(dtype)
    return np.ascontiguousarray(array[None] if info.dims is not None and len(info.dims) == 4 else array)
