"""The pages of the passes are current."""

import pytest

from graphopt.rewrite import any_value, constant, op
from graphopt.rewrite.describe import describe
from tests.docs import examples, pages
from tests.docs.conditions import reasons

REMEDY = "run python -m tests.docs, read what it wrote, and commit it"


def test_every_page_is_current():
    wanted = pages.write_all(examples.load())
    kept = {path.name: path.read_text() for path in pages.FOLDER.glob("*.md")}
    stale = sorted(name for name in {*wanted, *kept} if wanted.get(name) != kept.get(name))
    assert not stale, f"{', '.join(stale)}: {REMEDY}"


def test_most_rules_have_an_example_that_fires():
    kept = examples.load()
    shown = {key: examples.shown(kept[key], item) for key, item, *_ in pages.subjects() if key in kept}
    dead = sorted(key for key, texts in shown.items() if texts is None)
    assert not dead, f"{', '.join(dead)} no longer fire on their examples: {REMEDY}"
    assert len(shown) >= 0.85 * len(list(pages.subjects())), REMEDY
    assert all(before != after for before, after in shown.values())


def test_patterns_as_text():
    pattern = op.Mul(op("Sigmoid", "Tanh")(any_value("x"), axis=1), constant("c", optional=True))
    assert describe(pattern) == "Mul(Sigmoid|Tanh(x; axis=1), C?)"
    assert describe(op.Add(any_value(), constant(equals=0.5))) == "Add(_, 0.5)"


@pytest.mark.parametrize("name", ["fold_norm_into_next_conv", "add_into_gemm"])
def test_reasons_come_from_the_source(name):
    rule = {rule.name: rule for item, _ in pages.passes() for rule in item.rules}[name]
    found = reasons(rule.handler)
    assert any("channel" in reason or "constant" in reason for reason in found) and len(found) == len(set(found))
