"""Passes of other libraries as passes of ours: `onnx_ir` passes and `onnxscript.rewriter` rules.

They see the model emitted to `onnx_ir`, and what they leave is lifted again; nodes that keep their name keep their
history.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from ..errors import OptionError
from ..ir import Graph, Model, model_of
from ..rewrite import Context
from .passes import Pass

Apply = Callable[[Any], tuple[Any, int]]
"""Runs on an `onnx_ir.Model`; returns the model to go on with and how many changes were made."""


def adapt(item: Any) -> Pass:
    """A Pass from what another library calls one; OptionError if it is nothing we know.

    Their authors do not say whether results stay equal, so they count as exact and are held to it.
    """
    kind = type(item)
    if _is_a(item, "onnx_ir.passes", "PassBase"):
        return _foreign(kind.__name__, kind, lambda model: _run_ir_pass(item, model))
    if _is_a(item, "onnxscript.rewriter", "RewriteRuleSet"):
        return _foreign(kind.__name__, kind, lambda model: (model, int(item.apply_to_model(model))))
    if _is_a(item, "onnxscript.rewriter", "RewriteRule"):
        return _foreign(item.name or kind.__name__, kind, lambda model: (model, int(item.apply_to_model(model))))
    if inspect.isclass(item) and any(base.__name__ == "RewriteRuleClassBase" for base in item.__mro__):
        rule: Any = item
        return adapt(rule.rule())
    raise OptionError(
        f"{getattr(item, '__name__', kind.__name__)} is not a pass: give a name, a Pass, a Rule, an onnx_ir pass or an "
        "onnxscript rule; a plain function becomes one with graphopt.register_pass"
    )


def _is_a(item: Any, module: str, name: str) -> bool:
    """Whether `item` is an instance of a class of a library; a library nobody has imported made no instances."""
    home = sys.modules.get(module)
    known = None if home is None else getattr(home, name, None)
    return known is not None and isinstance(item, known)


def _run_ir_pass(item: Any, model: Any) -> tuple[Any, int]:
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
    from .. import onnx_io

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
