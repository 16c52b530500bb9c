"""Each printed number stands beside the settings that it is of: the file says all that move a
score, and the code's word for what is left out is the file's.
"""

import inspect
from dataclasses import asdict

import pytest

from lit_iba.explainer import EXPLAINERS
from lit_iba.iba.per_sample import settings_from as per_sample_settings
from lit_iba.iba.readout import ReadoutSettings
from lit_iba.input_iba.settings import flat, settings_from, smooth_of
from lit_iba.metrics.registered import METRICS
from lit_iba.registry import class_named
from lit_iba.report.published import Published, _document, _same, all_published, lookup


def settings_of_the_code(name: str, preset: str | None = None) -> dict:
    """All settings of a metric or explainer with the values that they have when left out."""
    if name == "input_iba":
        known = flat(settings_from(preset or "default", {}))
        return known | {"layer": None, "smooth": smooth_of(known["output"], None)}
    if name == "per_sample_iba":
        return asdict(per_sample_settings(preset or "default", {})) | {"layer": None}
    if name == "readout_iba":
        return asdict(ReadoutSettings()) | {"layer": None, "taps": None}
    cls = class_named(name, "", {**EXPLAINERS, **METRICS}, object)
    found = {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return found | (cls.presets[preset] if preset else {})


def test_the_files_word_for_defaults_and_presets_is_the_codes() -> None:
    document = _document()
    words = [(name, None, given) for name, given in document["defaults"].items()]
    words += [
        (name, preset, document["defaults"].get(name, {}) | given)
        for name, presets in document["presets"].items()
        for preset, given in presets.items()
    ]
    for name, preset, wanted in words:
        known = settings_of_the_code(name, preset)
        assert all(_same(value, known[key]) for key, value in wanted.items()), (name, preset)


# Settings of which the papers' numbers hold whatever they are, or that no run can take otherwise.
FREE = {
    *("forward_batch_size", "seed", "precision", "compile", "cuda_graph", "ties", "control"),
    # Data that a run is given, and what a training decides.
    *("patterns", "background", "references", "statistics", "hidden", "taps", "tap_norm"),
    *("align_corners", "clamp_alpha"),
    # Forms between which the authors' own code and scripts differ; the order stays.
    "unit",
    *("statistics_kind", "active_threshold", "inactive", "relu_clamp", "resize_edge"),
    # Of a choice of beta that the papers do not make.
    *("wanted_probability", "beta_probes"),
    # How long the clock runs, and how finely a search looks.
    *("repeats", "warm_up", "pixels_per_step", "grid", "looks", "first_look", "noise_maps"),
}


# InputIBA's fit of the prior, of which ours and the published form both stand beside the number,
# and the optimiser of extremal perturbations, which has one published form.
FORM_OF_THE_FIT = {
    *("feature_smoothing_sigma", "feature_preset", "z_star_mask", "z_star_noise", "prior_start"),
    *("neighbourhood", "generator_steps", "samples", "mask_learning_rate", "noise_learning_rate"),
    *("step_size", "decay", "prior_smoothing_sigma", "critic", "critic_steps", "critic_warm_up"),
    *("reuse_fakes", "standardise", "lipschitz", "clip", "penalty", "critic_learning_rate"),
    *("passes", "input_noise", "initial_alpha", "input_statistics", "on_step", "preset"),
}
FORM_OF_THE_SEARCH = {
    *("learning_rate", "momentum", "cell", "sigma", "area_weight", "area_growth", "jitter"),
    "smoothing",
}


def printed_with_a_class() -> list[Published]:
    known = {**EXPLAINERS, **METRICS}
    return [
        number
        for number in all_published()
        if number.metric in known and (number.explainer in known or not number.explainer)
    ]


def whole(rule: object) -> object:
    """A value that keeps a rule."""
    if isinstance(rule, dict):
        return rule["at_least"] if "at_least" in rule else rule["one_of"][-1]
    return rule


def broken(rule: object) -> object:
    """One that does not."""
    if isinstance(rule, dict) and "at_least" in rule:
        return rule["at_least"] / 2 if isinstance(rule["at_least"], float) else rule["at_least"] - 1
    value = whole(rule)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "another"


@pytest.mark.parametrize("number", printed_with_a_class(), ids=lambda n: f"{n.table}-{n.label}")
def test_any_setting_that_is_not_the_papers_takes_a_number_away(number: Published) -> None:
    given = {
        kind: {name: whole(rule) for name, rule in rules.items()}
        for kind, rules in (("settings", number.settings), ("own", number.explainer_settings))
    }

    def found(settings: dict, own: dict) -> bool:
        arguments = (number.metric, settings, number.network or None, number.explainer or None)
        return number in lookup(*arguments, own, number.quantity)

    assert found(given["settings"], given["own"])
    for name, rule in number.settings.items():
        assert not found(given["settings"] | {name: broken(rule)}, given["own"]), name
    for name, rule in number.explainer_settings.items():
        if number.explainer:
            assert not found(given["settings"], given["own"] | {name: broken(rule)}), name


@pytest.mark.parametrize("table", ["Table 1", "Table 2", "Table 4", "Figure 4"])
def test_every_setting_that_moves_a_score_is_in_the_file(table: str) -> None:
    """A setting without a word is one that a run may change while the number still stands."""
    for number in (n for n in printed_with_a_class() if n.table == table):
        if "state" in number.explainer_settings:  # the network without any bottleneck
            continue
        for name, rules in (
            (number.metric, number.settings),
            (number.explainer, number.explainer_settings),
        ):
            free = FREE | (FORM_OF_THE_FIT if name == "input_iba" else set())
            free |= {"initial_alpha", "min_std"} if name == "readout_iba" else set()  # trained with
            free |= FORM_OF_THE_SEARCH if name == "extremal_perturbation" else set()
            silent = settings_of_the_code(name).keys() - rules.keys() - free
            assert not silent, (name, silent)
