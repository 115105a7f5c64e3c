"""Every command and script in README, docs and examples runs."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import graphopt
from tests.docs import blocks

PAGES = [blocks.ROOT / "README.md", *sorted((blocks.ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((blocks.ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page, tmp_path):
    with blocks.workplace(tmp_path), graphopt.Registry():
        assert blocks.run(page) or page.stem not in ("README", "testing", "quantizing", "pruning", "report")


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_examples_run(script, tmp_path, capsys, monkeypatch):
    with blocks.workplace(tmp_path):
        monkeypatch.setattr(sys, "argv", [str(script)])
        runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip(), "it says what it did"


@pytest.mark.parametrize("page", sorted(blocks.ROOT.glob("docs/**/*.md")) + PAGES[:1], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```|`[^`]*`(?!\])|^>.*?$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"\w+://", target):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), target
            assert not anchor or f"# {anchor.replace('-', ' ')}" in Path(found).read_text().lower(), target
