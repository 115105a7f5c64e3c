"""The fusions into operators that onnxruntime's CPU provider adds to ONNX, as one pass; it runs after all others."""

from __future__ import annotations

from ....pipeline.passes import rule_pass
from ..evidence import not_slower
from .epilogues import (
    activation_into_conv,
    activation_into_gemm,
    clip_into_conv,
    scale_into_product,
    transpose_into_first_factor,
    transpose_into_product,
)
from .heads import norm_heads_in_place
from .integers import (
    bias_into_integer_product,
    quantize_in_product,
    scale_integer_product,
    scale_integer_product_by_constant,
)
from .skips import bias_into_fast_gelu, bias_into_gelu, keep_sum_apart, keep_sums_apart

RULES = (
    activation_into_conv, clip_into_conv, activation_into_gemm, scale_into_product, transpose_into_product,
    transpose_into_first_factor, bias_into_gelu, bias_into_fast_gelu, keep_sums_apart, keep_sum_apart,
    norm_heads_in_place,
    scale_integer_product, scale_integer_product_by_constant, bias_into_integer_product, quantize_in_product,
)  # fmt: skip
"""The rules, tried in this order at each node."""

fuse_for_onnxruntime = rule_pass("fuse-for-onnxruntime", *not_slower(RULES), doc=__doc__)
