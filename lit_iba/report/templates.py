"""The one jinja environment: every page is made by templates that lie beside the code which fills
them.

Whatever a template prints is escaped, unless it is ``Markup``, which only templates and this
package's own constants are; so a name, a key or a setting from a user's data stays text. A name
that a template does not get is an error.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lit_iba.report.curves import color_class
from lit_iba.report.naming import interval, number, p_value, printed, seconds

__all__ = ["Markup", "environment", "own_text", "render"]


@cache
def environment() -> Environment:
    """The environment; templates are named by their path below ``lit_iba``."""
    made = Environment(
        loader=PackageLoader("lit_iba", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (color_class, interval, number, p_value, printed, seconds)
    made.filters |= {function.__name__: function for function in filters}
    return made


def render(template: str, **values: Any) -> Markup:
    """A template filled with values, as HTML that other templates do not escape again."""
    return Markup(environment().get_template(template).render(values))


def own_text(name: str) -> Markup:
    """A style sheet or script of this package, which goes into a page as it is."""
    loader = environment().loader
    assert loader is not None
    return Markup(loader.get_source(environment(), name)[0])
