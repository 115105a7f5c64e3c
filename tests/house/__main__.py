"""`python -m tests.house`: floors, rooms, and what is against the rules; exit code 1 where anything is.

With --constants, the numbers that have no source instead. With --write, the table of rooms in CONTRIBUTING.md is
written anew from their docstrings.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from .declared import MOST_FILES
from .numbers import unexplained
from .rules import RULES, House
from .tree import ROOT, Tree, standing

WIDTH = 160  # of tables in a file or a pipe


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constants", action="store_true", help="list numeric constants that nothing explains")
    parser.add_argument("--write", action="store_true", help="write the table of rooms in CONTRIBUTING.md")
    options = parser.parse_args(arguments)
    if options.write:
        page = ROOT / "CONTRIBUTING.md"
        page.write_text(contributing(page.read_text(encoding="utf-8"), standing()), encoding="utf-8")
        return 0
    if options.constants:
        numbers = unexplained(standing())
        print(*numbers, f"numbers without a source: {len(numbers) or 'none'}", sep="\n")
        return 1 if numbers else 0
    house = House()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(room_table(house.tree), floor_table(house), sep="\n")
    offences = {rule: check(house) for rule, check in RULES.items()}
    for rule, lines in offences.items():
        console.print(f"{rule}: {len(lines) or 'none'}", style="red" if lines else "green")
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)
    for (source, target), reason in house.allowed.items():
        console.print(f"allowed: {source} imports {target}: {reason}", soft_wrap=True)
    for file, reason in house.long.items():
        console.print(f"allowed: {file} is long: {reason}", soft_wrap=True)
    return 1 if any(offences.values()) else 0


def room_table(tree: Tree) -> Table:
    """Every room: its files, its lines, its longest file, and what it says it is."""
    table = Table(title="rooms", title_justify="left")
    table.add_column("room", no_wrap=True)
    table.add_column("files", justify="right")
    table.add_column("lines", justify="right")
    table.add_column("longest file", no_wrap=True)
    table.add_column("what it is")
    for room in tree.rooms:
        style = "red" if len(room.modules) > MOST_FILES else None
        longest = "" if room.longest is None else f"{room.longest.file.rpartition('/')[2]} {room.longest.lines}"
        table.add_row(room.folder, str(len(room.modules)), str(room.lines), longest, room.summary, style=style)
    table.add_section()
    files = sum(len(room.modules) for room in tree.rooms)
    table.add_row(f"{len(tree.rooms)} rooms", str(files), str(sum(room.lines for room in tree.rooms)))
    return table


def floor_table(house: House) -> Table:
    """The floors, the highest first, with the rooms of each package from the lowest on."""
    table = Table("floor", "packages", "their rooms, the lowest first", title="floors", title_justify="left")
    for number, names in reversed(list(enumerate(house.floors))):
        inside = [f"{p}: {' < '.join(order)}" for p, order in house.rooms.items() if p.partition("/")[0] in names]
        table.add_row(str(number), ", ".join(names), "\n".join(inside))
    return table


BEGIN, END = (
    "<!-- rooms: written by `python -m tests.house --write` from the docstrings -->\n",
    "<!-- end of rooms -->\n",
)
DEEPEST = 2  # folders of a path that the table shows: packages of graphopt, rooms of passes and kernels


def contributing(text: str, tree: Tree) -> str:
    """The text of CONTRIBUTING.md with the table of rooms as the tree is now."""
    before, _, rest = text.partition(BEGIN)
    rooms = [room for room in tree.rooms if room.folder != "graphopt" and room.folder.count("/") < DEEPEST]
    rows = [f"| `{room.folder}` | {room.summary.replace('|', chr(92) + '|')} |" for room in rooms]
    table = "\n".join(["| room | what it is |", "| --- | --- |", *rows])
    return f"{before}{BEGIN}\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
