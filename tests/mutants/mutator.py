"""Mutants of functions: a changed constant, exchanged operands, another operator, a dropped guard.

A mutant is the same function object with the code of an edited syntax tree, so that every rule and pass that uses the
function is mutated with it, and nothing is imported twice.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType

KINDS = ("constant", "operands", "operator", "guard")
_OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """The `place`-th possible change of one kind in a function."""

    function: FunctionType
    kind: str
    place: int
    told: str

    def __str__(self) -> str:
        module = self.function.__module__.removeprefix("graphopt.").replace(".", "/")
        return f"{module}.py {self.function.__name__}: {self.told}"

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The function is mutated inside the block."""
        original = self.function.__code__
        self.function.__code__ = _code(self.function, self.kind, self.place)
        try:
            yield
        finally:
            self.function.__code__ = original


def mutants(function: FunctionType) -> list[Mutant]:
    """All mutants of a function."""
    made = []
    for kind in KINDS:
        editor = _Editor(kind, -1)
        editor.visit(_tree(function))
        made += [Mutant(function, kind, place, told) for place, told in enumerate(editor.sites)]
    return made


def _tree(function: FunctionType) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    if ast.get_docstring(definition) is not None:
        definition.body[0] = ast.Pass(lineno=definition.lineno, col_offset=0)
    definition.returns = None
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return definition


def _code(function: FunctionType, kind: str, place: int) -> CodeType:
    tree = _Editor(kind, place).visit(_tree(function))
    module = ast.fix_missing_locations(ast.Module([tree], []))
    compiled = compile(module, function.__code__.co_filename, "exec")
    return next(c for c in compiled.co_consts if isinstance(c, CodeType) and c.co_name == function.__name__)


class _Editor(ast.NodeTransformer):
    """Counts the sites of one kind and edits the one at `place`."""

    def __init__(self, kind: str, place: int) -> None:
        self.kind, self.place = kind, place
        self.sites: list[str] = []

    def _here(self, kind: str, told: str) -> bool:
        if kind != self.kind:
            return False
        self.sites.append(told)
        return len(self.sites) - 1 == self.place

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            new: object = not value
        elif isinstance(value, (int, float)):
            new = value * 3 if isinstance(value, float) and value not in (0.0, 1.0) else value + 1
        else:
            return node
        return ast.copy_location(ast.Constant(new), node) if self._here("constant", f"{value!r} -> {new!r}") else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node  # messages

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        text = ast.unparse(node)
        if isinstance(node.op, (ast.Sub, ast.Div)) and self._here("operands", f"{text}, operands exchanged"):
            node.left, node.right = node.right, node.left
        elif type(node.op) in _OTHER and self._here("operator", f"{text}, another operator"):
            node.op = _OTHER[type(node.op)]()  # type: ignore[assignment]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if type(node.ops[0]) in _OTHER and self._here("operator", f"{ast.unparse(node)}, another comparison"):
            node.ops[0] = _OTHER[type(node.ops[0])]()  # type: ignore[call-overload]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._here("operator", f"{ast.unparse(node)}, and for or"):
            node.op = _OTHER[type(node.op)]()  # type: ignore[assignment]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        builds = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
        builds = builds and node.func.value.id == "build" and node.func.attr[0].isupper()  # type: ignore[attr-defined]
        if builds and len(node.args) > 1 and self._here("operands", f"{ast.unparse(node)}, operands exchanged"):
            node.args[0], node.args[1] = node.args[1], node.args[0]
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        last = node.body[-1]
        gives_up = isinstance(last, ast.Raise) or (
            isinstance(last, ast.Return) and (last.value is None or isinstance(last.value, ast.Constant))
        )
        if gives_up and not node.orelse and self._here("guard", f"no guard `if {ast.unparse(node.test)}`"):
            return ast.copy_location(ast.Pass(), node)
        return node
