"""A name that a page's Python uses is made in the same block, or in one before it."""

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT

# Their blocks are parts of a file of the reader's own.
FRAGMENTS = {ROOT / "CONTRIBUTING.md", ROOT / "docs/metrics.md"}


def unmade(text: str) -> Iterator[str]:
    made = set(vars(builtins))
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        used = set()
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.alias):
                made.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                made.add(node.name)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
        yield from sorted(used - made)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in FRAGMENTS],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_names_of_a_page_are_made_on_it(page: Path) -> None:
    assert not list(unmade(page.read_text("utf-8")))
