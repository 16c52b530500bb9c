"""Names that Markdown and LaTeX would read as markup."""

from collections.abc import Callable
from pathlib import Path

from lit_iba.report import write_report


def test_a_row_that_begins_with_an_argument_is_a_row(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers={name: (0.5, {}, 0.1) for name in ("[2pt] mine", "*mine", "a $x$")})
    write_report(run)
    lines = [line.strip() for line in (run / "report.tex").read_text().splitlines()]
    assert not any(line.startswith(("[", "*")) for line in lines)
    assert any(line.startswith("{[}2pt] mine & ") for line in lines)
    assert any(line.startswith("{*}mine & ") for line in lines)
    assert r"| a \$x\$ |" in (run / "report.md").read_text()  # no mathematics
