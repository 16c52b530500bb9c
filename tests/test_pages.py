"""The pages' Markdown means the same to the site (Python-Markdown) as to a code host
(CommonMark).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for pattern in ("*.md", "data/*.md", "docs/**/*.md", "lit_iba/*/README.md", "notebooks/*.md")
    for path in sorted(ROOT.glob(pattern))
]
ITEM = re.compile(r"(-|\d+\.) ")


def read_otherwise(text: str) -> Iterator[str]:
    """Lines that the two read differently: blocks within an item of a list that are indented by
    less than four spaces, and lists and tables that begin in the middle of a paragraph.
    """
    in_list, before, fenced = False, "", False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and line.strip():
            item = bool(ITEM.match(line))
            nested = in_list and not before.strip() and re.match(r" {1,3}\S| {5,7}\S", line)
            begins = bool(before.strip()) and (
                (item and not in_list) or (line.startswith("|") and not before.startswith("|"))
            )
            if nested or begins:
                yield f"line {number}: {line[:60]}"
            in_list = item or (in_list and line.startswith(" "))
        before = line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_means_the_same_everywhere(page: Path) -> None:
    assert not list(read_otherwise(page.read_text("utf-8")))
