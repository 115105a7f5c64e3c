"""A small language model as onnxruntime-genai's builder writes them: GroupQueryAttention, norms with their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.runtime.language import GROUPS, HEADS, INNER, LAYERS, SIZE, WIDTH, WORDS, Builder, Feed, random_caches

POSITIONS = 512
"""Rows of the tables of angles."""


@dataclass(frozen=True)
class Form:
    """What differs between models: queries, keys and values as one operand; rotary embedding inside of attention, of
    neighbours or halves, of so many numbers of a head (0: all); a window; a cap of scores; sizes of heads left open."""

    packed: bool = True
    rotary: bool = True
    interleaved: bool = False
    turned: int = 0
    window: int = -1
    softcap: float = 0.0
    open_heads: bool = True


def make_genai_model(form: Form = Form(), *, bits: int = 4, accuracy_level: int = 4) -> onnx.ModelProto:
    """Two layers of a Llama with grouped heads, opset 21."""
    b = Builder(bits, False, accuracy_level)
    inside, kv = HEADS * GROUPS * SIZE, HEADS * SIZE
    one = b.constant(np.array([1]), "one")
    lengths = b.node("Sub", [b.node("ReduceSum", ["attention_mask", one], "count"), one], "less")
    lengths = b.node("Cast", [lengths], "lengths", to=TensorProto.INT32)
    total = b.node("Gather", [b.node("Shape", ["attention_mask"], "shape"), b.constant(np.array(1), "at")], "size")
    total = b.node("Cast", [total], "total", to=TensorProto.INT32)
    words = b.rng.standard_normal((WORDS, WIDTH)).astype(np.float32)
    x = b.node("Gather", [b.constant(words, "words"), "input_ids"], "x")
    turned = form.turned or SIZE
    angles = np.arange(POSITIONS)[:, None] * 100.0 ** -np.linspace(0, 1, turned // 2)
    tables = ["", ""]
    if form.rotary:
        tables = [b.constant(turn(angles).astype(np.float32), turn.__name__) for turn in (np.cos, np.sin)]
    ones = b.constant(b.rng.uniform(0.5, 1.5, WIDTH).astype(np.float32), "ones")
    normed = b.node("SimplifiedLayerNormalization", [x, ones], "n", axis=-1, epsilon=1e-5, stash_type=1)

    def added(y: str, name: str, last: bool = False) -> tuple[str, str]:
        made = [f"{name}.norm"] if last else [f"{name}.norm", "", "", f"{name}.sum"]
        b.node("SkipSimplifiedLayerNormalization", [x, y, ones], *made, domain="com.microsoft", epsilon=1e-5)
        return made[0], made[-1]

    for i in range(LAYERS):
        if form.packed:
            read = [b.product(normed, WIDTH, inside + 2 * kv, f"qkv{i}"), "", ""]
        else:
            read = [b.product(normed, WIDTH, size, f"{n}{i}") for n, size in (("q", inside), ("k", kv), ("v", kv))]
        past = [f"past_key_values.{i}.{half}" for half in ("key", "value")]
        made = [f"present.{i}.{half}" for half in ("key", "value")]
        more: dict[str, Any] = {"local_window_size": form.window, "softcap": form.softcap}
        y = b.node(
            "GroupQueryAttention", [*read, *past, lengths, total, *tables], f"a{i}", *made, domain="com.microsoft",
            num_heads=HEADS * GROUPS, kv_num_heads=HEADS, scale=SIZE**-0.5, do_rotary=int(form.rotary),
            rotary_interleaved=int(form.interleaved), **more,
        )  # fmt: skip
        normed, x = added(b.product(y, inside, WIDTH, f"o{i}"), f"post{i}")
        gate = b.product(normed, WIDTH, INNER, f"gate{i}")
        gate = b.node("Mul", [gate, b.node("Sigmoid", [gate], f"sigmoid{i}")], f"silu{i}")
        gated = b.node("Mul", [gate, b.product(normed, WIDTH, INNER, f"up{i}")], f"gated{i}")
        normed, x = added(b.product(gated, INNER, WIDTH, f"down{i}"), f"next{i}", last=i == LAYERS - 1)
    b.product(normed, WIDTH, WORDS, "logits")
    tokens = {"input_ids": "sequence_length", "attention_mask": "total_sequence_length"}
    sizes = ("batch_size", "sequence_length", "past_sequence_length", "total_sequence_length")
    return b.decoder("genai", tokens, sizes, "kv_cache_dim" if form.open_heads else SIZE, opset=21, ir_version=10)


def feeds(past: int, tokens: int, *, batch: int = 1, seed: int = 0) -> Feed:
    """Random tokens behind random caches."""
    rng = np.random.default_rng(seed)
    caches = random_caches(rng, past, batch)
    ids = rng.integers(0, WORDS, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones((batch, past + tokens), np.int64), **caches}
