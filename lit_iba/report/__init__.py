"""Reports of a benchmark: tables with tests, curves, a gallery of heatmaps, and the published numbers beside ours."""

from lit_iba.report.published import Published, lookup
from lit_iba.report.write import write_report

__all__ = ["Published", "lookup", "write_report"]
