"""The tree as it is: modules, rooms, and imports between modules."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("passes", "kernels")
"""Top-level folders that are imported as packages of graphopt, through a link each."""

Place = tuple[str, ...]
"""Where a module stands in graphopt: ("passes", "clean", "dead"); a package's `__init__` stands at the package's."""


@dataclass(frozen=True)
class Module:
    """A source file of graphopt. `file` is its path from the root of the repository."""

    place: Place
    file: str
    text: str

    @property
    def name(self) -> str:
        return "/".join(self.place)

    @property
    def folder(self) -> str:
        return self.file.rpartition("/")[0]

    @property
    def is_package(self) -> bool:
        return self.file.endswith("/__init__.py")

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def syntax(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def summary(self) -> str:
        """The first line of its docstring, "" where it has none."""
        return (ast.get_docstring(self.syntax) or "").partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Room:
    """A folder of modules: `modules` are all of them but `__init__`; `lines` counts it too."""

    folder: str
    summary: str
    modules: tuple[Module, ...]
    lines: int

    @property
    def longest(self) -> Module | None:
        return max(self.modules, key=lambda module: module.lines, default=None)


@dataclass(frozen=True, slots=True)
class Arrow:
    """An import of one module by another: at the top, in a function, or for type checking alone."""

    source: Module
    target: Module
    line: int

    def __str__(self) -> str:
        return f"{self.source.file}:{self.line} imports {self.target.name or 'graphopt'}"


@dataclass(frozen=True)
class Tree:
    """The sources of graphopt under a folder."""

    root: Path = ROOT

    @cached_property
    def modules(self) -> dict[Place, Module]:
        """Every module by its place, those of the linked folders among them."""
        found = {}
        for top in ("graphopt", *LINKED):
            for folder, _, files in os.walk(self.root / top):
                for path in (Path(folder, file) for file in files if file.endswith(".py")):
                    file = path.relative_to(self.root)
                    place = (file if top in LINKED else file.relative_to(top)).with_suffix("").parts
                    place = place[:-1] if place[-1] == "__init__" else place
                    found[place] = Module(place, file.as_posix(), path.read_text(encoding="utf-8"))
        return dict(sorted(found.items()))

    @cached_property
    def rooms(self) -> tuple[Room, ...]:
        """Every folder of modules."""
        folders: dict[str, list[Module]] = {}
        for module in self.modules.values():
            folders.setdefault(module.folder, []).append(module)
        return tuple(
            Room(
                folder,
                next((module.summary for module in modules if module.is_package), ""),
                tuple(module for module in modules if not module.is_package),
                sum(module.lines for module in modules),
            )
            for folder, modules in sorted(folders.items())
        )

    @cached_property
    def arrows(self) -> tuple[Arrow, ...]:
        """Every import between modules of graphopt. A package is meant where a name is its `__init__`'s."""
        return tuple(dict.fromkeys(arrow for module in self.modules.values() for arrow in self._arrows(module)))

    def _arrows(self, module: Module) -> Iterator[Arrow]:
        package = module.place if module.is_package else module.place[:-1]
        for node in _statements(module.syntax.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top, *rest = alias.name.split(".")
                    if top == "graphopt":
                        yield Arrow(module, self._holder(tuple(rest)), node.lineno)
            elif isinstance(node, ast.ImportFrom):
                named = tuple(node.module.split(".")) if node.module else ()
                if node.level:
                    named = (*package[: len(package) - node.level + 1], *named)
                elif named[0] == "graphopt":
                    named = named[1:]
                else:
                    continue
                for alias in node.names:
                    yield Arrow(module, self._holder((*named, alias.name)), node.lineno)

    def _holder(self, name: Place) -> Module:
        """The module that an imported name is, or lies in."""
        while name and name not in self.modules:
            name = name[:-1]
        return self.modules[name]


def _statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Statements in order, with those inside them; expressions, which hold no imports, are most of a tree."""
    for statement in body:
        yield statement
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            yield from _statements(getattr(statement, part, ()))


@cache
def standing() -> Tree:
    """The sources of graphopt as they stand when first asked for."""
    return Tree()
