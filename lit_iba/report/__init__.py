"""Reports of a benchmark: tables with tests, curves, a gallery of heatmaps, and the published
numbers beside ours.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.report.published import Published as Published
    from lit_iba.report.published import lookup as lookup
    from lit_iba.report.run_folder import RunFolder as RunFolder
    from lit_iba.report.run_folder import read_run as read_run
    from lit_iba.report.tables import MetricTable as MetricTable
    from lit_iba.report.tables import build_tables as build_tables
    from lit_iba.report.write import write_report as write_report
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.report.published": ["Published", "lookup"],
            "lit_iba.report.run_folder": ["RunFolder", "read_run"],
            "lit_iba.report.tables": ["MetricTable", "build_tables"],
            "lit_iba.report.write": ["write_report"],
        },
    )
