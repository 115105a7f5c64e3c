"""The rules of the house. Each is a function of the tree that returns one line for each offence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from . import declared
from .tree import Arrow, Place, Tree, standing


@dataclass(frozen=True)
class House:
    """A tree and what is declared of it."""

    tree: Tree = field(default_factory=standing)
    floors: Sequence[Sequence[str]] = declared.FLOORS
    rooms: Mapping[str, Sequence[str]] = field(default_factory=lambda: declared.ROOMS)
    allowed: Mapping[tuple[str, str], str] = field(default_factory=lambda: declared.ALLOWED)
    long: Mapping[str, str] = field(default_factory=lambda: declared.LONG)

    def level(self, place: Place, depth: int) -> int:
        """The level of a module inside the package `place[:depth]`: that of its room, the highest for other modules."""
        order = [(room,) for room in self.rooms.get("/".join(place[:depth]), ())] if depth else self.floors
        names = place[depth : depth + 1]
        return next((level for level, standing in enumerate(order) if {*names} & {*standing}), len(order))

    def goes_up(self, arrow: Arrow) -> bool:
        """The target stands above the source in the innermost package that holds both."""
        source, target = arrow.source.place, arrow.target.place
        if not source:
            return False  # `graphopt` itself stands above all
        depth = next((i for i, (a, b) in enumerate(zip(source, target)) if a != b), min(len(source), len(target)))
        return self.level(source, depth) < self.level(target, depth)

    def is_allowed(self, arrow: Arrow) -> bool:
        """An exception covers it."""
        return any(_covers(entry, arrow) for entry in self.allowed)


def undeclared(house: House) -> list[str]:
    """Packages on no floor, rooms without a place in their package, and declared names that stand for nothing."""
    floors = {name for floor in house.floors for name in floor}
    inside: dict[str, set[str]] = {"": set()}
    wrong = []
    for module in house.tree.modules.values():
        if not module.place:
            continue
        *above, name = module.place
        package = "/".join(above)
        inside.setdefault(package, set()).add(name)
        if not package and name not in floors:
            wrong.append(f"{module.file}: FLOORS does not say which floor {name} is on")
        if package and module.is_package and name not in house.rooms.get(package, ()):
            wrong.append(f"{module.folder}: ROOMS[{package!r}] does not say where {name} stands")
    for package, names in {"": tuple(floors), **house.rooms}.items():
        gone = set(names) - inside.get(package, set())
        wrong += [f"{'ROOMS' if package else 'FLOORS'}: there is no {package}/{name}" for name in sorted(gone)]
    return wrong


def without_docstring(house: House) -> list[str]:
    """Rooms that do not say what they are."""
    return [f"{room.folder}: its __init__ has no docstring" for room in house.tree.rooms if not room.summary]


def arrows_up(house: House) -> list[str]:
    """Imports from a floor above, or from a room above inside a package."""
    return [str(arrow) for arrow in house.tree.arrows if house.goes_up(arrow) and not house.is_allowed(arrow)]


def circles(house: House) -> list[str]:
    """Modules that import each other, directly or through others; and packages of one floor that do."""
    arrows = [arrow for arrow in house.tree.arrows if not house.is_allowed(arrow)]
    files = [(arrow.source.name, arrow.target.name) for arrow in arrows]
    tops = [(source.partition("/")[0], target.partition("/")[0]) for source, target in files if source and target]
    return _circles(files) + [f"{line}, as packages" for line in _circles([(a, b) for a, b in tops if a != b])]


def crowded(house: House) -> list[str]:
    """Rooms of too many files."""
    counts = {room.folder: len(room.modules) for room in house.tree.rooms}
    return [f"{folder}: {count} files" for folder, count in counts.items() if count > declared.MOST_FILES]


def long_files(house: House) -> list[str]:
    """Files of too many lines, and too many exceptions."""
    lengths = {module.file: module.lines for module in house.tree.modules.values()}
    wrong = [
        f"{file}: {lines} lines"
        for file, lines in lengths.items()
        if lines > declared.MOST_LINES and file not in house.long
    ]
    if len(house.long) > declared.MOST_LONG:
        wrong.append(f"LONG has {len(house.long)} entries, {declared.MOST_LONG} at most")
    return wrong


def needless(house: House) -> list[str]:
    """Exceptions that no longer except anything."""
    lengths = {module.file: module.lines for module in house.tree.modules.values()}
    wrong = [f"LONG: {file}" for file in house.long if lengths.get(file, 0) <= declared.MOST_LINES]
    for entry in house.allowed:
        covered = [arrow for arrow in house.tree.arrows if _covers(entry, arrow)]
        graph = nx.DiGraph((arrow.source.name, arrow.target.name) for arrow in house.tree.arrows)
        if not any(house.goes_up(arrow) or _comes_back(graph, arrow) for arrow in covered):
            wrong.append(f"ALLOWED: {entry[0]} -> {entry[1]}")
    return wrong


RULES: dict[str, Callable[[House], list[str]]] = {
    "floors and rooms not declared": undeclared,
    "rooms without a docstring": without_docstring,
    "arrows up": arrows_up,
    "circles of files": circles,
    f"rooms over {declared.MOST_FILES} files": crowded,
    f"files over {declared.MOST_LINES} lines": long_files,
    "needless exceptions": needless,
}


def _covers(entry: tuple[str, str], arrow: Arrow) -> bool:
    ends = (arrow.source.name, arrow.target.name)
    return all(f"{end}/".startswith(f"{name}/") for end, name in zip(ends, entry))


def _comes_back(graph: nx.DiGraph, arrow: Arrow) -> bool:
    return bool(nx.has_path(graph, arrow.target.name, arrow.source.name))


def _circles(edges: Sequence[tuple[str, str]]) -> list[str]:
    """A shortest circle of each group of modules that reach each other."""
    graph = nx.DiGraph(edges)
    lines = []
    for group in sorted(map(sorted, nx.strongly_connected_components(graph))):
        back = [nx.shortest_path(graph, b, a) for a, b in graph.edges(group) if b in group]
        if back:
            path = min(back, key=len)
            others = f", {len(group)} in all" if len(group) > len(path) else ""
            lines.append(" -> ".join(name or "graphopt" for name in (path[-1], *path)) + others)
    return lines
