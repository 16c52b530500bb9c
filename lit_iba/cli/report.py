"""``report``: the page and the tables of a benchmark's folder."""

from __future__ import annotations

from pathlib import Path

ARGUMENTS = [("runs", "+", "folder of a benchmark, and of others to compare it with")]


def report(
    runs: list[str],
    title: str | None = None,
    pairs: list[list[str]] | None = None,
) -> None:
    """A self-contained HTML page, Markdown and LaTeX tables of a benchmark's folder; medians and
    paired tests of every quantity as CSV.

    Args:
        runs: Folder of a benchmark, where the report is written; and of others over the same
            images, such as of another network: explainers of the same name (or the pairs) are
            compared.
        title: Heading of the page.
        pairs: Two explainers each, tested against each other image by image, such as
            [[top_02, top_03]]. A name with ``*``, ``?`` or ``[1-9]`` is the mean of all that match,
            such as ["activity_*", "bias_*"].
    """
    from lit_iba.report import write_report

    run, *others = runs
    for path in write_report(Path(run), title, pairs=pairs or (), others=others):
        print(f"wrote {path}")
