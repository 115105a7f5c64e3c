"""The generated pages of the site name every command, option and word."""

import dataclasses

import graphopt
from graphopt import cli
from tests.docs import site


def test_the_reference_names_every_command_and_option():
    text = site.command_line()
    commands = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert len(commands) > 8
    assert all(f"## graphopt {name.replace('_', '-')}" in text for name in commands)
    assert "| `--quantize` |" in text or "`--quantize`" in text


def test_options_are_listed_with_their_defaults():
    text = site.option_tables()
    for group in (graphopt.Quantize, graphopt.Prune):
        assert all(f"| `{field.name}` |" in text for field in dataclasses.fields(group))
    assert "| `block_size` |" in text and "`'portable'`" in text


def test_the_glossary_has_the_words_of_reports():
    assert all(f"| {word} |" in site.glossary() for word in ("J", "power", "SQNR", "region", "unit"))


def test_pages_are_staged_without_links_that_leave_them(tmp_path):
    config = site.stage(tmp_path)
    pages = sorted(path.relative_to(tmp_path / "docs").as_posix() for path in (tmp_path / "docs").rglob("*.md"))
    assert {"index.md", "glossary.md", "reference/api.md", "passes/fold-constants.md"} <= set(pages)
    assert "](../" not in (tmp_path / "docs" / "index.md").read_text()
    assert all(f"{name}.md" in config.read_text() for name in site.GUIDES)
