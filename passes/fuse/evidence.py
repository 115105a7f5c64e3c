"""Measured speed of each fusion: a rule is used for a target only where it is not slower.

Ratios of time before / after in onnxruntime 1.32 with all its optimizations, one thread, interleaved, on Zen 4; printed
by `python -m tests.bench.rules`, the lowest where a rule has several instances. None: not a rule of that target.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ...rewrite import Rule

FLOOR = 0.97
"""The least ratio at which a rule is used, the goal of `python -m tests.bench.fusion` for whole models."""

MEASURED: dict[str, tuple[float | None, float | None]] = {  # portable, onnxruntime
    "fuse_gelu": (1.01, 1.01),
    "fuse_tanh_gelu": (2.62, 2.64),
    "fuse_swish": (0.61, 1.05),  # onnxruntime expands Swish; QuickGelu below opset 24
    "fuse_scaled_swish": (0.87, 1.00),
    "fuse_hard_sigmoid": (2.54, 2.57),
    "fuse_hard_gate": (1.82, 1.82),
    "fuse_hard_swish": (1.01, 1.02),
    "fuse_mish": (1.00, 1.00),
    "fuse_sigmoid": (1.91, 1.90),
    "fuse_leaky_relu": (1.57, 1.61),
    "fuse_leaky_difference": (2.87, 2.86),
    "fuse_prelu": (0.13, 0.14),  # onnxruntime's PRelu broadcasts its slope element by element
    "clip_after_relu": (1.01, 1.01),
    "relu_after_clip": (1.84, 1.80),
    "fuse_clip": (2.45, 2.48),
    "fuse_relu_and_min": (2.09, 2.17),
    "fuse_layer_norm": (1.01, 1.02),
    "fuse_rms_norm": (2.68, 2.69),
    "scale_into_norm": (1.41, 1.39),
    "shift_into_norm": (1.37, 1.35),
    "affine_into_instance_norm": (1.63, 1.60),
    "fuse_l2_norm": (1.01, 1.01),  # over the last axis; 0.64 over channels, where the rule declines
    "fuse_softmax": (2.22, 2.19),
    "fuse_log_softmax": (1.86, 1.87),
    "fuse_rotary_rows": (2.65, 2.67),
    "fuse_split_rotary_rows": (2.73, 2.69),
    "fuse_rotary": (None, 2.59),
    "fuse_split_rotary": (None, 2.74),
    "extend_rotary": (1.47, 1.57),
    "extend_split_rotary": (1.50, 1.53),
    "fuse_batch_norm": (1.82, 1.83),
    "affine_into_batch_norm": (2.55, 2.57),
    "join_batch_norms": (1.81, 1.81),
    "einsum_as_product": (1.04, 1.04),
    "einsum_of_one": (1.11, 1.11),
    "activation_into_conv": (None, 1.00),
    "clip_into_conv": (None, 1.00),
    "activation_into_gemm": (None, 1.00),
    "scale_into_product": (None, 1.07),
    "transpose_into_product": (None, 1.04),
    "transpose_into_first_factor": (None, 1.09),
    "bias_into_gelu": (None, 1.02),
    "bias_into_fast_gelu": (None, 2.74),
    "projections_into_attention": (None, 1.01),
    "keep_sum_apart": (None, 7.15),  # onnxruntime's own fusion of Add and LayerNormalization is slower than both
    "keep_sums_apart": (None, 4.98),
    "norm_heads_in_place": (None, 1.19),
    "scale_integer_product": (None, 1.00),
    "scale_integer_product_by_constant": (None, 1.03),
    "bias_into_integer_product": (None, 1.00),
    "quantize_in_product": (None, 1.00),
}

BITWISE = frozenset(
    (
        "scale_integer_product", "scale_integer_product_by_constant", "bias_into_integer_product",
        "quantize_in_product",
    )
)  # fmt: skip
"""Rules that preserve every bit, and may therefore apply even before quantization."""


def not_slower(rules: Iterable[Rule]) -> Iterator[Rule]:
    """The rules, each limited to the targets where it was measured not to be slower."""
    for rule in rules:
        portable, onnxruntime = MEASURED[rule.name]
        fast = [("portable", portable), ("graphopt", portable), ("onnxruntime", onnxruntime)]
        targets = tuple(t for t, ratio in fast if ratio is not None and ratio >= FLOOR)
        if targets:
            yield replace(rule, targets=targets, rounding=rule.name not in BITWISE)
