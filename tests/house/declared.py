"""What the tree cannot say of itself: which package stands on which floor, which room before which, and exceptions."""

from __future__ import annotations

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("ir", "machine", "parallel", "arguments"),
    ("ops",),
    ("rewrite", "onnx_io", "analysis"),
    ("gradient",),
    ("torch",),
    ("equivalence", "calibration", "measure"),
    ("pipeline", "kernels"),
    ("runtime",),
    ("compress", "provenance"),
    ("distillation",),
    ("passes",),
    ("options", "validation", "report", "testing", "pytest_plugin"),
    ("reporting", "partial", "recipe", "work"),
    ("result",),
    ("api", "bench", "bisection", "folders", "surgery", "recommendation"),
    ("searching",),
    ("cli", "__main__"),
)
"""Packages and modules of graphopt, lowest first: a floor imports from those below it, never from one above."""

ROOMS: dict[str, tuple[str, ...]] = {
    "analysis": ("sizes", "channels"),
    "compress": ("layers",),
    "equivalence": ("value_info", "tapped", "onnx_graph", "runnable", "feeds", "synthesis", "metrics", "drift"),
    "gradient": ("tensor", "blocked", "call", "rules", "reverse", "settling", "prepare", "differentiate", "project"),
    "kernels": (
        "core",
        "micro",
        "loops",
        "tensors",
        "layout",
        "elementwise",
        "pooling",
        "normalization",
        "attention",
        "products",
        "winograd",
        "weights",
    ),
    "kernels/loops": (
        "core",
        "layout",
        "elementwise",
        "pooling",
        "normalization",
        "attention",
        "products",
        "winograd",
        "weights",
    ),
    "onnx_io": ("parts",),
    "passes": (
        "clean",
        "fold",
        "control",
        "shapes",
        "layout",
        "codes",
        "convert",
        "fuse",
        "prune",
        "quantize",
        "float16",
    ),
    "passes/fuse": ("guards", "evidence", "stored_products", "products", "attention", "onnxruntime"),
    "passes/prune": ("options", "score", "select", "cut", "refit"),
    "passes/quantize": ("options", "numerics", "candidates", "emit", "errors", "place", "refit"),
    "report": ("latency", "data", "headline", "html"),
    "runtime": ("lower", "compile", "place", "cache", "execute", "generate"),
    "runtime/lower": (
        "traits",
        "operations",
        "operands",
        "computed_shapes",
        "builders",
        "moves",
        "tables",
        "floats",
        "decoders",
    ),
    "runtime/compile": ("layouts", "tensor", "growth", "executable", "emitter", "shapes", "emit"),
    "testing": ("sketch", "blocks"),
    "torch": ("arrays", "operators"),
}
"""Rooms of each package that has some, lowest first: a room imports from those before it, never from one after it.

A package's other modules stand above its rooms; a module that is named here stands where it is named. Kernels name the
functions of loops/ and micro/ that they are compiled from as text: these are no imports.
"""

ALLOWED: dict[tuple[str, str], str] = {
    ("pipeline/registry", "passes"): "the registry reads the schedule, when it is first asked for",
}
"""Imports that go up or close a circle, (importer, imported), a package standing for all in it; and why each may."""

MOST_FILES = 14
"""Modules in a room, `__init__` not counted: what a listing shows at a glance."""

MOST_LINES = 400
"""Lines in a file: about what one reads in one sitting."""

LONG: dict[str, str] = {
    "graphopt/ir/graph.py": "the graph and every edit of it: use-lists are exact because only this file changes them",
}
"""Files that may be longer, and why each is one subject."""

MOST_LONG = 2
"""Entries that LONG may have: a third exception would be a habit."""
