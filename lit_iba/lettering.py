"""Words in a picture: matplotlib's font lacks most of the world's letters, and room is short."""

from __future__ import annotations

from matplotlib.font_manager import FontProperties, findfont, get_font

MOST = 44  # letters of a name beside a plot, which leave room for the plot


def drawn_letters(text: str) -> str:
    r"""Text as a picture can have it: a letter that the font lacks by its code, since its empty box
    would be that of any other.

    Example:
        >>> from lit_iba.lettering import drawn_letters
        >>> drawn_letters("金鱼 73%")
        '\\u91d1\\u9c7c 73%'
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(
        letter if ord(letter) in known or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def plain_text(text: str) -> str:
    """Text that matplotlib shall not read as mathematics."""
    return drawn_letters(text).replace("$", r"\$")


def name_beside(text: str) -> str:
    """A name beside a plot: of a very long one the middle is left out, and a first underscore does
    not hide it from the legend.
    """
    text = drawn_letters(text)
    if len(text) > MOST:
        text = f"{text[: MOST // 2]}…{text[1 - MOST // 2 :]}"
    return (" " if text.startswith("_") else "") + plain_text(text)
