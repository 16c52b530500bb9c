"""Token heatmaps as coloured text: a self-contained HTML page, and lines for the terminal; control
characters of texts are made visible in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rich.text import Text

from lit_iba.errors import shown
from lit_iba.report.templates import render
from lit_iba.text.explainer import TokenHeatmap

FOR, AGAINST = (214, 72, 32), (38, 108, 196)  # orange speaks for the target, blue against it
RED = (196, 22, 28)
MIDDLE, HIGH = 0.33, 0.66  # shares at which words of InputIBA's table 1 become orange, and red
STRONGEST = 0.72  # opacity of the largest value, at which black and white text can still be read
PALE, DARK = (
    0.12,
    0.6,
)  # in the terminal: words weaker than this share have no colour; stronger than that, white letters

Highlight = Literal["shares", "levels"]


def ground(strength: float, highlight: Highlight) -> tuple[tuple[int, int, int], float]:
    """Colour of a word's ground and how much of it there is, in [0, 1].

    Args:
        strength: Share of the text's largest magnitude, in [-1, 1].
        highlight: ``"shares"``: orange or blue, the more the larger the share; ``"levels"``: orange
            from 0.33 and red from 0.66 on, as in table 1 of InputIBA, where nothing speaks against.
    """
    if highlight == "shares":
        return FOR if strength >= 0 else AGAINST, abs(strength)
    return RED if strength >= HIGH else FOR, float(strength >= MIDDLE)


def strengths(heatmap: TokenHeatmap) -> list[float]:
    """Values as shares of the largest magnitude of the text, in [-1, 1]."""
    largest = float(heatmap.values.abs().max()) or 1.0
    shares = (heatmap.values / largest).tolist()
    return shares if heatmap.signed else [max(share, 0.0) for share in shares]


def facts(heatmap: TokenHeatmap, class_names: Sequence[str]) -> str:
    """What is explained and how, in a line: what special tokens have is told apart, and how much of
    the text was not read.
    """
    known, unit = heatmap.unit != "1", heatmap.unit
    total = f", {heatmap.total:.1f} {unit} in {len(heatmap.tokens)} words" if known else ""
    apart = ", ".join(f"{value:.1f} in {token}" for token, value in heatmap.special if value)
    cut = heatmap.read.cut if heatmap.read is not None else 0
    return shown(
        f"{heatmap.method}: {class_names[heatmap.target]} (probability"
        f" {heatmap.probability:.3f}){total}"
        + (f"; apart from them {apart}" if apart and known else "")
        + (f"; {cut} tokens at the end were not read" if cut else "")
    )


def gaps(heatmap: TokenHeatmap) -> list[str]:
    """What stands before each word and after the last one, so that all together are the text as it
    was given; spaces where the classifier's words are not cut out of it.
    """
    if heatmap.read is None:
        return ["", *[" "] * (len(heatmap.tokens) - 1), ""]
    return heatmap.read.gaps()


def html_page(
    texts: Sequence[tuple[str, Sequence[TokenHeatmap]]],
    class_names: Sequence[str],
    highlight: Highlight = "shares",
) -> str:
    """A page of texts, each under its name, with a paragraph for each of its heatmaps. Everything
    is escaped, control characters too.
    """
    rows = [
        (shown(name), [(facts(h, class_names), _words(h, highlight), _rest(h)) for h in heatmaps])
        for name, heatmaps in texts
    ]
    signed = any(heatmap.signed for _, heatmaps in texts for heatmap in heatmaps)
    return str(render("text/tokens.html", texts=rows, legend=_legend(highlight, signed)))


def _legend(highlight: Highlight, signed: bool) -> str:
    """What the grounds of the words mean."""
    if highlight == "levels":
        return "Orange: from a third of the text's largest value; red: from two thirds"
    if signed:
        return "Orange speaks for the class, blue against it; the stronger, the more"
    return "The stronger the orange, the larger the value, up to the text's largest"


def notebook_html(heatmap: TokenHeatmap, highlight: Highlight = "shares") -> str:
    """The words of a text on coloured ground, as notebooks show them."""
    return str(render("text/words.html", words=_words(heatmap, highlight), rest=_rest(heatmap)))


def _visible(text: str) -> str:
    """A part of a text, whose lines stay lines."""
    return shown(text.replace("\r\n", "\n"), keep="\n\t")


def _rest(heatmap: TokenHeatmap) -> str:
    """What is shown behind the last word."""
    return _visible(gaps(heatmap)[-1])


def _words(heatmap: TokenHeatmap, highlight: Highlight) -> list[dict[str, Any]]:
    """What the page shows of each word."""
    unit, before = "" if heatmap.unit == "1" else f" {heatmap.unit}", gaps(heatmap)
    return [
        {
            "before": _visible(before[i]),
            "token": _visible(heatmap.tokens[i]),
            "known": heatmap.known[i],
            "value": f"{float(heatmap.values[i]):.4g}{shown(unit)}",
            "color": ",".join(map(str, ground(strength, highlight)[0])),
            "opacity": ground(strength, highlight)[1] * STRONGEST,
        }
        for i, strength in enumerate(strengths(heatmap))
    ]


def terminal_text(heatmap: TokenHeatmap, highlight: Highlight = "shares") -> Text:
    """The words on coloured ground, with letters that can be read on it; weak ones as the terminal
    has them.
    """
    line, before = Text(), gaps(heatmap)
    for i, (token, strength) in enumerate(zip(heatmap.tokens, strengths(heatmap), strict=True)):
        line.append(_visible(before[i]))
        token = _visible(token)
        colour, share = ground(strength, highlight)
        if share < PALE:
            line.append(token)
        else:
            red, green, blue = (round(255 + share * (c - 255)) for c in colour)
            line.append(
                token, style=f"{'white' if share > DARK else 'black'} on rgb({red},{green},{blue})"
            )
    line.append(_rest(heatmap), style="dim")
    return line
