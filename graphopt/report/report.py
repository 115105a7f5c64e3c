"""The report of an optimization: data that prints itself and saves itself as HTML, Markdown or JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import check_arguments
from ..errors import OptionError, OutputError
from .data import ReportData
from .headline import headline
from .latency import measure_latency
from .tables import plain_text, report_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, slots=True)
class Report(ReportData):
    """The report of one run of `graphopt.optimize`; `print` and rich show it as tables."""

    @property
    def headline(self) -> str:
        """Size, speed, quality and validation in one line; unmeasured parts are absent."""
        return headline(self)

    def timed(self, seconds: float = 0.5) -> Report:
        """The report with the latency of the original and of the result, measured on this machine for about `seconds` a
        candidate; unchanged where latency is already known, cannot be measured, or `seconds` is 0.
        """
        check_arguments(Report.timed, locals())
        if self.latency is not None or self.trail is None or seconds <= 0:
            return self
        return replace(self, latency=measure_latency(self.trail, seconds))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the headline first."""
        return {"headline": self.headline, **ReportData.to_dict(self)}

    def to_html(self, title: str = "", *, seconds: float = 0.5) -> str:
        """The report as one HTML file that opens offline, with both graphs.

        `seconds`: how long to measure the latency of each candidate on this machine; 0 leaves it out.
        """
        check_arguments(Report.to_html, locals())
        from .html import page

        return page(self.timed(seconds), title)

    def to_markdown(self, title: str = "", *, seconds: float = 0.5) -> str:
        """The report as Markdown, for pull requests; `seconds` as for `to_html`."""
        check_arguments(Report.to_markdown, locals())
        from .markdown import markdown

        return markdown(self.timed(seconds), title)

    def save(self, path: str | Path, title: str = "", *, seconds: float = 0.5) -> None:
        """Write the report as HTML, Markdown or JSON, by the name of `path`. OptionError, OutputError."""
        check_arguments(Report.save, locals())
        kind = Path(path).suffix
        if kind not in (".html", ".md", ".json"):
            raise OptionError(f"report {str(path)!r}: the name ends in .html, .md or .json")
        if kind == ".json":
            text = self.timed(seconds).to_json()
        else:
            text = (self.to_html if kind == ".html" else self.to_markdown)(title, seconds=seconds)
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}") from error

    def __str__(self) -> str:
        return plain_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from report_lines(self)

    def _repr_html_(self) -> str:
        from .html.brief import brief

        return brief(self)
