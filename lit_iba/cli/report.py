"""``report``: the page and the tables of a benchmark's folder."""

from __future__ import annotations

from pathlib import Path

ARGUMENTS = [("run", None, "folder of a benchmark")]


def report(
    run: str,
    title: str | None = None,
    pairs: list[list[str]] | None = None,
    against: str | None = None,
) -> None:
    """A self-contained HTML page, Markdown and LaTeX tables of a benchmark's folder; medians and
    paired tests of every quantity as CSV.

    Args:
        run: Folder of a benchmark.
        title: Heading of the page.
        pairs: Two explainers each, tested against each other image by image, such as
            [[top_02, top_03]].
        against: Folder of another benchmark over the same images, such as one of another network;
            explainers of the same name (or the pairs) are tested against each other.
    """
    from lit_iba.report import write_report

    for path in write_report(Path(run), title, pairs=pairs or (), against=against):
        print(f"wrote {path}")
