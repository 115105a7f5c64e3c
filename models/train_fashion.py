"""Train the Fashion-MNIST reference CNN and write its ONNX file and the small data subsets beside it.

    python -m models.train_fashion [--data DIR] [--epochs 6] [--seed 0] [--threads 1] [--out models]

The data are the four idx.gz files of the Debian package dataset-fashion-mnist. torch is needed here only.
The 512 calibration and 2,000 holdout images are training images the network never trains on.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_IMAGES = 512
HOLDOUT_IMAGES = 2_000
TEST_IMAGES = 2_000


def read_idx(path: Path) -> np.ndarray:
    """An idx.gz file of unsigned bytes (LeCun's format: magic, one big-endian int32 a dimension, data)."""
    with gzip.open(path) as stream:
        raw = stream.read()
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: not an idx file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def normalise(images: np.ndarray) -> np.ndarray:
    """Bytes [N,28,28] to f32[N,1,28,28] in [0, 1]."""
    return (images[:, None] / np.float32(255)).astype(np.float32)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016), projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return torch.relu(self.second(h) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al. 2018); the shortcut is kept where the shape is."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = functional.relu6(self.expand(x))
        h = self.project(functional.relu6(self.depthwise(h)))
        return x + h if self.residual else h


def fashion_cnn() -> nn.Sequential:
    """f32[N,1,28,28] to logits f32[N,10]."""
    return nn.Sequential(
        conv_bn(1, 16, 3),
        nn.ReLU(),
        Residual(16, 32, stride=2),
        Residual(32, 32),
        InvertedResidual(32, 64, 3, stride=2),
        InvertedResidual(64, 64, 4),
        conv_bn(64, 128, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, batch: int = 128) -> None:
    """One-cycle SGD with horizontal flips; prints the mean loss of each epoch."""
    steps = epochs * (len(images) // batch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=steps, pct_start=0.25)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images))[: len(images) // batch * batch].reshape(-1, batch)
        for rows in order:
            x = images[rows]
            flip = torch.rand(len(rows)) < 0.5
            x = torch.where(flip[:, None, None, None], x.flip(3), x)
            loss = criterion(model(x.contiguous(memory_format=torch.channels_last)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(order):.4f}, {time.perf_counter() - started:.0f} s", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in evaluation mode."""
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500)))
    return hits / len(images)


def export(model: nn.Module, path: Path) -> None:
    """Opset 17, BatchNormalization left unfused, symbolic batch N, weights inside the file."""
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 1, 28, 28),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    images, labels = (read_idx(args.data / f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    tests, answers = (read_idx(args.data / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    order = np.random.default_rng(args.seed).permutation(len(images))
    calibration, holdout, rest = np.split(order, [CALIBRATION_IMAGES, CALIBRATION_IMAGES + HOLDOUT_IMAGES])
    chosen = np.random.default_rng(args.seed).permutation(len(tests))[:TEST_IMAGES]

    np.savez_compressed(args.out / "fashion_calibration.npz", image=normalise(images[calibration]))
    np.savez_compressed(args.out / "fashion_holdout.npz", image=images[holdout], label=labels[holdout])
    np.savez_compressed(args.out / "fashion_test.npz", image=tests[chosen], label=answers[chosen])

    model = fashion_cnn().to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    targets = torch.from_numpy(labels[rest].astype(np.int64))
    train(model, torch.from_numpy(normalise(images[rest])), targets, args.epochs)
    figure = accuracy(model, torch.from_numpy(normalise(tests)), torch.from_numpy(answers.astype(np.int64)))
    print(f"test accuracy on {len(tests)} images: {figure:.4f}")
    export(model.to(memory_format=torch.contiguous_format), args.out / "fashion_cnn.onnx")


if __name__ == "__main__":
    main()
