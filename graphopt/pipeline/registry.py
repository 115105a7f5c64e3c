"""The registry of passes, and the schedule: the built-in order with registered passes at their named places."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, Token
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..arguments import check_arguments
from ..errors import OptionError, did_you_mean
from ..rewrite import OpPattern, Rule
from ..rewrite import rule as make_rule
from ..rewrite.pattern import check_operators
from ..rewrite.rule import Handler
from .adapters import ForeignPass, adapt
from .passes import GraphFunction, Pass, as_pass, graph_pass, rule_pass

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_MADE = "__graphopt_pass__"
"""The attribute of a decorated function that holds its pass, for entry points that name the function."""
ENTRY_POINTS = "graphopt.passes"
"""The group of entry points under which packages offer passes."""

PassLike = str | Pass | Rule | ForeignPass
"""A name, a `Pass`, a `Rule`, or a pass or rule of another library."""

Function = TypeVar("Function", bound=GraphFunction)


class Registry:
    """The passes in force: the built-in schedule and the passes registered on top.

    As a context manager it is a scope: registrations inside end with it; passes registered outside stay visible.
    """

    def __init__(self, parent: Registry | None = None) -> None:
        self._parent = parent
        self._own: dict[str, Pass] = {}
        self._tokens: list[Token[Registry | None]] = []

    def __enter__(self) -> Registry:
        if self._parent is None and self is not _DEFAULT:
            self._parent = current()
        self._tokens.append(_CURRENT.set(self))
        return self

    def __exit__(self, *exc: object) -> None:
        _CURRENT.reset(self._tokens.pop())

    def register(self, item: Pass) -> Pass:
        """Add a pass. ValueError if the name is taken, or its place names an unknown pass or itself; OptionError if a
        pattern names an operator that ONNX never had.
        """
        check_arguments(Registry.register, locals())
        if item.name in self:
            raise ValueError(f"a pass named {item.name!r} is already registered")
        for anchor in (item.after, item.before):
            if anchor and anchor not in self:
                raise ValueError(f"pass {item.name!r} wants to run beside {anchor!r}, which is not registered")
        for offered in item.rules:
            check_operators(offered.pattern)
        self._own[item.name] = item
        return item

    def __contains__(self, name: str) -> bool:
        return name in self._own or any(p.name == name for p in _builtin()) or self._above(name) is not None

    def _above(self, name: str) -> Pass | None:
        return None if self._parent is None else self._parent._own.get(name) or self._parent._above(name)

    def get(self, name: str) -> Pass:
        """The pass of that name, loaded if an entry point offers it; OptionError if there is none."""
        check_arguments(Registry.get, locals())
        for known in (*self.added(), *_builtin(), *_optional()):
            if known.name == name:
                return known
        for offered in entry_points():
            if offered.name == name:
                return _load(offered)
        names = sorted({*(p.name for p in (*self.schedule(), *_optional())), *(p.name for p in entry_points())})
        raise OptionError(f"no pass is named {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")

    def added(self) -> tuple[Pass, ...]:
        """The passes registered on top of the built-in ones, in the order of registration."""
        above = self._parent.added() if self._parent is not None else ()
        return (*above, *self._own.values())

    def schedule(self) -> tuple[Pass, ...]:
        """The built-in order with registered passes beside the passes they name; without a place, at the end."""
        order = list(_builtin())
        for item in self.added():
            order.insert(_place(order, item), item)
        return tuple(order)

    def scheduled(self, items: Sequence[PassLike]) -> tuple[Pass, ...]:
        """The schedule with further passes at the places that they name, or at its end; scheduled ones stay in
        place."""
        check_arguments(Registry.scheduled, locals())
        order = list(self.schedule())
        for item in self.resolve(items):
            if not any(known.name == item.name for known in order):
                order.insert(_place(order, item), item)
        return tuple(order)

    def resolve(self, items: Sequence[PassLike]) -> tuple[Pass, ...]:
        """An explicit schedule from names, passes and rules, in the order given."""
        check_arguments(Registry.resolve, locals())
        return tuple(self.get(item) if isinstance(item, str) else _adapt(item) for item in items)


def _place(order: list[Pass], item: Pass) -> int:
    anchor = item.before or item.after
    if anchor and not any(p.name == anchor for p in order):
        raise OptionError(f"pass {item.name!r} wants to run beside {anchor!r}, which is not in the schedule")
    if item.before:
        return next(i for i, p in enumerate(order) if p.name == item.before)
    if item.after:
        return next(i for i in range(len(order), 0, -1) if order[i - 1].name == item.after)
    return len(order)


def _adapt(item: Pass | Rule | ForeignPass) -> Pass:
    return as_pass(item) if isinstance(item, (Pass, Rule)) else adapt(item)


def _builtin() -> tuple[Pass, ...]:
    from ..passes import SCHEDULE

    return SCHEDULE


def _optional() -> tuple[Pass, ...]:
    from ..passes import ON_DEMAND

    return ON_DEMAND


def entry_points() -> tuple[EntryPoint, ...]:
    """Entry points of passes in installed packages (group `graphopt.passes`), not loaded. They run only when named."""
    from importlib.metadata import entry_points as installed

    return tuple(installed(group=ENTRY_POINTS))


def _load(offered: EntryPoint) -> Pass:
    try:
        with Registry():  # passes of entry points run only when named: registrations at import end with this scope
            item = offered.load()
    except Exception as error:
        raise OptionError(f"pass {offered.name!r} of {offered.value} cannot be loaded: {error}") from error
    adapted = _decorated(item) or _adapt(item)
    return replace(adapted, name=offered.name, source=adapted.source if offered.dist is None else offered.dist.name)


def _decorated(item: object) -> Pass | None:
    """The pass that `register_pass` attached to a function; for an undecorated function, a pass without a place."""
    made = getattr(item, _MADE, None)
    if isinstance(made, Pass):
        return made
    return graph_pass(item.__name__)(item) if inspect.isfunction(item) else None


_DEFAULT = Registry()
_CURRENT: ContextVar[Registry | None] = ContextVar("graphopt.registry", default=None)


def current() -> Registry:
    """The registry in force: the innermost scope, or the process-wide one."""
    return _CURRENT.get() or _DEFAULT


@overload
def register_pass(
    name: str, /, *, after: str = "", before: str = "", exact: bool = True
) -> Callable[[Function], Function]: ...
@overload
def register_pass(name: str, rule: Rule, /, *rules: Rule, after: str = "", before: str = "") -> Pass: ...
@overload
def register_pass(item: Pass | Rule | ForeignPass, /, *, after: str = "", before: str = "") -> Pass: ...
def register_pass(
    name: PassLike, /, *rules: Rule, after: str = "", before: str = "", exact: bool = True
) -> Pass | Callable[[Function], Function]:
    """Register a pass: as a decorator of `f(graph, context)` or `f(graph)`, from rules, or a pass object.

    A function returns the number of changes. Passes without `after` or `before` run at the end of the schedule.
    ValueError if the name is taken.
    """
    check_arguments(register_pass, {"after": after, "before": before, "exact": exact})
    if not isinstance(name, str):
        item = _adapt(name)
        return current().register(replace(item, after=after or item.after, before=before or item.before))
    if rules:
        return current().register(rule_pass(name, *rules, after=after, before=before))

    def make(function: Function) -> Function:
        made = current().register(graph_pass(name, exact=exact, after=after, before=before)(function))
        setattr(function, _MADE, made)
        return function

    return make


def rule(
    pattern: OpPattern, *, name: str = "", after: str = "", before: str = "", **options: Any
) -> Callable[[Handler], Rule]:
    """Register a pattern rule as a pass of its own (its name with dashes); the rule itself is returned.

    Options are those of `graphopt.rewrite.rule` (`min_opset`, `max_opset`, `exact`, `targets`).
    """
    check_arguments(rule, locals())

    def make(handler: Handler) -> Rule:
        rule = make_rule(pattern, name=name, **options)(handler)
        current().register(rule_pass(rule.name.replace("_", "-"), rule, after=after, before=before))
        return rule

    return make


def listed() -> Iterator[tuple[Pass, bool]]:
    """Every known pass in order, and whether it runs by default; without those of entry points."""
    for item in current().schedule():
        yield item, True
    for item in _optional():
        yield item, False
