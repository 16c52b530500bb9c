"""What an explainer says of its maps holds for the instance, with the class's word as the
default.
"""

from typing import ClassVar, get_origin, get_type_hints

import pytest

from lit_iba.explainer import EXPLAINERS, Explainer, explainer_class


@pytest.mark.parametrize("name", EXPLAINERS)
def test_what_settings_may_change_is_an_instance_attribute(name: str) -> None:
    cls = explainer_class(name)

    hints = get_type_hints(cls)

    for attribute in ("unit", "signed", "on_step"):
        assert ClassVar not in (hints[attribute], get_origin(hints[attribute])), attribute


def test_an_explainer_has_no_unit_no_sign_and_nobody_to_tell_by_default() -> None:
    assert (Explainer.unit, Explainer.signed, Explainer.on_step) == ("1", False, None)
