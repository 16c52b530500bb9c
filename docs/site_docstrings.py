"""How the site reads docstrings: examples as code, and roles of reStructuredText as names."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|mod|meth|attr|data):`~?(?:[\w.]*\.)?(\w+)`")


class SiteDocstrings(griffe.Extension):
    """Rewrites them before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that is loaded."""
        if obj.docstring is not None:
            text = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
            obj.docstring.value = ROLE.sub(r"`\1`", text)
