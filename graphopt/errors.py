"""Errors that a user can cause, each one line with the place and the expectation (the CLI exits with 2); and
`Declined`, the reason why a part of a model is left as it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CODES = re.compile(r".*(?:\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Status Message: )")
"""The codes that onnxruntime puts before the text of an error."""
_PLACE = re.compile(r"[^\s:]+\.(?:cc|h):\d+ (?:\w[^()]*\([^()]*\) |\w+(?= External))")
"""A place in onnxruntime's source with the signature of its function, or the name alone."""


def one_line(error: BaseException | str) -> str:
    """An error's text for display, at most 300 characters, without onnxruntime's codes and places in its source."""
    text = _PLACE.sub("", _CODES.sub("", " ".join(str(error).split())))
    return text[:300] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean …?)" with the known word that is closest, whatever the case; "" where none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


class GraphoptError(Exception):
    """Base of every error a caller can cause; its text is one line."""


class ModelError(GraphoptError):
    """The model cannot be used: unreadable, not ONNX, invalid, or its external data is missing or out of bounds."""


class Unsupported(ModelError):
    """A runtime lacks an operator of the model, or a form of it; the model itself may be valid."""


class InputError(GraphoptError):
    """Feeds, calibration data or shapes do not fit the model's inputs."""


class OptionError(GraphoptError):
    """An option or a combination of options is not understood."""


class OutputError(GraphoptError):
    """The result cannot be written."""


class Declined(Exception):
    """A rewrite, a layer or a kernel does not apply to this part of a model, which then stays as it is.

    reason: one line. place: the node or value that the reason is about, if not the rewrite's own.
    """

    def __init__(self, reason: str, place: object = None) -> None:
        super().__init__(reason)
        self.reason, self.place = reason, place

    def __str__(self) -> str:
        return self.reason
