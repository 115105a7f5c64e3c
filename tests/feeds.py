"""Plausible model inputs for the zoo: images, speech, token ids, bytes; seeded, in several shapes.

Each function takes a numpy Generator and the number of the variant. Where a model has symbolic dimensions,
variant 0 has batch 1, variant 1 a batch of several and variant 2 odd sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Feeds = dict[str, Array]
Synthesise = Callable[[np.random.Generator, int], Feeds]

SPEECH_RATE = 16_000


def images(rng: np.random.Generator, batch: int, channels: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """f32[batch,channels,height,width] in [-1, 1]: blobs of several sizes, a colour cast and a contrast for each image.

    White noise would be averaged away by the first pooling layers, and every image would look the same to the network.
    """
    result = np.zeros((batch, channels, height, width), np.float32)
    for cell in (64, 16, 4, 1):
        coarse = rng.standard_normal((batch, channels, -(-height // cell), -(-width // cell)), np.float32)
        blocks = coarse.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, :height, :width]
        result += blocks * rng.uniform(0.1, 1.0, (batch, 1, 1, 1)).astype(np.float32)
    result += rng.standard_normal((batch, channels, 1, 1), np.float32) * np.float32(0.5)
    return np.tanh(result)


def speech(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """f32[..., samples] in [-1, 1]: a gliding voiced tone with harmonics, and breath noise."""
    time = np.arange(shape[-1], dtype=np.float32) / SPEECH_RATE
    leading = (*shape[:-1], 1)
    pitch = rng.uniform(90, 260, leading) * (1 + rng.uniform(-0.2, 0.2, leading) * time)
    loudness = rng.uniform(0.02, 0.25, leading)
    voiced = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 9))
    return np.clip(loudness * voiced + 0.01 * rng.standard_normal(shape), -1, 1).astype(np.float32)


def image_input(name: str, *shapes: tuple[int, int, int, int]) -> Synthesise:
    """One image tensor; `shapes` are the variants."""
    return lambda rng, variant: {name: images(rng, *shapes[variant % len(shapes)])}


def silero(two_rates: bool, rate_input: bool) -> Synthesise:
    """Silero VAD: a chunk of 512 samples (256 at 8 kHz) after 64 (32) of context, and the LSTM's state.

    `two_rates`: the model knows 8 kHz as well. `rate_input`: the rate is an input.
    """

    def synthesise(rng: np.random.Generator, variant: int) -> Feeds:
        batch, rate = ((1, 16_000), (3, 16_000), (5, 8_000 if two_rates else 16_000))[variant]
        state = rng.standard_normal((2, batch, 128), np.float32) * np.float32(0.3)
        feeds: Feeds = {"input": speech(rng, batch, 576 * rate // 16_000), "state": state}
        if rate_input:
            feeds["sr"] = np.array(rate, np.int64)
        return feeds

    return synthesise


def silero_fixed(rng: np.random.Generator, variant: int) -> Feeds:
    """The variant for OpenVINO: one 16 kHz chunk, no rate."""
    return {"input": speech(rng, 1, 576), "state": rng.standard_normal((2, 1, 128), np.float32) * np.float32(0.3)}


def silero_sequence(rng: np.random.Generator, variant: int) -> Feeds:
    """Many 16 kHz chunks in one call, with the LSTM's hidden and cell state."""
    state = {key: rng.standard_normal((1, 1, 128), np.float32) * np.float32(0.3) for key in ("h", "c")}
    return {"input": speech(rng, (1, 8, 13)[variant], 576), **state}


def file_bytes(rng: np.random.Generator, variant: int) -> Feeds:
    """Magika: the first and last 1,024 bytes of a file, 256 where the file is shorter."""
    rows = (1, 4, 3)[variant]
    content = rng.integers(0, 256, (rows, 2048), np.int32)
    text = rng.integers(32, 127, content.shape, np.int32)
    content = np.where(rng.random((rows, 1)) < 0.5, text, content)
    content[-1, 700:1024] = content[-1, 1324:] = 256
    return {"bytes": content.astype(np.int32)}


def audio_window(rng: np.random.Generator, variant: int) -> Feeds:
    """Basic Pitch: windows of 43,844 samples at 22,050 Hz."""
    return {"serving_default_input_2:0": speech(rng, (1, 2, 3)[variant], 43_844)[..., None]}


def log_mel(rng: np.random.Generator, variant: int) -> Feeds:
    """Smart Turn: 8 s of Whisper log-mel features f32[N,80,800], normalised to about [-1, 1.5]."""
    return {"input_features": images(rng, (1, 2, 3)[variant], 1, 80, 800)[:, 0] * np.float32(1.2)}


def sentence(rng: np.random.Generator, variant: int) -> Feeds:
    """BERT: ids between [CLS] (101) and [SEP] (102) from a vocabulary of 30,522, padded at the end."""
    batch, length = ((1, 16), (4, 32), (3, 7))[variant]
    ids = rng.integers(1_000, 30_522, (batch, length))
    mask = np.ones((batch, length), np.int64)
    for row in range(batch):
        used = length - (row * 2) % (length // 2)
        ids[row, 0], ids[row, used - 1], ids[row, used:], mask[row, used:] = 101, 102, 0, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def romanizer_encoder(vocabulary: int) -> Synthesise:
    """Characters of names, padded with 0; the mask is true where there is a character."""

    def synthesise(rng: np.random.Generator, variant: int) -> Feeds:
        batch, length = ((1, 8), (4, 12), (3, 7))[variant]
        source = rng.integers(4, vocabulary, (batch, length))
        source[-1, length - 2 :] = 0
        return {"src": source, "src_mask": source != 0}

    return synthesise


def romanizer_decoder(vocabulary: int) -> Synthesise:
    """One step of the decoder: the prefix so far, the encoder's memory and mask, the GRU's hidden state."""

    def synthesise(rng: np.random.Generator, variant: int) -> Feeds:
        batch, target, source = ((1, 1, 8), (4, 5, 12), (3, 3, 7))[variant]
        prefix = rng.integers(4, vocabulary, (batch, target))
        prefix[:, 0] = 1
        mask = np.ones((batch, source), np.bool_)
        mask[-1, source - 2 :] = False
        return {
            "prefix": prefix,
            "memory": np.tanh(rng.standard_normal((batch, source, 256), np.float32)),
            "src_mask": mask,
            "hidden": np.tanh(rng.standard_normal((batch, 2, 256), np.float32)),
        }

    return synthesise
