"""Model surgery: rename, extract, resize, and change input or output formats, validated against the given model."""

from .editing import Edited, NotValidated, edit
from .inputs import Bytes
from .outputs import Suppression

__all__ = ["Bytes", "Edited", "NotValidated", "Suppression", "edit"]
