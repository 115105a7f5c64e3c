"""Constants computed once: folded, composed with each other, or moved into weights and biases."""

from .affine import fold_affine
from .affine_before import fold_affine_before
from .batchnorm import fold_batchnorm
from .chains import fold_chains
from .constants import fold_constants
from .linear_maps import compose_linear_maps
from .pads import fold_pads

__all__ = [
    "compose_linear_maps", "fold_affine", "fold_affine_before", "fold_batchnorm", "fold_chains",
    "fold_constants", "fold_pads",
]  # fmt: skip
