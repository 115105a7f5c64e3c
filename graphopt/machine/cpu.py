"""The CPU's name and features, and the number of cores that this process may use."""

from __future__ import annotations

import os
from functools import cache


@cache
def host_cpu() -> tuple[str, frozenset[str]]:
    """The CPU's LLVM name, and its instruction-set features, such as `avx2`."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return llvm.get_host_cpu_name(), frozenset(name for name, present in features.items() if present)


def cpu_count() -> int:
    """The number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
