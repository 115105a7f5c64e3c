"""The whole model in onnxruntime, opened when first needed; the feed shapes that kernels refuse and it runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from .ort_segment import abandon

_REMEMBERED = 256
"""The most refused sets of feed shapes kept, the oldest dropped first: more than callers that pad to multiples use."""

_SHOWN = 4
"""The most inputs whose shapes are shown: a decoder has a hundred, and the first show the length of the text."""

FeedShapes = tuple[tuple[str, tuple[int, ...]], ...]


class WholeModel:
    """A session of onnxruntime on all of the model. A forked child opens its own: threads do not survive a fork."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._open, self._lock = opened, threading.Lock()
        self._session: Any = None

    @property
    def session(self) -> Any:
        """The session, opened at the first access."""
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._open()
        return self._session

    def after_fork(self) -> None:
        """Abandon the parent's session, and renew a lock that its other threads may have held."""
        self._lock = threading.Lock()
        if self._session is not None:
            abandon(self._session)
            self._session = None


class RefusedShapes:
    """Feed shapes at which a region's kernels refuse its inputs, and why. `growing`: axes by name of the inputs that
    are longer in each run; these lengths are ignored, as kernels take all of them or none."""

    def __init__(self, growing: Mapping[str, int]) -> None:
        self._growing = growing
        self._reasons: OrderedDict[FeedShapes, str] = OrderedDict()

    def __contains__(self, feeds: Mapping[str, Any]) -> bool:
        return bool(self._reasons) and self._shapes(feeds) in self._reasons

    def add(self, feeds: Mapping[str, Any], reason: str) -> None:
        """Remember the shapes of these feeds."""
        self._reasons[self._shapes(feeds)] = reason
        if len(self._reasons) > _REMEMBERED:
            self._reasons.popitem(last=False)

    def _shapes(self, feeds: Mapping[str, Any]) -> FeedShapes:
        shapes = tuple([(name, getattr(fed, "shape", ())) for name, fed in feeds.items()])
        if not self._growing:
            return shapes
        return tuple((name, _without(shape, self._growing.get(name))) for name, shape in shapes)

    def __str__(self) -> str:
        """One line for all refused shapes, "" for none."""
        if not self._reasons:
            return ""
        shapes, reason = next(reversed(self._reasons.items()))
        fed = ", ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes[:_SHOWN])
        more = "" if len(shapes) <= _SHOWN else ", …"
        count = len(self._reasons)
        others = "" if count == 1 else f" and {count - 1} other set{'s' * (count > 2)} of shapes"
        return f"whole in onnxruntime for {fed}{more}{others}: kernels refuse {reason}"


def _without(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return shape if axis is None or axis >= len(shape) else (*shape[:axis], *shape[axis + 1 :])
