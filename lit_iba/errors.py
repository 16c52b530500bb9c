"""The one exception a user is meant to read: what was given, what was expected, what to do; and
text from outside as a user may read it.

Command lines print its message without a traceback and end with a non-zero exit status. It is a
``ValueError``, so that library users need not know it.
"""

import difflib
import unicodedata
from collections.abc import Iterable

# Control and format characters, halves of characters, separators of lines and paragraphs; but not
# the joiners, without which some scripts, and emoji, cannot be written.
_HIDDEN, _JOINERS = {"Cc", "Cf", "Cs", "Zl", "Zp"}, "\u200c\u200d"


def shown(text: str, keep: str = "") -> str:
    r"""Text from outside as a terminal or a page may show it: characters that nobody sees, which
    could move the cursor, write elsewhere or turn the text around, are escaped.

    Args:
        text: What is to be shown, such as a name.
        keep: Characters that stay all the same, such as the line breaks of a longer text.

    Example:
        >>> from lit_iba.errors import shown
        >>> shown("a \x1b[2Jfilm")
        'a \\x1b[2Jfilm'
    """
    if text.isprintable():
        return text
    return "".join(
        repr(c)[1:-1]
        if unicodedata.category(c) in _HIDDEN and c not in keep and c not in _JOINERS
        else c
        for c in text
    )


class InputError(ValueError):
    """Bad input from outside: a file, a name, a tensor, a setting. The message is one sentence and
    names the mend.

    Example:
        >>> from lit_iba import build_explainer
        >>> build_explainer("salience", classifier)
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: 'salience' is not a known explainer; did you mean 'saliency...
    """


def unknown_name(kind: str, given: object, known: Iterable[str], hint: str = "") -> InputError:
    """Build the error for a mistyped name, with the nearest known ones in it.

    Args:
        kind: What the name stands for, such as ``"layer of resnet50"``.
        given: What the user wrote.
        known: All the names that would have been right.
        hint: Where the full list is to be had.
    """
    if not isinstance(given, str):  # YAML's, of a name without quotes
        return InputError(f"{given!r} cannot name a {kind}, which takes a text; put it in quotes")
    known = sorted(set(known))
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    guess = (
        f"did you mean {' or '.join(repr(name) for name in near)}?"
        if near
        else f"known: {', '.join(known[:12])}"
    )
    return InputError(f"{given!r} is not a known {kind}; {guess}{' ' + hint if hint else ''}")
