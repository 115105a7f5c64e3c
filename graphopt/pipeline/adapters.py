"""Adapters for foreign passes: `onnx_ir` passes and `onnxscript.rewriter` rules as `Pass` objects.

They receive the model emitted to `onnx_ir`; their result is lifted again. A node that keeps its name keeps its
provenance.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeGuard

from .. import onnx_io
from ..errors import OptionError
from ..ir import Graph, Model, model_of
from ..rewrite import Context
from .passes import Pass

if TYPE_CHECKING:
    import onnx_ir

    Apply = Callable[[onnx_ir.Model], tuple[onnx_ir.Model, int]]
    """Returns the rewritten model and the number of changes."""


class OnnxIrPass(Protocol):
    """An `onnx_ir.passes.PassBase`."""

    def __call__(self, model: onnx_ir.Model, /) -> onnx_ir.passes.PassResult:
        """Run on a model."""


class OnnxScriptRules(Protocol):
    """An `onnxscript.rewriter.RewriteRuleSet` or `RewriteRule`."""

    def apply_to_model(self, model: onnx_ir.Model) -> int:
        """Rewrite a model in place; returns the number of changes."""


class OnnxScriptRuleClass(Protocol):
    """A subclass of `onnxscript.rewriter.RewriteRuleClassBase`."""

    def rule(self) -> OnnxScriptRules:
        """The class method that makes a rule."""


ForeignPass = OnnxIrPass | OnnxScriptRules | OnnxScriptRuleClass


def adapt(item: ForeignPass) -> Pass:
    """A Pass from a pass or rule of another library; OptionError for any other object.

    Foreign passes do not declare whether results stay equal; they count as exact, and the check of the result enforces
    that.
    """
    kind = type(item)
    if _is_ir_pass(item):
        return _foreign(kind.__name__, kind, lambda model: _run_ir_pass(item, model))
    if _is_rules(item):
        name = str(getattr(item, "name", "") or kind.__name__)
        return _foreign(name, kind, lambda model: (model, int(item.apply_to_model(model))))
    if _is_rule_class(item):
        return adapt(item.rule())
    raise OptionError(
        f"{getattr(item, '__name__', kind.__name__)} is not a pass: give a name, a Pass, a Rule, an onnx_ir pass or an "
        "onnxscript rule; a plain function becomes one with graphopt.register_pass"
    )


def _is_ir_pass(item: object) -> TypeGuard[OnnxIrPass]:
    return _is_a(item, "onnx_ir.passes", "PassBase")


def _is_rules(item: object) -> TypeGuard[OnnxScriptRules]:
    return any(_is_a(item, "onnxscript.rewriter", name) for name in ("RewriteRuleSet", "RewriteRule"))


def _is_rule_class(item: object) -> TypeGuard[OnnxScriptRuleClass]:
    return inspect.isclass(item) and any(base.__name__ == "RewriteRuleClassBase" for base in item.__mro__)


def _is_a(item: object, module: str, name: str) -> bool:
    """Whether `item` is an instance of a library's class; a library not yet imported has no instances."""
    home = sys.modules.get(module)
    known = None if home is None else getattr(home, name, None)
    return known is not None and isinstance(item, known)


def _run_ir_pass(item: OnnxIrPass, model: onnx_ir.Model) -> tuple[onnx_ir.Model, int]:
    result = item(model)
    return result.model, int(bool(result.modified))


def _foreign(name: str, kind: type, apply: Apply) -> Pass:
    def run(graph: Graph, context: Context) -> int:
        model = model_of(graph)
        if model is None:
            raise OptionError(f"{name} runs on whole models only")
        return _round_trip(model, apply)

    package = kind.__module__.partition(".")[0]
    return Pass(name, run, doc=inspect.getdoc(kind) or "", source=package)


def _round_trip(model: Model, apply: Apply) -> int:
    result, changes = apply(onnx_io.to_onnx(model))
    if not changes:
        return 0
    histories = {node.name: (node.origins, node.made_by) for node in model.graph.walk() if node.name}
    lifted = onnx_io.load(result, folder=model.folder)
    for node in lifted.graph.walk():
        node.origins, node.made_by = histories.get(node.name, ((), ""))
    model.opsets.clear()
    model.opsets.update(lifted.opsets)
    model.functions.clear()
    model.functions.update(lifted.functions)
    model.ir_version, model.metadata = lifted.ir_version, lifted.metadata
    model.graph.replace_contents(lifted.graph)
    return changes
