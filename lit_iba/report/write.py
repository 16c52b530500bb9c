"""Writes the reports of a run: HTML page, Markdown with plots, LaTeX table. Nothing is computed
again.
"""

from __future__ import annotations

from pathlib import Path

from lit_iba.files import write_text
from lit_iba.report.curves import colors_of
from lit_iba.report.latex import latex
from lit_iba.report.markdown import markdown
from lit_iba.report.page import page
from lit_iba.report.plots import write_plots
from lit_iba.report.run_folder import read_run
from lit_iba.report.tables import build_tables


def write_report(run: str | Path, title: str | None = None, *, pictures: int = 24) -> list[Path]:
    """Report a finished benchmark.

    Args:
        run: The run folder with results.json; rows.csv, gallery.safetensors, config.yaml and
            command.txt are used where they are there.
        title: Heading; by default one with the classifier's name.
        pictures: How many gallery pictures the page shows at most.

    Returns:
        The files written: report.html, report.md, report.tex, and the plots of the Markdown report.

    Raises:
        InputError: A file of the run folder is missing or damaged; the message names it and the
            mend.

    Example:
        >>> from lit_iba import Benchmark
        >>> from lit_iba.report import write_report
        >>> explainers, metrics = {"ramp": {}}, {"bounding_box": {}}
        >>> results = Benchmark(classifier, "digits/test", explainers, metrics, "run").run()
        small_cnn, 8 images, mean ± standard...
        >>> "report.html" in [path.name for path in write_report("run")]
        True
    """
    folder = read_run(run)
    tables = build_tables(folder)
    heading = (
        title
        or f"Attribution methods on {folder.classifier.get('model') or 'an unnamed classifier'}"
    )
    colors = colors_of(list(folder.explainers))
    plots = {
        table.name: write_plots(table, i, colors, folder.path / "plots")
        for i, table in enumerate(tables)
    }
    texts = {
        "report.html": page(folder, tables, heading, pictures),
        "report.md": markdown(folder, tables, plots, heading),
        "report.tex": latex(folder, tables, heading),
    }
    for name, text in texts.items():
        write_text(folder.path / name, text)
    return [
        *(folder.path / name for name in texts),
        *(path for paths in plots.values() for path in paths),
    ]
