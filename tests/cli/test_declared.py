"""Commands take the arguments of the classes behind them, which are declared there and nowhere
else.
"""

import importlib
import inspect
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lit_iba.cli.declared import with_arguments_of
from lit_iba.registry import class_named

BEHIND = {
    "benchmark": ("lit_iba.evaluation.benchmark.Benchmark", {"classifier"}),
    "survey": ("lit_iba.activity.survey.SurveySettings", set()),
    "roar": ("lit_iba.evaluation.roar.Roar", {"classifier"}),
    "text_benchmark": ("lit_iba.text.benchmark.TextBenchmark", {"classifier", "reviews", "source"}),
    "uncertainty": ("lit_iba.varsal.uncertainty_run.UncertaintySettings", {"corruptions"}),
}


def listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", BEHIND)
def test_a_command_takes_what_its_class_takes(name: str) -> None:
    path, own = BEHIND[name]
    command = getattr(importlib.import_module(f"lit_iba.cli.{name}"), name)
    taken = inspect.signature(command).parameters
    known = inspect.signature(class_named(path, "class", {}, object)).parameters
    assert own <= set(known)
    for argument in known.keys() - own:
        assert taken[argument].default == listed(known[argument].default), argument
        assert f"\n    {argument}: " in command.__doc__
        assert f"\n    {argument}: \n" not in command.__doc__, "an argument without a description"


def test_what_a_command_declares_itself_is_its_own() -> None:
    given: dict[str, Any] = {}

    @with_arguments_of(
        "lit_iba.varsal.uncertainty_run.UncertaintySettings", leave=("corruptions", "gallery")
    )
    def command(out: str, seed: int = 7, **settings: Any) -> None:
        """Do it.

        Args:
            out: Folder.
            seed: My own.
        """
        given.update(settings, out=out, seed=seed)

    parser = ArgumentParser()
    parser.add_function_arguments(command)
    help_text = parser.format_help()
    assert "My own." in help_text
    assert "Of each corruption, from 1 to 5" in help_text
    assert "gallery" not in help_text
    command(
        **parser.parse_args(
            ["--out", "here", "--severities", "[2]", "--severities+", "3"]
        ).as_dict()
    )
    assert (given["out"], given["seed"], given["severities"]) == ("here", 7, [2, 3])
