"""What a result depends on beside its recipe: versions of libraries, and the CPU's instructions; never whose it is."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from ..machine.cpu import cpu_count, host_cpu

LIBRARIES = ("numba", "numpy", "onnx", "onnxruntime", "scipy")
_INSTRUCTIONS = (
    "avx", "avx2", "avx512bw", "avx512f", "avx512vnni", "avxvnni", "amx-int8", "f16c", "fma", "neon", "dotprod", "i8mm",
    "sve",
)  # fmt: skip
"""Sets of instructions by which onnxruntime, numpy and our kernels choose their code."""


def versions() -> dict[str, str]:
    """The versions of graphopt and of the libraries that compute."""
    found = {"graphopt": str(vars(sys.modules[__package__.partition(".")[0]])["__version__"])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a build without metadata
            continue
    return found


def profile() -> dict[str, str | int | list[str]]:
    """This machine as far as results depend on it: the kind of CPU, its instructions, how many cores may be used."""
    name, features = host_cpu()
    return {"cpu": name, "instructions": [f for f in _INSTRUCTIONS if f in features], "cores": cpu_count()}
