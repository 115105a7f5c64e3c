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
LINKED = [*sorted(blocks.ROOT.glob("docs/**/*.md")), *sorted(blocks.ROOT.glob("*.md"))]


def links(page):
    prose = re.sub(r"^```.*?^```|`[^`]*`(?!\])|^>.*?$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"\w+://", target)]


def test_pages_examples_and_links_are_found():
    assert len(PAGES) > 5 and len(EXAMPLES) > 2 and sum(len(links(page)) for page in LINKED) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page, tmp_path):
    with blocks.workplace(tmp_path), graphopt.Registry():
        assert blocks.run(page), "every page shows something that runs"


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_examples_run(script, tmp_path, capsys, monkeypatch):
    with blocks.workplace(tmp_path):
        monkeypatch.setattr(sys, "argv", [str(script)])
        runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip(), "it says what it did"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(blocks.ROOT)))
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or f"# {anchor.replace('-', ' ')}" in Path(found).read_text().lower(), target
