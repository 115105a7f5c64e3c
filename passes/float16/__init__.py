"""Half precision: tensors in float16, float32 where the format's range or accuracy does not suffice."""

from .options import Float16, check_precision
from .stage import to_float16

__all__ = ["Float16", "check_precision", "to_float16"]
