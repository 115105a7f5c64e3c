"""Tasks submitted to an executor, with results in the order of the tasks; content is sent to workers that lack it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ..errors import InputError, one_line
from .content import STORE, Content

Result = TypeVar("Result")
AHEAD = 8
"""Tasks in flight for an executor whose number of workers is unknown; else twice that number: while the caller takes a
result, each worker has a next task. A choice."""


@dataclass(frozen=True, slots=True)
class _Missing:
    """Returned instead of a result: the digests of content that the worker lacks."""

    digests: tuple[str, ...]


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], needs: tuple[str, ...], sent: Content) -> Any:
    """In a worker: run a task, or return the content it lacks."""
    STORE.add(sent)
    missing = tuple(digest for digest in needs if STORE.get(digest) is None)
    return _Missing(missing) if missing else function(*arguments)


def ordered(
    executor: Executor | None, function: Callable[..., Result], calls: Iterable[tuple[tuple[Any, ...], Content]]
) -> Iterator[Result]:
    """The results of a function for each call (arguments, content), in order; in this thread without an executor.

    The function reads its content by `content(digest)`; function and arguments must pickle. `calls` is read lazily, and
    at the end, also an early one, no task runs any more. Raises InputError, one line, where the executor breaks down,
    and whatever the function raises.
    """
    if executor is None:
        for arguments, sent in calls:
            STORE.add(sent)
            yield function(*arguments)
        return
    ahead = 2 * getattr(executor, "_max_workers", AHEAD // 2)
    under_way: deque[Future[Result]] = deque()
    try:
        for arguments, sent in calls:
            under_way.append(submit(executor, function, arguments, sent))
            if len(under_way) >= ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenExecutor as error:
        raise InputError(f"workers: the executor broke down: {one_line(error)}") from error
    finally:
        for future in under_way:
            future.cancel()
        wait(under_way)


def submit(
    executor: Executor, function: Callable[..., Result], arguments: tuple[Any, ...], sent: Content
) -> Future[Result]:
    """Submit one task. Content is sent along as many times as there are workers, and again to a worker that lacks it;
    threads share this process's store."""
    now: dict[str, bytes] = {}
    if isinstance(executor, ThreadPoolExecutor):
        STORE.add(sent)
    else:
        times, workers = _times_sent.setdefault(executor, Counter()), getattr(executor, "_max_workers", 0)
        now = {digest: data for digest, data in sent.items() if times[digest] < workers}
        times.update(now.keys())
    outer: Future[Result] = Future()
    _send(executor, partial(_run, function, arguments, tuple(sent)), sent, now, outer)
    return outer


_times_sent: WeakKeyDictionary[Executor, Counter[str]] = WeakKeyDictionary()
"""How often each content was sent along unrequested."""


def _send(executor: Executor, task: Callable[[Content], Any], sent: Content, now: Content, outer: Future[Any]) -> None:
    """Submit a task with the content `now`, and again with the content that the worker lacks."""

    def done(inner: Future[Any]) -> None:
        error = None if inner.cancelled() else inner.exception()
        if not inner.cancelled() and error is None and isinstance(inner.result(), _Missing) and not outer.cancelled():
            lacking = {digest: sent[digest] for digest in inner.result().digests}
            try:
                _send(executor, task, sent, lacking, outer)
            except Exception as failure:  # the executor is closed, or broke down meanwhile
                _settle(outer, failure, None)
            return
        _settle(outer, error, None if error is not None or inner.cancelled() else inner.result())

    executor.submit(task, now).add_done_callback(done)


def _settle(outer: Future[Any], error: BaseException | None, result: Any) -> None:
    """Set the result of a task, unless its caller canceled it."""
    if not outer.set_running_or_notify_cancel():
        return
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(result)
