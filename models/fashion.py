"""Accuracy of a Fashion-MNIST classifier: `--metric models.fashion:accuracy` from the repository's root.

A session is anything with `run(output_names, feeds)`, such as an onnxruntime.InferenceSession or a graphopt.Session.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
BATCH = 500


class Session(Protocol):
    """What runs a model."""

    def run(self, output_names: None, feeds: dict[str, npt.NDArray[np.float32]]) -> list[Any]:
        """The outputs, in the model's order."""
        ...


def normalise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bytes [N,28,28] to the network's input, f32[N,1,28,28] in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)


def load(kind: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Inputs and labels of `holdout` (training images kept out of training) or `test`, 2,000 each."""
    with np.load(FOLDER / f"fashion_{kind}.npz") as archive:
        return normalise(archive["image"]), archive["label"].astype(np.int64)


def top1(session: Session, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The share of images whose largest logit is that of their label."""
    hits = 0
    for start in range(0, len(images), BATCH):
        logits = session.run(None, {"image": images[start : start + BATCH]})[0]
        hits += int((logits.argmax(axis=1) == labels[start : start + BATCH]).sum())
    return hits / len(images)


def accuracy(session: Session) -> float:
    """Top-1 on the 2,000 holdout images: for decisions, such as which layers stay float."""
    return top1(session, *load("holdout"))


def test_accuracy(session: Session, full: Path | None = None) -> float:
    """Top-1 on the 2,000 committed test images, for reporting only.

    `full`: the folder of the data set's idx.gz files, for all 10,000. Needs torch, which the reader's module imports.
    """
    if full is None:
        return top1(session, *load("test"))
    from models.train_fashion import read_idx

    images, labels = (read_idx(full / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return top1(session, normalise(images), labels.astype(np.int64))


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # not a test for pytest to collect
