"""Every rewrite, a room a family; this file is the schedule: the only place where order is written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

if not __name__.startswith("graphopt."):
    raise ImportError("import graphopt.passes, not passes: the top-level folder is a second copy of it")

from ..pipeline.passes import Pass
from .clean import (
    drop_cast_islands,
    drop_identities,
    drop_zero_states,
    join_steps,
    merge_common_subexpressions,
    merge_identical_constants,
    remove_dead_nodes,
    tie_heads,
)
from .codes import drop_requantization, move_codes, read_weights, use_integer_operators, widen_channels
from .control import inline_branches, inline_functions, inline_loops
from .convert import raise_opset, share_caches, spell_powers
from .fold import (
    compose_linear_maps,
    fold_affine,
    fold_affine_before,
    fold_batchnorm,
    fold_chains,
    fold_constants,
    fold_pads,
)
from .fuse import fuse_attention, fuse_for_onnxruntime, fuse_operators, merge_products
from .layout import (
    cancel_transposes,
    flatten_concats,
    hoist_over_split,
    join_shape_changes,
    join_slices_and_pads,
    put_batch_first,
    read_masks,
    split_slices,
    take_parts,
)
from .shapes import give_range_scalars, infer_demands, name_sizes, resolve_shapes

if TYPE_CHECKING:
    from ..compress.stages import Stage
    from ..distillation import Distil
    from .float16 import Float16
    from .prune import Prune
    from .quantize import Quantize

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
    read_masks,
    drop_requantization,
    move_codes,
    raise_opset,
    fuse_operators,  # before the operators around activations are folded
    merge_common_subexpressions,
    fold_chains,
    fold_affine,  # a separate bias would hide BatchNormalization
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
    tie_heads,  # once nothing folds the transposition any more
    merge_products,
    fuse_attention,  # once steps are joined
    fuse_for_onnxruntime,  # operators of the target alone come last: no other pass knows them
    remove_dead_nodes,
)
"""The passes that `optimize` runs, in order."""

FOR_TARGET: tuple[Pass, ...] = (merge_products, fuse_attention, fuse_for_onnxruntime)
"""Passes that run after the lossy stages: they hide the patterns that pruning and quantization look for."""

ON_DEMAND: tuple[Pass, ...] = (
    inline_functions,
    read_weights,
    use_integer_operators,
    widen_channels,
    spell_powers,
    share_caches,
)
"""Passes that run only when named."""


def stages(
    prune: Prune | None, quantize: Quantize | None, precision: Float16 | None = None, recover: Distil | None = None
) -> list[Stage[Any]]:
    """The requested lossy stages, in order: pruning first, for it changes the activations that quantization calibrates.

    Recovery runs after pruning, since quantization starts from these weights, and again after quantization.
    """
    from ..compress.stages import Stage  # loads onnxruntime, which exact passes do not need

    wanted: list[Stage[Any]] = []
    if prune is not None:
        from .prune import affordable
        from .prune import prune as run_prune

        if recover is None and not isinstance(prune.recover, bool):
            recover = prune.recover
        if prune.exchange is None:
            prune = replace(prune, exchange=0 if recover is None else affordable(recover))
        wanted.append(Stage("prune", prune, run_prune, clean=True))
    if prune is not None and recover is not None:
        wanted.append(_recovery("recover", recover))
    if quantize is not None:
        from .quantize import quantize as run_quantize

        wanted.append(Stage("quantize", quantize, run_quantize))
        if recover is not None:
            wanted.append(_recovery("fine-tune", recover))
    if precision is not None:
        from .float16 import to_float16

        wanted.append(Stage("float16", precision, to_float16))
    return wanted


def _recovery(name: str, options: Distil) -> Stage[Any]:
    from ..compress.stages import Stage
    from ..distillation.stage import recover

    return Stage(name, options, partial(recover, name))
