"""Small pieces of the page that several sections share: cells, column heads, anchors."""

from __future__ import annotations

from html import escape

from lit_iba.report.naming import number
from lit_iba.report.run_folder import MetricInfo
from lit_iba.report.svg import color_class
from lit_iba.report.tables import MetricRow


def anchor(kind: str, index: int) -> str:
    """Identity of a section that does not depend on a user's names."""
    return f"{kind}-{index}"


def better_text(info: MetricInfo) -> str:
    """Which direction is better, with an arrow."""
    return "↓ lower is better" if info.better == "lower" else "↑ higher is better"


def sortable(text: str, first: str, below: str = "") -> str:
    """Head of a column; ``first`` is the order of the first click, ``"ascending"`` or ``"descending"``."""
    small = f"<small>{escape(below)}</small>" if below else ""
    return f'<th scope="col" data-first="{first}"><button type="button">{escape(text)}</button>{small}</th>'


def method_cell(label: str, color: int, name: str = "") -> str:
    """A method's name with its colour."""
    title = f' title="{escape(name)}"' if name and name != label else ""
    swatch = f'<span class="swatch {color_class(color)}"></span>'
    text = escape(label).replace("_", "_<wbr>")  # so that a long name breaks between its words
    return f'<span class="name"{title}>{swatch}<span>{text}</span></span>'


def score_cell(row: MetricRow) -> str:
    """Mean and standard error, bold where the rule says so; sorts by the full number."""
    text = number(row.result.score)
    text = f"<strong>{text}</strong>" if row.bold else text
    tie = '<span class="tie" title="not separated from the best mean">≈</span>' if row.tied else ""
    error = f"<small>± {number(row.result.standard_error)}</small>"
    return f'<td data-value="{row.result.score!r}">{tie}{text}{error}</td>'
