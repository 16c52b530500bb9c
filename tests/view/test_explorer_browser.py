"""The explorer in a real browser: it loads, the slider asks the classifier, methods and maps of
one's own appear, and nothing complains.
"""

import threading
import time
from queue import Queue
from typing import Any

import pytest
import uvicorn
from browser import CHROMIUM, Browser

from lit_iba.view import ExplorerSession, LiveClassifier, explorer_app
from lit_iba.view.server import listening
from lit_iba.view.worker import Worker

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


def until(browser: Browser, script: str, seconds: float = 20) -> Any:
    """The script's value, once it is true."""
    end = time.monotonic() + seconds
    while not (found := browser.evaluate(script)):
        assert time.monotonic() < end, f"{script} stays {found}"
        time.sleep(0.02)
    return found


@pytest.fixture
def address(session: ExplorerSession) -> Any:
    """Where the page is served, by the same server as ever, in a thread."""
    worker, where, ready = Worker(), listening(None), Queue[str]()
    config = uvicorn.Config(
        explorer_app(session, "token", worker), log_level="error", ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [where]})
    thread.start()
    ready.put(f"http://127.0.0.1:{where.getsockname()[1]}/token/")
    yield ready.get()
    server.should_exit = True
    thread.join()
    worker.close()
    where.close()


TOP = "document.querySelector('#panels figure .top5')?.textContent"
SET = "((id, value) => { $(id).value = value; $(id).dispatchEvent(new Event('input')); })"


def test_the_page_asks_and_shows_without_a_complaint(
    address: str, session: ExplorerSession
) -> None:
    with Browser(1280) as browser:
        browser.open(address)
        whole = until(browser, TOP)
        assert browser.evaluate("document.querySelectorAll('#panels figure').length") == 2
        until(browser, f"document.querySelectorAll('#pictures img').length === {len(session.keys)}")

        # The slider removes pixels: what is shown and what the classifier says change.
        before = browser.evaluate("document.querySelector('#panels .base').src")
        browser.evaluate(f"{SET}('fraction', 60)")
        until(browser, f"document.querySelector('#panels .base').src !== {before!r}")
        assert browser.evaluate("$('said').textContent").startswith("154 of 256 pixels are gone")
        assert until(browser, TOP) != whole
        until(browser, "document.querySelector('#panels .trail path') !== null")

        # A method goes when its button is pressed, and comes back.
        button = "document.querySelector('#methods button[data-method=random]')"
        for count in (1, 2):
            browser.evaluate(f"{button}.click()")
            until(browser, f"document.querySelectorAll('#panels figure').length === {count}")

        # Zoom is shared; the cursor reads every map.
        browser.evaluate("$('zoom-in').click()")
        moved = browser.evaluate(
            "[...new Set([...document.querySelectorAll('.sheet')].map(e => e.style.transform))]"
        )
        assert len(moved) == 1
        assert "scale(1.5)" in moved[0]
        place = browser.evaluate(
            "(r => [r.x + r.width / 2, r.y + r.height / 2])"
            "(document.querySelector('#panels .stage').getBoundingClientRect())"
        )
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        until(browser, "$('cursor').textContent === 'x 8, y 8'")
        read = browser.evaluate("[...document.querySelectorAll('.here')].map(e => e.textContent)")
        assert read[0].endswith("bits in this pixel")
        assert read[1].endswith("(no unit: order only)")

        # Colours have their meaning beside them: bits, signs, or none but their order.
        def legend(of: str) -> list[Any]:
            made = f"(e => {{ scale(e, {of}); return [e.hidden, e.textContent]; }})"
            return browser.evaluate(f"{made}(document.createElement('div'))")

        assert legend("{low: '0', high: '2', signs: false}") == [False, "0  2 bits per pixel"]
        assert legend("{low: '', high: '', signs: true}") == [
            False,
            "against  for what is explained",
        ]
        assert legend("{low: '', high: '', signs: false}")[0]

        # A bottleneck of one's own comes with progress, as a third panel.
        browser.evaluate("$('optimise').click()")
        until(browser, "document.querySelectorAll('#panels figure').length === 3")
        assert browser.evaluate("$('iba-said').textContent").startswith("Done: layer2, β 5")
        assert browser.evaluate("$('progress').hidden")

        browser.evaluate("document.querySelectorAll('#pictures button')[1].click()")
        until(browser, "document.querySelectorAll('#panels figure').length === 2")
        assert browser.evaluate("document.querySelectorAll('#places .place').length") == 4
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.complaints == []


def test_what_the_page_asks_by_itself_does_not_stop_the_map_that_a_reader_asked_for(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, explained = LiveClassifier.removed, LiveClassifier.explained

    def slowly(answer: Any) -> Any:
        def answered(*given: Any) -> Any:
            time.sleep(0.4)
            return answer(*given)

        return answered

    monkeypatch.setattr(LiveClassifier, "removed", slowly(removed))
    monkeypatch.setattr(LiveClassifier, "explained", slowly(explained))
    button = "document.querySelector('#methods button[data-method=random]')"
    with Browser(1280) as browser:
        browser.open(address)
        until(browser, TOP)
        # The first click asks; the second has a question that waits; a third has its panel to load.
        browser.evaluate(f"{button}.click()")
        until(browser, "document.querySelectorAll('#panels figure').length === 1")
        browser.evaluate(f"{button}.click()")
        until(browser, "document.querySelectorAll('#panels figure').length === 2")
        browser.evaluate("$('optimise').click()")
        browser.evaluate(f"{button}.click()")
        until(browser, "document.querySelectorAll('#panels figure').length === 2")
        until(browser, "$('iba-said').textContent.startsWith('Done')")
        until(browser, "[...document.querySelectorAll('.top5')].every(e => e.textContent)")
        assert browser.complaints == []


def test_a_reader_with_a_keyboard_keeps_the_place(address: str) -> None:
    with Browser(1280) as browser:

        def press(key: str, code: int, text: str = "") -> None:
            given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
            browser.call("Input.dispatchKeyEvent", type="keyUp", **given)

        browser.open(address)
        until(browser, TOP)
        button = "document.querySelector('#methods button[data-method=random]')"
        browser.evaluate(f"{button}.focus()")
        press("Enter", 13, "\r")
        until(browser, "document.querySelectorAll('#panels figure').length === 1")
        assert browser.evaluate("document.activeElement.dataset.method") == "random"
        # An enlarged map is moved by arrow keys.
        browser.evaluate("$('zoom-in').click(); document.querySelector('.stage').focus()")
        before = browser.evaluate("state.x")
        press("ArrowRight", 39)
        assert browser.evaluate("state.x") < before
        # The run's own weight, which no step of 0.05 of its logarithm meets.
        assert browser.evaluate("$('beta-value').textContent") == "5"
        # Who comes back finds the same choices, and what they say.
        browser.evaluate("$('boxes').click()")
        browser.open("about:blank")
        entries = browser.call("Page.getNavigationHistory")["entries"]
        browser.call("Page.navigateToHistoryEntry", entryId=entries[-2]["id"])
        until(browser, "typeof $ === 'function' && $('panels')?.querySelector('figure') !== null")
        hidden = browser.evaluate("$('panels').classList.contains('no-boxes')")
        assert hidden != browser.evaluate("$('boxes').checked")


def test_what_fails_is_said_and_leaves_no_map_of_another_picture(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: Any) -> Any:
        raise RuntimeError("out of memory")

    with Browser(1280) as browser:
        browser.open(address)
        until(browser, TOP)
        monkeypatch.setattr(LiveClassifier, "removed", failing)
        browser.evaluate(f"{SET}('fraction', 60)")
        until(browser, "$('said').textContent.startsWith('this could not be computed')")
        monkeypatch.setattr(ExplorerSession, "shown_map", failing)
        browser.evaluate("document.querySelectorAll('#pictures button')[1].click()")
        until(browser, "$('panels').textContent.startsWith('this could not be computed')")
        assert browser.evaluate("$('panels').querySelectorAll('figure').length") == 0
