"""What torch's exporters write is recognised: counts of fused operators in every export, for both targets."""

from collections import Counter
from pathlib import Path

import pytest

import graphopt

FOLDER = Path(__file__).parents[2] / "data" / "exports"
ATTENTION = "com.microsoft::MultiHeadAttention"
WHOLE = "com.microsoft::Attention"
ROTARY = "com.microsoft::RotaryEmbedding"
BERT = {"com.microsoft::Attention": 1, "LayerNormalization": 3, "Softmax": 0, "Erf": 0}
EXPECTED = {
    "activations-dynamo-20": {"Gelu": 3, "com.microsoft::QuickGelu": 2, "HardSwish": 2, "Mish": 1, "LeakyRelu": 2},
    "activations-script-13": {"com.microsoft::Gelu": 1, "com.microsoft::FastGelu": 2, "com.microsoft::QuickGelu": 2},
    "activations-script-17": {"com.microsoft::Gelu": 1, "com.microsoft::FastGelu": 2, "HardSwish": 2, "Tanh": 1},
    "bert-eager-dynamo-20": BERT,
    "bert-eager-script-17": BERT,
    "bert-sdpa-dynamo-20": {**BERT, "IsNaN": 0},
    "bert-sdpa-script-17": {**BERT, "IsNaN": 0},  # the mask is -inf: a row may be masked altogether
    "packed-eager-dynamo-20": {WHOLE: 1, "Softmax": 0},
    "packed-eager-script-17": {WHOLE: 1, "Softmax": 0},
    "cached-eager-dynamo-20": {"Attention": 1, "Softmax": 0, "Concat": 0},
    "cached-eager-dynamo-23": {"Attention": 1, "Softmax": 0, "Concat": 0},
    "cached-eager-script-17": {"Attention": 1, "Softmax": 0, "Concat": 0},
    "encoder-sdpa-dynamo-20": {WHOLE: 1, "LayerNormalization": 2, "Erf": 0},
    "encoder-sdpa-script-17": {"LayerNormalization": 2, "Erf": 0},  # the length of keys is written into the graph
    "encoder_fixed-sdpa-dynamo-20": {WHOLE: 1, "LayerNormalization": 2, "Transpose": 0},
    "encoder_fixed-sdpa-script-17": {WHOLE: 1, "LayerNormalization": 2, "Transpose": 0},
    "cross_fixed-sdpa-dynamo-20": {ATTENTION: 1, "Softmax": 0},
    "cross_fixed-sdpa-script-17": {ATTENTION: 1, "Softmax": 0},
    "gpt2-eager-dynamo-20": {WHOLE: 1, "Softmax": 0, "Tanh": 0},
    "gpt2-sdpa-dynamo-20": {WHOLE: 1, "Softmax": 0, "Tanh": 0},
    "llama-eager-dynamo-20": {ROTARY: 2, "Neg": 0, "com.microsoft::QuickGelu": 1},
    "llama-sdpa-dynamo-20": {ROTARY: 2, "Neg": 0, "com.microsoft::QuickGelu": 1},
    "llama-eager-dynamo-23": {"RotaryEmbedding": 2, "Attention": 1, "RMSNormalization": 3, "Softmax": 0},
    "norms-dynamo-20": {"LayerNormalization": 1, "InstanceNormalization": 2},
    "vit-eager-dynamo-20": BERT,
    "vit-eager-script-17": BERT,
    "vit-sdpa-dynamo-20": BERT,
    "vit-sdpa-script-17": BERT,
}  # fmt: skip
PORTABLE = {
    "bert-eager-dynamo-23": {"Attention": 1, "Softmax": 0},
    "gpt2-eager-dynamo-23": {"Attention": 1, "Softmax": 0},
    "cached-eager-dynamo-23": {"Attention": 1, "Softmax": 0, "Concat": 0},
    "llama-eager-dynamo-23": {"Attention": 1, "RMSNormalization": 3, "Softmax": 0},  # with its two heads for four
}
FILES = sorted(path.stem for path in FOLDER.glob("*.onnx"))


def optimised(name, target):
    result = graphopt.optimize(FOLDER / f"{name}.onnx", target=target)
    assert result.report.status == "equal", result.report.reason
    assert not result.report.rolled_back, result.report.rolled_back
    return Counter(node.op for node in result.ir.graph.walk())


@pytest.mark.parametrize("name", FILES)
def test_exports_are_recognised_for_onnxruntime(name):
    found = optimised(name, "onnxruntime")
    wanted = EXPECTED.get(name, {})
    assert {op: found[op] for op in wanted} == wanted


@pytest.mark.parametrize("name", FILES)
def test_portable_exports_stay_with_the_standard(name):
    found = optimised(name, "portable")
    assert not any("::" in op for op in found)
    wanted = PORTABLE.get(name, {} if "script" in name else {"Erf": 0})
    assert {op: found[op] for op in wanted} == wanted
