"""The environment that affects a result beside its recipe: library versions and CPU instructions; never the owner."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from ..machine.cpu import cpu_count, host_cpu

LIBRARIES = ("numba", "numpy", "onnx", "onnxruntime", "scipy")
_INSTRUCTIONS = (
    "avx", "avx2", "avx512bw", "avx512f", "avx512vnni", "avxvnni", "amx-int8", "f16c", "fma", "neon", "dotprod", "i8mm",
    "sve",
)  # fmt: skip
"""Instruction sets by which onnxruntime, numpy and our kernels choose their code paths."""


def versions() -> dict[str, str]:
    """The versions of graphopt and of the libraries that affect results."""
    found = {"graphopt": str(vars(sys.modules[__package__.partition(".")[0]])["__version__"])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a build without package metadata
            continue
    return found


def profile() -> dict[str, str | int | list[str]]:
    """The properties of this machine that affect results: kind of CPU, instruction sets, usable cores."""
    name, features = host_cpu()
    return {"cpu": name, "instructions": [f for f in _INSTRUCTIONS if f in features], "cores": cpu_count()}
