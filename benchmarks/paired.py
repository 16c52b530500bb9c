"""Some methods of a benchmark against each other one: two-sided paired Wilcoxon tests on the
images' scores, not adjusted. A report tests the best method alone.

    python benchmarks/paired.py RUN METHOD [METHOD ...] [--beside RUN2 ...]

``--beside`` adds the methods of other runs whose metrics have the same definitions; photographs are
matched by their names.
"""

from __future__ import annotations

import argparse

import numpy as np
from timing import show

from lit_iba.report.run_folder import read_run, score_rows
from lit_iba.report.significance import signed_rank_test


def main() -> None:
    """Print a table a metric: rows are the other methods, columns those asked about."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--beside", nargs="*", default=[])
    given = parser.parse_args()
    run = read_run(given.run)
    others = [read_run(path) for path in given.beside]
    for metric, asked in run.metrics.items():
        rows = dict(score_rows(run, metric))
        for other in others:
            if metric in other.metrics and other.metrics[metric].definition == asked.definition:
                rows = {**score_rows(other, metric), **rows}
        lines: list[dict[str, object]] = []
        for name, theirs in rows.items():
            line: dict[str, object] = {"method": name}
            for method in given.methods:
                keys = sorted(rows[method].keys() & theirs.keys())
                pair = (np.array([values[k] for k in keys]) for values in (rows[method], theirs))
                line[method] = "" if method == name else f"{signed_rank_test(*pair)[0]:.2g}"
            lines.append(line)
        show(f"{metric}: p of", lines)


if __name__ == "__main__":
    main()
