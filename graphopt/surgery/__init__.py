"""Model surgery: other names, parts, sizes, input and output formats, each validated against the model before it."""

from .editing import Edited, NotValidated, edit
from .inputs import Bytes
from .outputs import Suppression

__all__ = ["Bytes", "Edited", "NotValidated", "Suppression", "edit"]
