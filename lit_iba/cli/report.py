"""``report``: the page and the tables of a benchmark's folder."""

from __future__ import annotations

from pathlib import Path

ARGUMENTS = [("run", None, "folder of a benchmark")]


def report(run: str, title: str | None = None) -> None:
    """A self-contained HTML page, Markdown and LaTeX tables of a benchmark's folder.

    Args:
        run: Folder of a benchmark.
        title: Heading of the page.
    """
    from lit_iba.report import write_report

    for path in write_report(Path(run), title):
        print(f"wrote {path}")
