"""The documentation as a site: `python -m tests.docs.site [--out FOLDER]`; any warning of mkdocs fails.

The pages of `docs/` are copied; the reference of the command line, of the Python interface and of all options, and the
glossary are written from the code and CONTRIBUTING.md. Needs the extra `docs`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer.main

import graphopt
from graphopt import cli, options

ROOT = Path(__file__).parents[2]
GUIDES = (
    "which-mode", "search", "quantizing", "below-8-bits", "pruning", "float16", "recipes", "gradients", "runtime",
    "report",
    "editing", "testing", "writing-a-pass", "ir", "fusion",
)  # fmt: skip
API = (
    "graphopt.api.optimize", "graphopt.result.Result", "graphopt.report.Report", "graphopt.equivalence.compare",
    "graphopt.equivalence.Comparison", "graphopt.report.drift.compare_layers", "graphopt.recommendation.recommend",
    "graphopt.searching.search", "graphopt.searching.Front",
    "graphopt.surgery.edit", "graphopt.bisection.bisect", "graphopt.runtime.session.Session",
    "graphopt.gradient.differentiate.gradient_model", "graphopt.gradient.training.training_step",
    "graphopt.gradient.trainer.Trainer", "graphopt.pipeline.register_pass", "graphopt.pipeline.rule",
    "graphopt.testing.assert_equivalent", "graphopt.ir.Graph", "graphopt.ir.Node", "graphopt.ir.Value",
    "graphopt.rewrite.Builder", "graphopt.errors",
)  # fmt: skip
"""Objects of the reference, by the path at which they are found without importing anything."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def stage(folder: Path) -> Path:
    """Write pages and configuration below a folder; returns the configuration's path."""
    docs = folder / "docs"
    shutil.copytree(ROOT / "docs", docs)
    for page in docs.rglob("*.md"):
        page.write_text(_without_outside_links(page.read_text(encoding="utf-8"), page, docs), encoding="utf-8")
    (docs / "README.md").rename(docs / "index.md")
    for page in docs.glob("*.md"):
        page.write_text(page.read_text(encoding="utf-8").replace("](README.md", "](index.md"), encoding="utf-8")
    reference = docs / "reference"
    reference.mkdir()
    for name, text in (("command-line", command_line()), ("options", option_tables()), ("api", api())):
        (reference / f"{name}.md").write_text(text, encoding="utf-8")
    (docs / "glossary.md").write_text(glossary(), encoding="utf-8")
    config = folder / "mkdocs.yml"
    config.write_text(configuration(), encoding="utf-8")
    return config


def _without_outside_links(text: str, page: Path, docs: Path) -> str:
    """Links to files of the repository that the site does not have become their text."""

    def kept(match: re.Match[str]) -> str:
        target = match[3].partition("#")[0]
        inside = "://" in target or not target or (page.parent / target).resolve().is_relative_to(docs.resolve())
        return match[0] if inside else match[2]

    return _LINK.sub(kept, text)


def command_line() -> str:
    """Every command with its arguments and options, from the typer application."""
    group: Any = typer.main.get_command(cli.app)
    parts = ["# Command line", ""]
    for name, command in sorted(group.commands.items()):
        parts += [f"## graphopt {name}", "", (command.help or "").replace("\f", "").strip(), ""]
        rows = []
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            words = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                words = f"`{parameter.name.upper()}`"
            default = (
                "" if parameter.default in (None, (), [], ...) or callable(parameter.default) else parameter.default
            )
            rows.append((words, _cell(getattr(parameter, "help", "") or ""), f"`{default}`" if default != "" else ""))
        parts += _table(("argument or option", "meaning", "default"), rows)
    return "\n".join(parts)


def option_tables() -> str:
    """The fields of each group of options, with type and default."""
    parts = ["# Options", ""]
    groups = (
        options.Target, options.Schedule, options.Compression, options.Validation, options.Output, graphopt.Quantize,
        graphopt.Prune,
    )  # fmt: skip
    for group in groups:
        rows = [(f"`{f.name}`", f"`{_cell(str(f.type))}`", f"`{_default(f)}`") for f in dataclasses.fields(group)]
        parts += [f"## {group.__name__}", "", _prose(group.__doc__ or ""), ""]
        parts += _table(("field", "type", "default"), rows)
    return "\n".join(parts)


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return repr(item.default)
    return repr(item.default_factory()) if item.default_factory is not dataclasses.MISSING else "required"


def api() -> str:
    """The page that mkdocstrings fills from docstrings."""
    return "# Python\n\n" + "\n\n".join(f"::: {path}" for path in API) + "\n"


def glossary() -> str:
    """CONTRIBUTING's glossary, with the words of reports that are not in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Glossary\n")[2].strip()
    head, rule, *rows = text.splitlines()
    rows.append("| SQNR | 10 log₁₀ of the power of a result over that of its error, in dB; 20 dB is an error of 10 % |")
    return "\n".join(["# Glossary", "", head, rule, *sorted(rows, key=str.lower), ""])


def configuration() -> str:
    """The configuration of mkdocs, strict about links and anchors."""
    guides = "\n".join(f"      - {name}.md" for name in GUIDES)
    return f"""site_name: graphopt {graphopt.__version__}
theme: {{ name: material, font: false }}
strict: true
validation: {{ links: {{ anchors: warn, not_found: warn }} }}
markdown_extensions: [tables, fenced_code, toc]
plugins:
  - search
  - mkdocstrings:
      handlers:
        python:
          paths: ["{ROOT}"]
          options:
            show_source: false
            show_root_heading: true
            docstring_style: null
            heading_level: 2
            members_order: source
nav:
  - Getting started: index.md
  - Guides:
{guides}
  - Reference:
      - reference/command-line.md
      - reference/options.md
      - reference/api.md
      - Every pass: passes/
  - Questions: faq.md
  - comparison.md
  - glossary.md
"""


def _prose(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines()).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]
    return [*lines, ""]


def main(arguments: list[str] | None = None) -> int:
    """Build the site; the exit code of mkdocs."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs.site", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    out = parser.parse_args(arguments).out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        config = stage(Path(folder))
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", str(config), "-d", str(out)]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
