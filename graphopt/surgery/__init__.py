"""Model surgery: other names, parts, sizes, input and output formats, each validated against the model before it."""

from .editing import Edited, NotValidated, edit

__all__ = ["Edited", "NotValidated", "edit"]
