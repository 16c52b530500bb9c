"""The pages' Markdown means the same to the site (Python-Markdown) as to a code host
(CommonMark).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT

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


PAIR = re.compile(r"(-?\d+\.\d+) ± (\d+\.\d+)")


def in_table(text: str) -> list[tuple[str, str]]:
    rows = [line for line in text.split("\n") if line.startswith("|")]
    return [pair for row in rows for pair in PAIR.findall(row)]


def is_rounded(short: tuple[str, str], long: tuple[str, str]) -> bool:
    """Whether a mean and its error are those of a page, to as many digits as they have."""
    return all(
        abs(float(a) - float(b)) <= 0.501 * 10.0 ** -len(a.split(".")[1])
        for a, b in zip(short, long, strict=True)
    )


@pytest.mark.parametrize(
    "room", sorted(ROOT.glob("lit_iba/*/README.md")), ids=lambda p: p.parent.name
)
def test_the_numbers_of_a_room_stand_in_a_table_of_a_page_that_it_links(room: Path) -> None:
    text = room.read_text("utf-8")
    links = [(room.parent / link).resolve() for link in re.findall(r"\]\((\S+?\.md)\)", text)]
    known = [pair for page in links for pair in in_table(page.read_text("utf-8"))]
    missing = [own for own in in_table(text) if not any(is_rounded(own, one) for one in known)]
    assert not missing, f"measured again since, or of a page that is not linked: {missing}"
