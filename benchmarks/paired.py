"""Some methods of a benchmark against each other one: two-sided paired Wilcoxon tests on the
images' scores, not adjusted. A report tests the best method alone.

    python benchmarks/paired.py RUN METHOD [METHOD ...]
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
    given = parser.parse_args()
    run = read_run(given.run)
    for metric in run.metrics:
        rows = score_rows(run, metric)
        lines: list[dict[str, object]] = []
        for other, theirs in rows.items():
            line: dict[str, object] = {"method": other}
            for method in given.methods:
                keys = sorted(rows[method].keys() & theirs.keys())
                pair = (np.array([values[k] for k in keys]) for values in (rows[method], theirs))
                line[method] = "" if method == other else f"{signed_rank_test(*pair)[0]:.2g}"
            lines.append(line)
        show(f"{metric}: p of", lines)


if __name__ == "__main__":
    main()
