"""Sessions of onnxruntime or torch that return inner values, keep a budget, and take types that numpy lacks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ..errors import ModelError, Unsupported, one_line
from ..ir import Array
from .value_info import ValueInfo

_ONNX_OF = {
    "bfloat16": onnx.TensorProto.BFLOAT16, "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
    "float8_e4m3fnuz": onnx.TensorProto.FLOAT8E4M3FNUZ, "float8_e5m2": onnx.TensorProto.FLOAT8E5M2,
    "float8_e5m2fnuz": onnx.TensorProto.FLOAT8E5M2FNUZ,
}  # fmt: skip
"""Element types that onnxruntime takes as raw bits, by the name of their ml_dtypes dtype."""


_EVERY = 0.02
"""Seconds between checks of time and memory: in this time a core touches some 100 MB of new pages."""


_STARVED = 10.0
"""The factor by which wall time may exceed the budget while the process computes less: on a machine shared by twenty
processes, wall time says nothing about a run. A bound for runs that wait, not tuned."""


class Budget:
    """A budget of seconds and of bytes beyond the process's present memory; `reason`: which was exceeded, or "".

    Seconds in which the process did not compute count as a tenth.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.memory, self.reason = seconds, memory, ""
        self._start, self._computed = time.monotonic(), time.process_time()
        self._most = _resident() + memory

    @property
    def is_spent(self) -> bool:
        """Whether no time is left."""
        passed, computed = time.monotonic() - self._start, time.process_time() - self._computed
        return min(passed, max(computed, passed / _STARVED)) > self.seconds

    @contextmanager
    def watching(self, options: Any) -> Iterator[None]:
        """Terminate a run with these RunOptions, within the block, once time or memory is exceeded."""
        self.reason, done = "", threading.Event()
        watcher = threading.Thread(target=self._watch, args=(options, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, options: Any, done: threading.Event) -> None:
        while not done.wait(_EVERY):
            if self.is_spent:
                self.reason = f"a run took more than what was left of {self.seconds:g} s"
            elif _resident() > self._most:
                self.reason = f"a run took more than {self.memory >> 20} MB"
            if self.reason:
                options.terminate = True
                return


def _resident() -> int:
    """The process's resident bytes, without mapped files; 0 where the system gives no figure."""
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
            return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class TappedSession:
    """A session of onnxruntime, or of torch with the same API, whose results include inner values on request.

    casts: outputs read through a Cast, with the name of its result. lent: weights that must live as long as the
    session. fed: inputs of every run that its feeds do not name.
    """

    def __init__(
        self, session: Any, outputs: Sequence[ValueInfo], casts: Mapping[str, str], lent: object = (),
        fed: Mapping[str, Array] | None = None,
    ) -> None:  # fmt: skip
        self.session, self._lent, self._fed = session, lent, fed or {}
        self.names = [p.name for p in outputs]
        self._casts = casts

    def float_taps(self, names: Iterable[str]) -> list[str]:
        """The tapped values that are float tensors of a numpy type, in order."""
        types = {o.name: o.type for o in self.session.get_outputs()}
        floats = ("tensor(float)", "tensor(double)", "tensor(float16)")
        return [name for name in names if types.get(name) in floats]

    def run(self, feeds: dict[str, Any], taps: Sequence[str] = (), budget: Budget | None = None) -> dict[str, Any]:
        """Outputs and taps by name.

        Raises ModelError, one line, when the model cannot run on the feeds, or memory or the budget runs out.
        """
        fetch = [*(self._casts.get(n, n) for n in self.names), *taps]
        options = ort.RunOptions()
        try:
            with budget.watching(options) if budget is not None else nullcontext():
                results = self._run(fetch, {**self._fed, **feeds}, options)
        except Unsupported:
            raise
        except Exception as error:
            over = budget.reason if budget is not None else ""
            raise ModelError(over or one_line(error)) from error
        return dict(zip((*self.names, *taps), results))

    def _run(self, fetch: list[str], feeds: dict[str, Any], options: ort.RunOptions) -> list[Any]:
        foreign = any(isinstance(v, np.ndarray) and v.dtype.name in _ONNX_OF for v in feeds.values())
        if not foreign or not hasattr(self.session, "run_with_ort_values"):
            return list(self.session.run(fetch, feeds, options))
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                value.view(np.uint16 if value.dtype.itemsize == 2 else np.uint8), _ONNX_OF[value.dtype.name]
            )
            if value.dtype.name in _ONNX_OF
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feeds.items()
        }
        return [v.numpy() for v in self.session.run_with_ort_values(fetch, values, options)]
