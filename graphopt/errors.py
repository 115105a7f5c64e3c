"""What a user can get wrong, each told in one line that names the place and the expectation. The CLI exits with 2."""

from __future__ import annotations


class GraphoptError(Exception):
    """Base of every error a caller can cause; its text is one line."""


class ModelError(GraphoptError):
    """The model cannot be used: unreadable, not ONNX, invalid, or its external data is missing or out of bounds."""


class InputError(GraphoptError):
    """Feeds, calibration data or shapes do not fit the model's inputs."""


class OptionError(GraphoptError):
    """An option or a combination of options is not understood."""


class OutputError(GraphoptError):
    """The result cannot be written."""
