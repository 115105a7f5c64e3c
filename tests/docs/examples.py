"""An example for each rule and pass: a small model on which it fires, kept as text in examples.json.

`find` looks for one among random graphs that the rule's pattern describes, among the texts in models/ and among random
graphs of every kind; the smallest wins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import onnx.printer

from graphopt import onnx_io
from graphopt.errors import GraphoptError
from graphopt.ir import Model, to_text
from graphopt.pipeline import Pass, PassError, current, run_pass
from graphopt.rewrite import Context, Rule
from graphopt.testing import random_graph
from tests import nets
from tests.docs.given import GIVEN
from tests.passes.harness import parse

FILE = Path(__file__).with_name("examples.json")
TARGETS = ("portable", "onnxruntime")
_SEEDS, _MORE = 300, 150

_MANY = re.compile(r"(@[^\s=,()]+)=\w+\[[^\]]*\]\([^()]*,[^()]*,[^()]*,[^()]*\)")

Example = dict[str, Any]
"""text: a model; or net: the name of one in models/text. target; after: whether the schedule up to the pass ran."""


def load() -> dict[str, Example]:
    """The examples that are kept, by pass or `pass/rule`."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def keep(examples: dict[str, Example]) -> None:
    """Write the examples."""
    FILE.write_text(json.dumps(dict(sorted(examples.items())), indent=1, ensure_ascii=False) + "\n")


def shown(example: Example, item: Pass) -> tuple[str, str] | None:
    """The IR text before and after `item` ran on the example; None where it does not fire."""
    model = _lifted(example)
    if example.get("after"):
        _run_up_to(model, item, example["target"])
    before = _body(model)
    run_pass(model, item, Context(example["target"]))  # types that become more precise count as no change
    after = _body(model)
    return None if after == before else (before, after)


def given(key: str) -> Example | None:
    """The example by hand."""
    if key not in GIVEN:
        return None
    text, opset, target = GIVEN[key]
    return {"text": onnx.printer.to_text(parse(text, opset)), "target": target}


def find(item: Pass, scheduled: str, rules: list[Rule]) -> Example | None:
    """The smallest example found on which `item` fires; `scheduled` names the pass whose place in the order counts."""
    best: tuple[int, Example] | None = None
    size = min((rule.pattern.size for rule in rules), default=1)
    for example in _candidates(rules, scheduled):
        with suppress(GraphoptError, PassError, onnx.parser.ParseError, ValueError, RuntimeError):
            texts = shown(example, item)
            if texts is None:
                continue
            cost = len(texts[0]) + len(texts[1])
            if best is None or cost < best[0]:
                best = cost, example
            if rules and texts[0].count("\n") <= size + 2:
                break
    return None if best is None else best[1]


def _candidates(rules: list[Rule], scheduled: str) -> Iterator[Example]:
    for seed in range(_SEEDS if rules else 0):
        chosen = rules[seed % len(rules)]
        opset = max(chosen.min_opset, (17, 24, 20)[seed // len(rules) % 3])
        with suppress(Exception):
            model = random_graph(seed, blocks=1, opsets=(opset,), families=("elementwise",), matching=[chosen] * 8)
            yield from _as_text(model, chosen.targets or TARGETS)
    if rules:
        return
    for name in nets.NAMES:
        for after in (False, True):
            yield {"net": name, "target": "portable", "after": after}
            yield {"net": name, "target": "onnxruntime", "after": after}
    for seed in range(_MORE):
        with suppress(Exception):
            yield from _as_text(random_graph(seed, blocks=2, opsets=(17,)), TARGETS)


def _as_text(model: onnx.ModelProto, targets: tuple[str, ...]) -> Iterator[Example]:
    text = onnx.printer.to_text(model)
    if len(text) < 6000:
        for target in targets:
            yield {"text": text, "target": target}


def _lifted(example: Example) -> Model:
    proto = nets.load(example["net"]) if "net" in example else onnx.parser.parse_model(example["text"])
    return onnx_io.load(proto)


def _run_up_to(model: Model, item: Pass, target: str) -> None:
    context = Context(target)
    for other in current().schedule():
        if other.name == item.name:
            return
        run_pass(model, other, context)


def _body(model: Model) -> str:
    """The text of the nodes, with the values of single numbers only."""
    lines = [_MANY.sub(r"\1", line) for line in to_text(model.graph, constants=True).splitlines()]
    return "\n".join(line[2:] if line.startswith("  ") else line for line in lines[1:-1])
