"""Numbers have a source: module-level numeric constants that no docstring and no comment explains."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO

from .tree import Module, Tree


@dataclass(frozen=True, slots=True)
class Number:
    """A constant in capitals that is a number, or that holds nothing but numbers."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


def unexplained(tree: Tree) -> list[Number]:
    """Numeric constants with no docstring below, no comment on their lines and none above.

    A comment above holds for all assignments that follow line on line; a docstring below for the last of them, and for
    those that it names.
    """
    return [number for module in tree.modules.values() for number in _unexplained(module)]


def _unexplained(module: Module) -> Iterator[Number]:
    groups = [(group, docstring) for group, docstring in _groups(module.syntax.body) if any(map(_number, group))]
    if not groups:
        return
    tokens = tokenize.generate_tokens(StringIO(module.text).readline)
    starts = [token.start[0] for token in tokens if token.type == tokenize.COMMENT]
    lines = module.text.splitlines()
    above = {line + 1 for line in starts if lines[line - 1].lstrip().startswith("#")}
    for group, docstring in groups:
        if group[0].lineno in above:
            continue
        for statement in group:
            name = _number(statement)
            last = statement.end_lineno or statement.lineno
            beside = statement.lineno in above or any(line in starts for line in range(statement.lineno, last + 1))
            below = (statement is group[-1] and bool(docstring)) or (bool(name) and name in docstring)
            if name and not beside and not below:
                yield Number(module.file, statement.lineno, name)


NUMERIC = ("np", "math", "float", "int", "pow", "round")
"""Modules and functions whose results are numbers. A record of numbers, as `Size(4, 6)`, is explained by its class."""

Assignment = ast.Assign | ast.AnnAssign


def _groups(body: Sequence[ast.stmt]) -> Iterator[tuple[list[Assignment], str]]:
    """Assignments that follow line on line, with the docstring right below them, "" where there is none."""
    group: list[Assignment] = []
    for statement in body:
        follows = bool(group) and statement.lineno == (group[-1].end_lineno or 0) + 1
        is_assignment = isinstance(statement, Assignment)
        if group and not (follows and is_assignment):
            yield group, _docstring(statement) if follows else ""
            group = []
        if isinstance(statement, Assignment):
            group.append(statement)
    if group:
        yield group, ""


def _docstring(statement: ast.stmt) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _number(statement: Assignment) -> str:
    """The name that is assigned, "" where it is not in capitals or the value is not numeric."""
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
    name = target.id if isinstance(target, ast.Name) else ""
    return name if name.isupper() and statement.value is not None and _is_numeric(statement.value) else ""


def _is_numeric(value: ast.expr) -> bool:
    """A number, arithmetic with one, a number that NUMERIC makes of numbers, or a container of these."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, (int, float)) and not isinstance(value.value, bool)
    if isinstance(value, ast.UnaryOp):
        return _is_numeric(value.operand)
    if isinstance(value, ast.BinOp):
        sides = (value.left, value.right)
        is_known = all(_is_numeric(side) or isinstance(side, (ast.Name, ast.Attribute)) for side in sides)
        return is_known and any(map(_is_numeric, sides))
    if isinstance(value, ast.Call):
        maker = ast.unparse(value.func)
        return maker.partition(".")[0] in NUMERIC and bool(value.args) and all(map(_is_numeric, value.args))
    parts = value.values if isinstance(value, ast.Dict) else getattr(value, "elts", [])
    return bool(parts) and all(map(_is_numeric, parts))
