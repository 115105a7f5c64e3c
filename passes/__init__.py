"""Every rewrite, one file each; this file is the schedule: the only place where order is written."""

from __future__ import annotations

if not __name__.startswith("graphopt."):
    raise ImportError("import graphopt.passes, not passes: the top-level folder is a second copy of it")

from ..pipeline.passes import Pass
from .affine import fold_affine
from .affine_before import fold_affine_before
from .batch_first import put_batch_first
from .batchnorm import fold_batchnorm
from .branches import inline_branches
from .casts import drop_cast_islands
from .chains import fold_chains
from .codes import move_codes
from .compose import drop_zero_states, join_steps
from .constants import merge_identical_constants
from .cse import merge_common_subexpressions
from .dead import remove_dead_nodes
from .demands import infer_demands
from .few_channels import widen_channels
from .fold import fold_constants
from .functions import inline_functions
from .fuse import fuse_attention, fuse_for_onnxruntime, fuse_operators, merge_products, read_weights
from .hoist import hoist_over_split
from .identity import drop_identities
from .integer_operators import use_integer_operators
from .legalise import give_range_scalars
from .linear_maps import compose_linear_maps
from .loops import inline_loops
from .pads import fold_pads
from .parts import take_parts
from .requantize import drop_requantization
from .reshapes import join_shape_changes
from .roots import spell_powers
from .shapes import resolve_shapes
from .sizes import name_sizes
from .slices import flatten_concats, join_slices_and_pads, split_slices
from .transposes import cancel_transposes

SCHEDULE: tuple[Pass, ...] = (
    remove_dead_nodes,
    drop_identities,
    resolve_shapes,
    fold_constants,
    inline_branches,  # folding makes conditions known
    infer_demands,
    name_sizes,
    resolve_shapes,  # inlining makes shapes known
    fold_constants,
    inline_branches,
    inline_loops,
    drop_identities,  # and folding pads and ends
    merge_identical_constants,
    merge_common_subexpressions,
    drop_requantization,
    move_codes,
    fuse_operators,  # before what stands around activations is folded away
    merge_common_subexpressions,
    fold_chains,
    fold_affine,  # a bias that stands apart hides BatchNormalization
    fold_batchnorm,
    fold_affine,
    fold_affine_before,
    compose_linear_maps,
    drop_zero_states,
    join_steps,
    drop_cast_islands,
    take_parts,
    put_batch_first,
    join_shape_changes,
    cancel_transposes,
    join_slices_and_pads,
    fold_pads,
    split_slices,
    hoist_over_split,
    flatten_concats,
    drop_identities,
    give_range_scalars,
    merge_products,
    fuse_attention,  # once steps are joined
    fuse_for_onnxruntime,  # what only the target has comes last: no other pass knows these operators
    remove_dead_nodes,
)
"""What `optimize` runs, in order."""

FOR_TARGET: tuple[Pass, ...] = (merge_products, fuse_attention, fuse_for_onnxruntime)
"""Passes that hide what pruning and quantization look for; they wait for them."""

ON_DEMAND: tuple[Pass, ...] = (inline_functions, read_weights, use_integer_operators, widen_channels, spell_powers)
"""Passes that run only when named."""
