"""Writes the reports of a run: HTML page, Markdown with plots, LaTeX table. Nothing is computed
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_iba.files import write_text
from lit_iba.report.curves import colors_of
from lit_iba.report.latex import latex
from lit_iba.report.markdown import markdown
from lit_iba.report.page import page
from lit_iba.report.plots import remove_other_plots, write_layer_plots, write_plots
from lit_iba.report.quantities import Paired, Spread, as_csv, paired, spreads
from lit_iba.report.run_folder import read_run
from lit_iba.report.tables import build_tables


def write_report(
    run: str | Path,
    title: str | None = None,
    *,
    pictures: int = 24,
    pairs: Sequence[Sequence[str]] = (),
    others: Sequence[str | Path] = (),
) -> list[Path]:
    """Report a finished benchmark.

    Args:
        run: The run folder with results.json; rows.csv, gallery.safetensors, config.yaml and
            command.txt are used where they are there.
        title: Heading; by default one with the classifier's name.
        pictures: How many gallery pictures the page shows at most.
        pairs: Two explainers each, to be tested against each other image by image, see
            :func:`~lit_iba.report.quantities.paired`.
        others: Folders of further runs over the same images, whose methods are compared with those
            of the same name here, or of ``pairs``.

    Returns:
        The files written: report.html, report.md, report.tex, quantities.csv (mean, median and
        quartiles of all that rows.csv holds), paired.csv where something is compared, the plots of
        the Markdown report, and plots over layers where explainers are numbered.

    Raises:
        InputError: A file of a run folder is missing or damaged (the message names it and the
            mend), or the methods of a pair cannot be compared.

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
    further = [read_run(other) for other in others]
    tests = paired(folder, pairs, further)
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
        "report.html": page(folder, tables, heading, pictures, further),
        "report.md": markdown(folder, tables, plots, heading, further),
        "report.tex": latex(folder, tables, heading),
        "quantities.csv": as_csv(spreads(folder), Spread),
    }
    if tests:
        texts["paired.csv"] = as_csv(tests, Paired)
    for name, text in texts.items():
        write_text(folder.path / name, text)
    drawn = [path for paths in plots.values() for path in paths]
    drawn += write_layer_plots(folder, folder.path / "plots")
    remove_other_plots(folder.path / "plots", drawn)
    return [*(folder.path / name for name in texts), *drawn]
