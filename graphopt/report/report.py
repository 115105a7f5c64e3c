"""The report of an optimisation: data that prints itself and saves itself as HTML or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError, OutputError
from .data import ReportData
from .tables import report_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, slots=True)
class Report(ReportData):
    """The report of one run of `graphopt.optimize`; `print` and rich show it as tables."""

    def to_html(self, title: str = "", *, seconds: float = 0.5) -> str:
        """The report as one HTML file that opens offline, with both graphs.

        `seconds`: how long to measure the latency of each candidate on this machine; 0 leaves it out.
        """
        from .html import page

        return page(self, title, seconds=seconds)

    def to_markdown(self, title: str = "", *, seconds: float = 0.5) -> str:
        """The report as Markdown, for pull requests; `seconds` as for `to_html`."""
        from .markdown import markdown

        return markdown(self, title, seconds=seconds)

    def save(self, path: str | Path, title: str = "", *, seconds: float = 0.5) -> None:
        """Write the report as HTML, Markdown or JSON, by the name of `path`. OptionError, OutputError."""
        kind = Path(path).suffix
        if kind not in (".html", ".md", ".json"):
            raise OptionError(f"report {str(path)!r}: the name ends in .html, .md or .json")
        if kind == ".json":
            text = self.to_json()
        else:
            text = (self.to_html if kind == ".html" else self.to_markdown)(title, seconds=seconds)
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}") from error

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=110, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from report_lines(self)
