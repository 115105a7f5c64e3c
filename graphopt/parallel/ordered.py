"""Tasks handed to an executor, results in the order of the tasks; content is sent to workers that lack it."""

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
"""Tasks under way where an executor does not tell how many workers it has, and twice as many as these where it does:
while one result is taken, each worker finds a next task. A choice."""


@dataclass(frozen=True, slots=True)
class _Missing:
    """In place of a result: content that the worker lacks."""

    digests: tuple[str, ...]


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], needs: tuple[str, ...], sent: Content) -> Any:
    """In a worker: the result of a task, or what it lacks."""
    STORE.add(sent)
    missing = tuple(digest for digest in needs if STORE.get(digest) is None)
    return _Missing(missing) if missing else function(*arguments)


def ordered(
    executor: Executor | None, function: Callable[..., Result], calls: Iterable[tuple[tuple[Any, ...], Content]]
) -> Iterator[Result]:
    """The results of a function on each call, (arguments, content), in order; in this thread without an executor.

    The function reads its content by `content(digest)`, and both it and its arguments can be pickled. Calls are made
    when their turn comes, and at the end, also an early one, nothing runs any more. InputError, one line, where the
    executor breaks down; what the function raises is raised.
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
    """One task. Content goes along as often as there are workers, and when the worker of a task says that it lacks it;
    threads share ours."""
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
"""How often each content went along unasked."""


def _send(executor: Executor, task: Callable[[Content], Any], sent: Content, now: Content, outer: Future[Any]) -> None:
    """Hand a task to the executor, with the content `now`, and again with more where that is missing."""

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
    """End a task, unless its caller gave it up."""
    if not outer.set_running_or_notify_cancel():
        return
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(result)
