"""graphopt: a compiler-style optimizer for ONNX models.

A model is lifted into an internal IR, rewritten by ordered passes, emitted as ONNX and compared with the original.
The names below load at their first use, so that `import graphopt` is instant.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import GraphoptError, InputError, ModelError, OptionError, OutputError
from .machine.lazy import names_in

if TYPE_CHECKING:
    from . import gradient, rewrite, testing
    from .api import optimize
    from .bisection import Bisection, bisect
    from .distillation import Distil, Distilled, distil
    from .equivalence import Comparison, compare
    from .folders import FolderResult, optimize_folder
    from .passes.float16 import Float16
    from .passes.prune import Prune
    from .passes.quantize import Quantize
    from .pipeline import Pass, Registry, register_pass, rule
    from .recipe import Recipe
    from .recommendation import Recommendation, recommend
    from .report import Report
    from .report.drift import compare_layers
    from .result import Result
    from .runtime import Session
    from .searching import Front, search
    from .surgery import Edited, edit

__version__ = "0.2.0"
"""The only place of the version: pyproject.toml reads it here, as a literal, without importing anything."""

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the application attaches a handler

_HOME = {
    "Bisection": "bisection", "Comparison": "equivalence", "Distil": "distillation", "Distilled": "distillation",
    "Edited": "surgery", "Float16": "passes.float16", "FolderResult": "folders", "Front": "searching",
    "Pass": "pipeline",
    "Prune": "passes.prune", "Quantize": "passes.quantize", "Recipe": "recipe", "Recommendation": "recommendation",
    "Registry": "pipeline", "Report": "report", "Result": "result", "Session": "runtime",
    "bisect": "bisection", "compare": "equivalence", "compare_layers": "report.drift", "distil": "distillation",
    "edit": "surgery", "optimize": "api", "optimize_folder": "folders", "recommend": "recommendation",
    "register_pass": "pipeline", "rule": "pipeline", "search": "searching",
}  # fmt: skip
_MODULES = ("gradient", "rewrite", "testing")

__all__ = [
    "Bisection", "Comparison", "Distil", "Distilled", "Edited", "Float16", "FolderResult", "Front", "GraphoptError",
    "InputError", "ModelError", "OptionError", "OutputError", "Pass", "Prune", "Quantize", "Recipe", "Recommendation",
    "Registry", "Report", "Result", "Session", "bisect", "compare", "compare_layers", "distil", "edit", "gradient",
    "optimize", "optimize_folder", "recommend", "register_pass", "rewrite", "rule", "search", "testing",
]  # fmt: skip


_named = names_in(__name__, _HOME)


def __getattr__(name: str) -> Any:
    return import_module(f".{name}", __name__) if name in _MODULES else _named(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
