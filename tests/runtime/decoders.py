"""A small decoder with a cache, made of ONNX's own operators and random weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WORDS, WIDTH = 97, 32
Feed = dict[str, np.ndarray]


def make_decoder(
    positions: int = 64, *, names: tuple[str, str] = ("past_key_values.0.{}", "present.0.{}"), shift: int = 0
) -> onnx.ModelProto:
    """Token and position tables, one head of masked attention over its cache, and a head; float32, opset 17.

    `positions` rows of the position table, of which the first `shift` stand for nothing, as in OPT.
    """
    rng = np.random.default_rng(3)
    past, present = names
    constants = {
        "words": rng.standard_normal((WORDS, WIDTH)), "places": rng.standard_normal((positions, WIDTH)),
        **{name: rng.standard_normal((WIDTH, WIDTH)) * 0.4 for name in ("wq", "wk", "wv")},
        "head": rng.standard_normal((WIDTH, WORDS)), "scale": np.array(WIDTH**-0.5), "low": np.array(-1e9),
    }  # fmt: skip
    whole = {"shift": np.array(shift), "one": np.array([1]), "zero": np.array(0, np.int64)}
    key, value = (past.format(one) for one in ("key", "value"))
    new_key, new_value = (present.format(one) for one in ("key", "value"))
    steps: list[tuple[str, list[str], str, dict[str, object]]] = [
        ("Gather", ["words", "input_ids"], "e", {}),
        ("Add", ["position_ids", "shift"], "shifted", {}),
        ("Gather", ["places", "shifted"], "p", {}),
        ("Add", ["e", "p"], "x", {}),
        ("MatMul", ["x", "wq"], "q", {}),
        ("MatMul", ["x", "wk"], "k", {}),
        ("MatMul", ["x", "wv"], "v", {}),
        ("Unsqueeze", ["k", "one"], "k4", {}),
        ("Unsqueeze", ["v", "one"], "v4", {}),
        ("Unsqueeze", ["q", "one"], "q4", {}),
        ("Concat", [key, "k4"], new_key, {"axis": 2}),
        ("Concat", [value, "v4"], new_value, {"axis": 2}),
        ("Transpose", [new_key], "kt", {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["q4", "kt"], "s", {}),
        ("Mul", ["s", "scale"], "s1", {}),
        ("CumSum", ["attention_mask", "last"], "order", {}),
        ("Sub", ["order", "unit"], "place", {}),
        ("Unsqueeze", ["place", "one"], "columns", {}),
        ("Unsqueeze", ["position_ids", "two"], "rows", {}),
        ("LessOrEqual", ["columns", "rows"], "seen", {}),
        ("Cast", ["attention_mask"], "real", {"to": TensorProto.BOOL}),
        ("Unsqueeze", ["real", "one"], "real3", {}),
        ("And", ["seen", "real3"], "kept", {}),
        ("Unsqueeze", ["kept", "one"], "kept4", {}),
        ("Where", ["kept4", "s1", "low"], "s2", {}),
        ("Softmax", ["s2"], "a", {"axis": -1}),
        ("MatMul", ["a", new_value], "o4", {}),
        ("Squeeze", ["o4", "one"], "o", {}),
        ("Add", ["x", "o"], "y", {}),
        ("MatMul", ["y", "head"], "logits", {}),
    ]
    whole.update(last=np.array(1), unit=np.array(1), two=np.array([2]))
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", size])
        for name, size in (("input_ids", "tokens"), ("attention_mask", "total"), ("position_ids", "tokens"))
    ]
    caches = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, size, WIDTH]) for name in pair]
        for pair, size in (((key, value), "past"), ((new_key, new_value), "total"))
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", WORDS])
    graph = helper.make_graph(
        [helper.make_node(op, read, [made], **attributes) for op, read, made, attributes in steps],
        "decoder", [*tokens, *caches[0]], [logits, *caches[1]],
        [
            *(numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in constants.items()),
            *(numpy_helper.from_array(a.astype(np.int64), name) for name, a in whole.items()),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def greedy(model: onnx.ModelProto, prompt: list[int], count: int) -> list[int]:
    """The prompt and `count` tokens by onnxruntime alone, the cache fed back as arrays."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    pasts = [one.name for one in session.get_inputs() if "past" in one.name]
    cache = {name: np.zeros((1, 1, 0, WIDTH), np.float32) for name in pasts}
    written, fed = [*prompt], [*prompt]
    for _ in range(count):
        feeds: Feed = {
            "input_ids": np.array([fed]), "attention_mask": np.ones((1, len(written)), np.int64),
            "position_ids": np.arange(len(written) - len(fed), len(written))[None], **cache,
        }  # fmt: skip
        logits, *presents = session.run(None, feeds)
        cache = dict(zip(pasts, presents))
        fed = [int(logits[0, -1].argmax())]
        written += fed
    return written
