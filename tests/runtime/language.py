"""A small language model as graphopt writes them for onnxruntime: MatMulNBits, Attention over a cache, and the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import graphopt

WORDS, WIDTH, INNER, HEADS, GROUPS, SIZE, LAYERS, BLOCK = 61, 64, 96, 2, 3, 32, 2, 32
"""Words, width of a row, of the inner layer, heads of keys, queries of each, numbers of a head, layers, block."""
Feed = dict[str, np.ndarray]


class Builder:
    """Nodes and constants of one graph."""

    def __init__(self, bits: int, zeros: bool, accuracy_level: int) -> None:
        self.rng = np.random.default_rng(5)
        self.bits, self.zeros, self.accuracy_level = bits, zeros, accuracy_level
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: Any, name: str) -> str:
        """An initializer's name."""
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, read: list[str], *made: str, domain: str = "", **attributes: Any) -> str:
        """Append a node; its first result's name."""
        self.nodes.append(helper.make_node(op, read, list(made), domain=domain, **attributes))
        return made[0]

    def product(self, x: str, depth: int, channels: int, name: str) -> str:
        """MatMulNBits by random codes."""
        blocks = -(-depth // BLOCK)
        codes = self.rng.integers(0, 256, (channels, blocks, BLOCK * self.bits // 8)).astype(np.uint8)
        scale = self.rng.uniform(0.6, 1.4, (channels, blocks)) * depth**-0.5 / {2: 1, 4: 4, 8: 70}[self.bits]
        read = [x, self.constant(codes, f"{name}.codes"), self.constant(scale.astype(np.float32), f"{name}.scale")]
        if self.zeros:
            stored = self.rng.integers(0x66, 0x99, (channels, -(-blocks * self.bits // 8))).astype(np.uint8)
            read.append(self.constant(stored, f"{name}.zero"))
        return self.node(
            "MatMulNBits", read, name, domain="com.microsoft", K=depth, N=channels, bits=self.bits, block_size=BLOCK,
            accuracy_level=self.accuracy_level,
        )  # fmt: skip

    def decoder(
        self, name: str, tokens: dict[str, str], sizes: tuple[str, str, str, str], size: int | str, *, opset: int,
        ir_version: int,
    ) -> onnx.ModelProto:  # fmt: skip
        """The model that returns logits and longer caches. tokens: int64 inputs and how many columns they have. sizes:
        names of the batch, of tokens new, before and in all; size: of a head."""
        info = helper.make_tensor_value_info
        batch, new, past, total = sizes
        given = [info(one, TensorProto.INT64, [batch, count]) for one, count in tokens.items()]
        before, after = (
            [info(f"{word}.{i}.{half}", TensorProto.FLOAT, [batch, HEADS, count, size])
             for i in range(LAYERS) for half in ("key", "value")]
            for word, count in (("past_key_values", past), ("present", total))
        )  # fmt: skip
        logits = info("logits", TensorProto.FLOAT, [batch, new, WORDS])
        graph = helper.make_graph(self.nodes, name, [*given, *before], [logits, *after], self.constants)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def make_language_model(
    bits: int = 4, *, zeros: bool = False, accuracy_level: int = 4, inner: int = INNER, truths: bool = False
) -> onnx.ModelProto:
    """Two layers of a Llama with grouped heads, opset 23; inputs and outputs as Optimum names them.

    truths: the mask is of truth values.
    """
    b = Builder(bits, zeros, accuracy_level)
    inside = HEADS * GROUPS * SIZE
    x = b.node(
        "Gather", [b.constant(b.rng.standard_normal((WORDS, WIDTH)).astype(np.float32), "words"), "input_ids"], "x"
    )
    axes = {n: b.constant(np.array(a, np.int64), f"axes{n}") for n, a in enumerate(([1], [2], [1, 2], [-1]))}
    order = b.node("CumSum", ["attention_mask", b.constant(np.array(1), "one")], "order")
    place = b.node("Unsqueeze", [b.node("Sub", [order, "one"], "place"), axes[2]], "columns")
    rows = b.node("Unsqueeze", [b.node("Unsqueeze", ["position_ids", axes[3]], "rows3"), axes[0]], "rows")
    seen = b.node("LessOrEqual", [place, rows], "seen")
    real = b.node("Unsqueeze", [b.node("Cast", ["attention_mask"], "real", to=TensorProto.BOOL), axes[2]], "real4")
    kept = b.node("And", [seen, real], "kept")
    zero, low = b.constant(np.float32(0), "zero"), b.constant(np.float32(-1e30), "low")
    mask = kept if truths else b.node("Where", [kept, zero, low], "mask")
    turns = b.constant((100.0 ** -np.linspace(0, 1, SIZE // 2)).astype(np.float32), "turns")
    position = b.node("Cast", [b.node("Unsqueeze", ["position_ids", axes[1]], "p3")], "p", to=TensorProto.FLOAT)
    angles = b.node("Mul", [position, turns], "angles")
    cos, sin = b.node("Cos", [angles], "cos"), b.node("Sin", [angles], "sin")
    parts = b.constant(np.array([inside, HEADS * SIZE, HEADS * SIZE]), "parts")
    halves = b.constant(np.array([inner, inner]), "halves")
    ones = b.constant(b.rng.uniform(0.5, 1.5, WIDTH).astype(np.float32), "ones")
    for i in range(LAYERS):
        normed = b.node("RMSNormalization", [x, ones], f"n{i}", axis=-1, epsilon=1e-5)
        b.node(
            "Split",
            [b.product(normed, WIDTH, inside + 2 * HEADS * SIZE, f"qkv{i}"), parts],
            f"q{i}",
            f"k{i}",
            f"v{i}",
            axis=2,
        )
        q = b.node("RotaryEmbedding", [f"q{i}", cos, sin], f"qr{i}", num_heads=HEADS * GROUPS)
        k = b.node("RotaryEmbedding", [f"k{i}", cos, sin], f"kr{i}", num_heads=HEADS)
        past = [f"past_key_values.{i}.{one}" for one in ("key", "value")]
        made = [f"present.{i}.{one}" for one in ("key", "value")]
        y = b.node(
            "Attention", [q, k, f"v{i}", mask, *past], f"a{i}", *made, q_num_heads=HEADS * GROUPS, kv_num_heads=HEADS,
            scale=SIZE**-0.5,
        )  # fmt: skip
        x = b.node("Add", [x, b.product(y, inside, WIDTH, f"o{i}")], f"r{i}")
        normed = b.node("RMSNormalization", [x, ones], f"m{i}", axis=-1, epsilon=1e-5)
        b.node("Split", [b.product(normed, WIDTH, 2 * inner, f"gate{i}"), halves], f"g{i}", f"u{i}", axis=2)
        gate = b.node("QuickGelu", [f"g{i}"], f"s{i}", domain="com.microsoft", alpha=1.0)
        gated = b.node("Mul", [gate, f"u{i}"], f"h{i}")
        x = b.node("Add", [x, b.product(gated, inner, WIDTH, f"down{i}")], f"x{i}")
    b.product(b.node("RMSNormalization", [x, ones], "last", axis=-1, epsilon=1e-5), WIDTH, WORDS, "logits")
    tokens = {"input_ids": "tokens", "attention_mask": "total", "position_ids": "tokens"}
    return b.decoder("language", tokens, ("batch", "tokens", "past", "total"), SIZE, opset=23, ir_version=11)


def random_caches(rng: np.random.Generator, past: int, batch: int) -> Feed:
    """Keys and values of `past` tokens for each layer."""
    return {
        f"past_key_values.{i}.{half}": rng.standard_normal((batch, HEADS, past, SIZE)).astype(np.float32)
        for i in range(LAYERS)
        for half in ("key", "value")
    }


def feeds(past: int, tokens: int, *, batch: int = 1, padded: int = 0, seed: int = 0) -> Feed:
    """Random tokens behind random caches; the first row begins with so many that are masked."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, past + tokens), np.int64)
    mask[0, :padded] = 0
    caches = random_caches(rng, past, batch)
    return {
        "input_ids": rng.integers(0, WORDS, (batch, tokens)),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0)[:, past:],
        **caches,
    }


def stock(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime alone, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def on_kernels(model: onnx.ModelProto) -> graphopt.Session:
    return graphopt.Session(model.SerializeToString(), threads=1, kernels=True)
