"""Train a MobileNetV2-like net on Fashion-MNIST and write its ONNX file: harder for 4 bits than the reference CNN.

    python -m models.train_mobilenet [--data DIR] [--epochs 5] [--seed 0] [--threads 1] [--out models]

Data and split are those of `models.train_fashion`, so that the committed calibration, holdout and test images serve
both nets. torch is needed here only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .train_fashion import (
    CALIBRATION_IMAGES,
    DEFAULT_DATA,
    HOLDOUT_IMAGES,
    InvertedResidual,
    accuracy,
    conv_bn,
    export,
    normalise,
    read_idx,
    train,
)


def mobilenet() -> nn.Sequential:
    """f32[N,1,28,28] to logits f32[N,10]: expand, depthwise, project at 16, 24 and 40 channels."""
    return nn.Sequential(
        conv_bn(1, 16, 3),
        nn.ReLU6(),
        InvertedResidual(16, 24, 4, stride=2),
        InvertedResidual(24, 24, 4),
        InvertedResidual(24, 40, 4, stride=2),
        InvertedResidual(40, 40, 4),
        InvertedResidual(40, 40, 4),
        conv_bn(40, 160, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    images, labels, test_images, test_labels = (
        read_idx(options.data / f"{part}-ubyte.gz")
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    )
    kept_out = CALIBRATION_IMAGES + HOLDOUT_IMAGES
    seen = np.random.default_rng(options.seed).permutation(len(images))[kept_out:]
    model = mobilenet().to(memory_format=torch.channels_last)
    train(model, torch.tensor(normalise(images[seen])), torch.tensor(labels[seen]).long(), options.epochs)
    figure = accuracy(model, torch.tensor(normalise(test_images)), torch.tensor(test_labels).long())
    print(f"test accuracy {figure:.4f}")
    export(model.to(memory_format=torch.contiguous_format), options.out / "fashion_mobilenet.onnx")


if __name__ == "__main__":
    main()
