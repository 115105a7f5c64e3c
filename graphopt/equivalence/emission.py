"""A model that nothing changed but that was written anew: onnxruntime must load and run it as it does the original."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError, ModelError
from .runnable import RunnableModel
from .synthesis.search import Sample, find_samples
from .tapped import TappedSession


def emission_fault(original: RunnableModel, emitted: RunnableModel, seed: int) -> str | None:
    """Why the emission cannot stand for the original, "" if it can; None where their results on one sample differ.

    Two sessions and one run of each, one after the other; none where the protos are the same. An original that does not
    run at all has nothing to lose.
    """
    if original.proto == emitted.proto:
        return ""
    optimize = True
    try:
        session = original.session(optimize=True)
    except ModelError:
        optimize = False
        try:
            session = original.session(optimize=False)
        except ModelError:
            return ""
    sample = _sample(original, session, seed)
    del session  # two sessions at once would hold the weights twice
    try:
        session = emitted.session(optimize=optimize)
        results = {} if sample is None else session.run(sample.feeds)
    except ModelError as error:
        return f"the candidate does not run where the original does: {error}"
    return "" if sample is None or all(_is_same(v, results[name]) for name, v in sample.results.items()) else None


def _sample(model: RunnableModel, session: TappedSession, seed: int) -> Sample | None:
    try:
        return find_samples(model, session, 1, seed)[0]
    except (ModelError, InputError):
        return None


def _is_same(a: Any, b: Any) -> bool:
    """The same elements; False for anything but tensors, which the full comparison knows to take apart."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
