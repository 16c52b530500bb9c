"""The one exception a user is meant to read: what was given, what was expected, what to do.

Command lines print its message without a traceback and end with a non-zero exit status. It is a
``ValueError``, so that library users need not know it.
"""

import difflib
from collections.abc import Iterable


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


def unknown_name(kind: str, given: str, known: Iterable[str], hint: str = "") -> InputError:
    """Build the error for a mistyped name, with the nearest known ones in it.

    Args:
        kind: What the name stands for, such as ``"layer of resnet50"``.
        given: What the user wrote.
        known: All the names that would have been right.
        hint: Where the full list is to be had.
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    guess = (
        f"did you mean {' or '.join(repr(name) for name in near)}?"
        if near
        else f"known: {', '.join(known[:12])}"
    )
    return InputError(f"{given!r} is not a known {kind}; {guess}{' ' + hint if hint else ''}")
