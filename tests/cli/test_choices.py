"""Settings below a mapping, given one by one: nothing that was given is lost."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_iba.cli.choices import ChoicesInOneSentence
from lit_iba.cli.main import _parsed, main

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = st.sampled_from(["layer", "beta", "gan", "resize", "a_b"])
VALUES = st.one_of(
    st.integers(-9, 9),
    st.floats(0.001, 1000).map(lambda x: float(f"{x:.3g}")),
    st.booleans(),
    st.none(),
    st.sampled_from(["none", "layer2", "blocks.2", "2", "0.10", "1e3", "null", "true", "[1]", ""]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
PLAIN = ("none", "layer2", "blocks.2")  # texts that need no quotes
BELOW = st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)
NESTED = st.dictionaries(
    NAMES,
    st.one_of(VALUES, BELOW, st.dictionaries(NAMES, BELOW, min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)


def one_by_one(values: Mapping[str, Any], before: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from one_by_one(value, f"{before}.{name}")
        else:
            yield f"{before}.{name}={value if value in PLAIN else json.dumps(value)}"


@settings(max_examples=60, deadline=None)
@given(NESTED, st.randoms())
def test_settings_given_one_by_one_are_the_mapping(values: dict[str, Any], order: Any) -> None:
    parser = ChoicesInOneSentence(exit_on_error=False)
    parser.add_argument("--settings", type=dict[str, Any] | None)
    arguments = list(one_by_one(values, "--settings"))
    order.shuffle(arguments)
    assert parser.parse_args(arguments).settings == values


@settings(max_examples=60, deadline=None)
@given(NESTED)
def test_settings_of_a_config_are_what_it_says(values: dict[str, Any]) -> None:
    """Texts in quotes are texts: a layer of an ``nn.Sequential`` is called "2" or "0.10"."""
    parser = ChoicesInOneSentence(exit_on_error=False)
    parser.add_argument("--settings", type=dict[str, Any] | None)
    parser.add_argument("--config", action="config")
    written = json.dumps({"settings": values})
    assert parser.parse_args([f"--config={written}"]).settings == values
    assert parser.parse_args([f"--settings={json.dumps(values)}"]).settings == values


BENCHMARK = ["--data=d", "--out=o", "--explainers={}"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            ["--metrics.degradation.tile=8", "--metrics.degradation.points=9"],
            {"metrics": {"degradation": {"tile": 8, "points": 9}}},
        ),
        (
            [
                "--metrics={}",
                '--classifier={"preprocessing": {"resize": 128, "mean": [0, 0, 0]}}',
                "--classifier.preprocessing.resize=144",
                "--classifier.preprocessing.crop=112",
                "--classifier.model=resnet18",
            ],
            {
                "classifier": {
                    "preprocessing": {"resize": 144, "mean": [0, 0, 0], "crop": 112},
                    "model": "resnet18",
                }
            },
        ),
    ],
)
def test_a_benchmark_keeps_what_it_was_given(arguments: list[str], wanted: dict[str, Any]) -> None:
    _, found = _parsed("benchmark", [*BENCHMARK, *arguments], "evaluate.py")
    assert {name: found[name] for name in wanted} == wanted


def test_an_argument_leaves_the_rest_of_a_config() -> None:
    config = CONFIGS / "evaluate" / "iba_figure6_sensitivity_resnet18_112.yaml"
    _, found = _parsed(
        "benchmark",
        [f"--config={config}", "--data=d", "--classifier.preprocessing.crop=96"],
        "evaluate.py",
    )
    before = yaml.safe_load(config.read_text())["classifier"]
    wanted = {**before, "preprocessing": {**before["preprocessing"], "crop": 96}}
    assert found["classifier"] == wanted


def test_a_training_keeps_what_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(
            [
                "fit",
                f"--config={CONFIGS / 'train' / 'readout_resnet50.yaml'}",
                "--model.classifier.preprocessing.resize=128",
                "--model.classifier.preprocessing.crop=112",
                "--model.classifier.preprocessing.interpolation=bicubic",
                "--print_config",
            ],
            "train.py",
        )
    found = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["classifier"]
    assert found == {
        "model": "resnet50",
        "weights": "IMAGENET1K_V1",
        "preprocessing": {"resize": 128, "crop": 112, "interpolation": "bicubic"},
    }
