"""Segments that run in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InputError, one_line
from ...ir import Array
from ...machine.sessions import open_as_optimized, session_options
from ..place.extract import COMPUTED_WEIGHTS, EXACT_PRODUCTS, input_name, output_name
from ..place.stored import ONCE

_EXACT = {"session.qdq_matmulnbits_accuracy_level": "0"}  # products with stored weights in float32
_QUIET = {"session.force_spinning_stop": "1"}  # its threads do not spin while the next region's need the cores


_abandoned: list[Any] = []


def abandon(session: Any) -> None:
    """Leak a forked parent's session: closing it would wait for threads that the child does not have."""
    _abandoned.append(session)


class OrtSegment:
    """A segment that onnxruntime runs: the bytes of an extracted model, and its numbers of inputs and outputs.

    A forked child opens its session anew: threads do not survive a fork.
    """

    def __init__(self, source: bytes, inputs: int, outputs: int, threads: int, folder: str = "") -> None:
        self._source, self._threads, self._folder = source, threads, folder
        self._inputs = [input_name(index) for index in range(inputs)]
        self._outputs = [output_name(index) for index in range(outputs)]
        self._session = self._open()

    def _open(self) -> Any:
        marked = ((EXACT_PRODUCTS, _EXACT), (COMPUTED_WEIGHTS, ONCE))
        entries = dict(_QUIET)
        for mark, more in marked:
            entries.update(more if mark.encode() in self._source else {})
        settings = session_options(threads=self._threads, folder=self._folder, entries=entries)
        return open_as_optimized(self._source, settings)

    def after_fork(self) -> None:
        """Open the session again in a forked child."""
        abandon(self._session)
        self._session = self._open()

    def run(self, arrays: Sequence[Array]) -> list[Any]:
        """The segment's outputs for arrays in the order of its inputs, none copied. InputError if the run fails."""
        try:
            return list(self._session.run(self._outputs, dict(zip(self._inputs, arrays))))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(one_line(error)) from error


def run_with_values(session: Any, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """The named outputs of an onnxruntime session: the first as an array, the others as OrtValues.

    OrtValues may be fed again, and neither way copies them. InputError if the session cannot run.
    """
    from onnxruntime import OrtValue

    try:
        values = {
            name: fed if isinstance(fed, OrtValue) else OrtValue.ortvalue_from_numpy(fed) for name, fed in feeds.items()
        }
        first, *others = session.run_with_ort_values(names, values)
        return [first.numpy(), *others]
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(one_line(error)) from error
