"""Settings in stages, each named by its own name alone."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from lit_iba.errors import InputError
from lit_iba.input_iba.settings import PRESETS, InputIBASettings, flat, settings_from, with_changes
from lit_iba.text import TextInputIBASettings

KINDS = [InputIBASettings(), TextInputIBASettings()]


def names(settings: Any) -> list[str]:
    """Every setting's name, those that stages share as often as they have it."""
    found = []
    for one in fields(settings):
        value = getattr(settings, one.name)
        found += names(value) if is_dataclass(value) else [one.name]
    return found


@pytest.mark.parametrize("settings", KINDS)
def test_each_name_belongs_to_one_stage(settings: Any) -> None:
    assert len(names(settings)) == len(set(names(settings))) == len(flat(settings))


@pytest.mark.parametrize("settings", KINDS)
def test_a_change_reaches_its_stage_and_nothing_else(settings: Any) -> None:
    for name, value in flat(settings).items():
        if isinstance(value, bool):
            other: Any = not value
        elif isinstance(value, int | float):
            other = value + 3
        else:
            continue  # a choice
        changed = with_changes(settings, {name: other})
        assert flat(changed) == flat(settings) | {name: other}


def test_what_was_flat_gives_the_same_settings_again() -> None:
    for preset, settings in PRESETS.items():
        assert settings_from(preset, {}) == settings_from("default", flat(settings)) == settings


def test_unknown_names_and_impossible_values_are_named() -> None:
    with pytest.raises(InputError, match=r"'beta_inptu' is not a known setting.*beta_input"):
        settings_from("default", {"beta_inptu": 3})
    with pytest.raises(InputError, match=r"critic_warm_up is 2\.5"):
        settings_from("default", {"critic_warm_up": 2.5})
