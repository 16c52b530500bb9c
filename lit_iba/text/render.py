"""Token heatmaps as coloured text: a self-contained HTML page, and lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rich.text import Text

from lit_iba.text.explainer import TokenHeatmap

FOR, AGAINST = (214, 72, 32), (38, 108, 196)  # orange speaks for the target, blue against it
STRONGEST = 0.72  # opacity of the largest value, at which black and white text can still be read
PALE, DARK = (
    0.12,
    0.6,
)  # in the terminal: words weaker than this share have no colour; stronger than that, white letters

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.9 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .2rem; } .facts { opacity: .7; font-size: .85rem; margin: 0 0 .4rem; }
.word { border-radius: .25em; padding: .1em .18em; }
.unknown { text-decoration: underline dotted; text-underline-offset: .25em; }
"""


def strengths(heatmap: TokenHeatmap) -> list[float]:
    """Values as shares of the largest magnitude of the text, in [-1, 1]."""
    largest = float(heatmap.values.abs().max()) or 1.0
    shares = (heatmap.values / largest).tolist()
    return shares if heatmap.signed else [max(share, 0.0) for share in shares]


def facts(heatmap: TokenHeatmap, class_names: Sequence[str]) -> str:
    """What is explained and how, in a line."""
    total = f", {heatmap.total:.1f} {heatmap.unit} in {len(heatmap.tokens)} words" if heatmap.unit != "1" else ""
    return f"{heatmap.method}: {class_names[heatmap.target]} (probability {heatmap.probability:.3f}){total}"


def html_page(texts: Sequence[tuple[str, Sequence[TokenHeatmap]]], class_names: Sequence[str]) -> str:
    """A page of texts, each under its name, with a paragraph for each of its heatmaps. Everything is escaped."""
    parts = []
    for name, heatmaps in texts:
        parts.append(f"<h2>{escape(name)}</h2>")
        for heatmap in heatmaps:
            parts.append(f'<p class="facts">{escape(facts(heatmap, class_names))}</p>')
            parts.append(f"<p>{' '.join(_span(heatmap, i, s) for i, s in enumerate(strengths(heatmap)))}</p>")
    legend = "Orange speaks for the class, blue against it; dotted: the classifier does not know the word."
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>Token heatmaps</title>\n'
        f'<style>{STYLE}</style>\n<p class="facts">{legend}</p>\n' + "\n".join(parts) + "\n</html>\n"
    )


def _span(heatmap: TokenHeatmap, i: int, strength: float) -> str:
    red, green, blue = FOR if strength >= 0 else AGAINST
    unit = "" if heatmap.unit == "1" else f" {heatmap.unit}"
    kind = "word" if heatmap.known[i] else "word unknown"
    return (
        f'<span class="{kind}" title="{float(heatmap.values[i]):.4g}{escape(unit)}" '
        f'style="background:rgba({red},{green},{blue},{abs(strength) * STRONGEST:.3f})">{escape(heatmap.tokens[i])}</span>'
    )


def terminal_text(heatmap: TokenHeatmap) -> Text:
    """The words on coloured ground, with letters that can be read on it; weak ones as the terminal has them."""
    line = Text()
    for token, strength in zip(heatmap.tokens, strengths(heatmap), strict=True):
        share = abs(strength)
        if share < PALE:
            line.append(token)
        else:
            colour = FOR if strength >= 0 else AGAINST
            red, green, blue = (round(255 + share * (c - 255)) for c in colour)
            line.append(token, style=f"{'white' if share > DARK else 'black'} on rgb({red},{green},{blue})")
        line.append(" ")
    return line
