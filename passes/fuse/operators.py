"""The fusions into ONNX's own operators, as one pass."""

from __future__ import annotations

from ...pipeline.passes import rule_pass
from ...rewrite import Rule
from ..fold.batchnorm import affine_into_batch_norm, join_batch_norms
from .einsum import einsum_as_product, einsum_of_one
from .evidence import not_slower
from .gelu import fuse_gelu, fuse_scaled_swish, fuse_swish, fuse_tanh_gelu
from .norms import (
    affine_into_instance_norm,
    fuse_batch_norm,
    fuse_l2_norm,
    fuse_layer_norm,
    fuse_rms_norm,
    scale_into_norm,
    shift_into_norm,
)
from .piecewise import (
    clip_after_relu,
    fuse_clip,
    fuse_hard_gate,
    fuse_hard_sigmoid,
    fuse_hard_swish,
    fuse_leaky_difference,
    fuse_leaky_relu,
    fuse_mish,
    fuse_prelu,
    fuse_relu_and_min,
    fuse_sigmoid,
    relu_after_clip,
)
from .rotary import (
    extend_rotary,
    extend_split_rotary,
    fuse_rotary,
    fuse_rotary_rows,
    fuse_split_rotary,
    fuse_split_rotary_rows,
)
from .softmax import fuse_log_softmax, fuse_softmax

RULES: tuple[Rule, ...] = (
    *fuse_gelu, *fuse_tanh_gelu, fuse_swish, fuse_scaled_swish, fuse_hard_sigmoid, fuse_hard_gate, fuse_hard_swish,
    fuse_mish, *fuse_sigmoid, *fuse_leaky_relu, *fuse_leaky_difference, *fuse_prelu, clip_after_relu, relu_after_clip,
    *fuse_clip, fuse_relu_and_min, *fuse_layer_norm, *fuse_rms_norm, scale_into_norm, shift_into_norm,
    affine_into_instance_norm, *fuse_l2_norm, *fuse_softmax, *fuse_log_softmax, fuse_rotary_rows,
    fuse_split_rotary_rows, fuse_rotary, fuse_split_rotary, extend_rotary, extend_split_rotary,
    affine_into_batch_norm, fuse_batch_norm, join_batch_norms, einsum_as_product, einsum_of_one,
)  # fmt: skip
"""The rules, tried in this order at each node."""

fuse_operators = rule_pass("fuse-operators", *not_slower(RULES), doc=__doc__)
