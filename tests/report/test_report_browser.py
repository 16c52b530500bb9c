"""The page in a real browser, at the width of a desk and of a phone: nothing complains, nothing
sticks out, all works.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from lit_iba.report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

COLUMN = """
[...document.querySelector("#metric-0 table").tBodies[0].rows]
    .map(row => row.cells[%d].dataset.value)
"""
STICKS_OUT = """[...document.querySelectorAll("body *")].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, nav, pre, svg, dialog")
  ).map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_page_works_without_a_complaint(make_run: Callable[..., Path], width: int) -> None:
    run = make_run()
    write_report(run)
    with Browser(width) as browser:
        browser.open(run / "report.html")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.evaluate(STICKS_OUT) == []

        scores = [float(value) for value in browser.evaluate(COLUMN % 1)]
        head = "document.querySelectorAll('#metric-0 thead th button')[1]"
        browser.evaluate(f"{head}.click(), {head}.click()")  # the first click sorts from the best
        assert [float(value) for value in browser.evaluate(COLUMN % 1)] == sorted(scores)
        assert scores != sorted(scores)

        shown = (
            "[...document.querySelectorAll('.pictures .layer')].filter(e =>"
            " getComputedStyle(e).visibility == 'visible')"
        )
        names = f"[...new Set({shown}.map(e => e.alt))]"
        first = browser.evaluate(names)
        browser.evaluate("document.querySelectorAll('.switch button')[3].click()")
        second = browser.evaluate(names)
        assert len(first) == len(second) == 1
        assert first != second

        # A number of the tables leads to the pictures that made it.
        assert browser.evaluate("document.querySelector('.order').hidden")
        browser.evaluate("document.querySelectorAll('#results a.made')[1].click()")
        layer = ".pictures .layer.on"
        by_score = browser.evaluate(
            f"[...document.querySelectorAll('{layer}')].map(e => +e.dataset.scores.split(' ')[1])"
        )
        assert by_score == sorted(by_score, reverse=True)
        assert len(by_score) == 2
        assert browser.evaluate("document.querySelector('.order b').textContent") == (
            "Bounding box of IBA Per-Sample"
        )
        browser.evaluate("document.querySelector('.order button').click()")
        ids = browser.evaluate("[...document.querySelectorAll('.pictures figure')].map(e => e.id)")
        assert ids == ["picture-0", "picture-1"]

        browser.evaluate("document.querySelector('.pictures .stage').click()")
        assert (
            browser.evaluate("document.querySelectorAll('dialog[open] .compare figure').length")
            == 6
        )
        assert browser.complaints == []


def test_browser_would_notice(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<div style='width:3000px'>wide</div><script>console.error('x'); missing()</script>"
    )
    with Browser(390) as browser:
        browser.open(page)
        assert len(browser.complaints) == 2
        assert browser.evaluate("document.documentElement.scrollWidth > 390")


CONTRAST = """(() => {
  const size = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = text => text.match(/[0-9.]+/g).slice(0, 3).map(v => size(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const e of document.querySelectorAll("main *, footer *")) {
    const said = [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (e.closest("svg") || !said) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) found.push(e.outerHTML);
  }
  return found;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_letters_stand_out_as_wcag_asks(make_run: Callable[..., Path], scheme: str) -> None:
    run = make_run()
    write_report(run)
    with Browser(1280) as browser:
        browser.open(f"{(run / 'report.html').as_uri()}#theme={scheme}")
        assert browser.evaluate(CONTRAST) == []
