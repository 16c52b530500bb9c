"""The printed numbers, spot-checked against the papers, and their lookup."""

import inspect

import pytest

from lit_iba.explainer import EXPLAINERS
from lit_iba.metrics.registered import METRICS
from lit_iba.registry import class_named
from lit_iba.report.published import (
    _canonical_names,
    all_published,
    canonical,
    lookup,
)

AS_OF_SALIENCY = {"multiply_by_inputs": False, "channels": "max_abs"}
AS_THE_AUTHORS = {"baseline": "mean_of_image", "points": 100, "t1": "top1"}


@pytest.mark.parametrize(
    ("metric", "settings", "network", "explainer", "value"),
    [
        ("degradation", AS_THE_AUTHORS | {"tile": 8}, "resnet50", "per_sample_iba", 0.572),
        ("degradation", AS_THE_AUTHORS | {"tile": 14}, "vgg16", "guided_grad_cam", 0.576),
        ("degradation", AS_THE_AUTHORS | {"tile": 14}, "resnet50", "guided_grad_cam", 0.577),
        ("degradation", AS_THE_AUTHORS | {"tile": [14, 14]}, "ResNet-50", "occlusion_8", 0.130),
        ("degradation", AS_THE_AUTHORS | {"tile": 8}, "vgg16", "lrp_alpha0_beta1", 0.462),
        (
            "lit_iba.metrics.BoundingBox",
            {"limit": 0.33},
            "resnet50",
            "lit_iba.baselines.gradient.RandomMap",
            0.167,
        ),
        ("bbox", {}, "VGG-16", "lit_iba.iba.per_sample.PerSampleIBA", 0.593),
        ("bounding_box", {}, "vgg16", "pattern_attribution", 0.404),
        ("effective_heat_ratio", {"preset": "reference"}, "vgg16", "integrated_gradients", 0.155),
    ],
)
def test_spot_checks(
    metric: str, settings: dict, network: str, explainer: str, value: float
) -> None:
    assert [number.value for number in lookup(metric, settings, network, explainer)] == [value]


@pytest.mark.parametrize(
    ("explainer", "given", "value"),
    [  # as docs/reproduction runs them
        ("per_sample_iba", {"layer": "layer2", "beta": 10.0}, 0.571),
        ("integrated_gradients", {"steps": 20} | AS_OF_SALIENCY, 0.424),
        ("smoothgrad", {"samples": 20, "channels": "max_abs"}, 0.502),
        ("grad_cam", {}, 0.541),
        ("occlusion_14", {}, 0.231),
        ("saliency", {}, 0.305),
        ("readout_iba", {"checkpoint": "best.ckpt", "beta": 10.0}, 0.536),
        # and as nobody printed them
        ("readout_iba", {"checkpoint": "best.ckpt"}, None),  # trained with who knows what
        ("per_sample_iba", {"layer": "layer4", "beta": 10.0}, None),
        ("per_sample_iba", {"layer": "layer2", "steps": 1}, None),
        ("integrated_gradients", {"steps": 3} | AS_OF_SALIENCY, None),
        ("smoothgrad", {"samples": 1, "channels": "max_abs"}, None),
        ("grad_cam", {"layer": "layer1"}, None),
        ("occlusion_14", {"tile": 32}, None),
    ],
)
def test_reproductions_keep_their_numbers_and_others_have_none(
    explainer: str, given: dict, value: float | None
) -> None:
    metric = {"tile": 14, "baseline": "mean_of_image", "t1": "top1", "points": 26}
    found = [n.value for n in lookup("degradation", metric, "resnet50", explainer, given)]
    assert found == ([] if value is None else [value])


def test_beta_chooses_the_row() -> None:
    found = [
        lookup("bbox", {}, "resnet50", "per_sample_iba", {"beta": beta})[0].value
        for beta in (1, 10.0, 100)
    ]
    assert found == [0.606, 0.620, 0.574]
    assert lookup("bbox", {}, "resnet50", "per_sample_iba", {"beta": 3}) == []


def test_a_number_stands_beside_the_settings_it_is_of_and_no_others() -> None:
    def found(metric: str, settings: dict, explainer: str, given: dict) -> list[float]:
        numbers = lookup(metric, settings, "resnet50", explainer, given)
        return [number.value for number in numbers]

    tile = {"tile": 14, "baseline": "mean_of_image", "t1": "top1"}
    of_saliency = {"channels": "max_abs"}
    for points, value in ((26, [0.541]), (None, [0.541]), (6, [])):
        assert found("degradation", tile | {"points": points}, "grad_cam", {}) == value
    for other in ({"baseline": "zero"}, {"t1": "target"}):
        assert found("degradation", AS_THE_AUTHORS | tile | other, "grad_cam", {}) == []
    assert found("degradation", {"preset": "reference", "tile": 14}, "grad_cam", {}) == [0.541]
    path = of_saliency | {"multiply_by_inputs": False}
    assert found("bbox", {}, "smoothgrad", of_saliency) == [0.439]
    assert found("bbox", {}, "integrated_gradients", path) == [0.372]
    for explainer in ("smoothgrad", "integrated_gradients"):
        for given in ({}, {"channels": "sum_abs"}, {"multiply_by_inputs": False}):
            assert found("bbox", {}, explainer, given) == []
    assert found("bbox", {}, "integrated_gradients", of_saliency) == []


def test_the_untrained_bottleneck_of_table_4_lets_most_pass() -> None:
    def printed(explainer: str, **given: object) -> list[float]:
        arguments = ("bits_and_accuracy", {}, "resnet50", explainer, given)
        return [number.value for number in lookup(*arguments, quantity="nats_as_printed")]

    untrained = printed("per_sample_iba", beta=0.0, steps=1, read_after="T-1")
    assert untrained == [2.5]
    for explainer in ("per_sample_iba", "readout_iba"):
        values = [printed(explainer, beta=beta) for beta in (0.01, 0.1, 1, 10, 100)]
        assert [untrained, *values] == sorted([untrained, *values], reverse=True)
        assert all(len(value) == 1 for value in values)
    # Bits by equation 5 are another quantity than what the paper prints.
    assert lookup("bits_and_accuracy", {}, "resnet50", quantity="bits") == []


def test_bits_and_accuracy_of_table_4() -> None:
    def values(quantity: str, explainer: str) -> list[float]:
        wanted = [n for n in all_published() if n.explainer == explainer and n.quantity == quantity]
        return [n.value for n in wanted]

    assert values("nats_as_printed", "readout_iba") == [
        2.5,
        1.822,
        0.628,
        0.222,
        0.079,
        0.023,
    ]
    assert values("accuracy_top1", "per_sample_iba") == [
        0.760,
        0.760,
        1.0,
        0.963,
        1.0,
        0.984,
        0.427,
    ]
    top5 = lookup(
        "bits_and_accuracy",
        None,
        "resnet50",
        "readout_iba",
        {"beta": 100},
        quantity="accuracy_top5",
    )
    assert [number.value for number in top5] == [0.505]


def test_what_no_paper_prints_is_not_found() -> None:
    assert lookup("degradation", AS_THE_AUTHORS | {"tile": 4}) == []
    assert lookup("degradation", AS_THE_AUTHORS) == lookup(
        "degradation", AS_THE_AUTHORS | {"tile": 8}
    )
    assert (
        lookup("degradation", AS_THE_AUTHORS | {"tile": 8}, "resnet50", "pattern_attribution") == []
    )
    assert lookup("degradation", AS_THE_AUTHORS | {"tile": 8}, "small_cnn") == []
    assert lookup("my_metric", {"tile": 8}) == []


def test_tables_are_complete_and_say_where_they_are_from() -> None:
    counts: dict[tuple[str, str], int] = {}
    for number in all_published():
        counts[number.source, number.table] = counts.get((number.source, number.table), 0) + 1
        assert all((number.citation, number.data, number.label))
        assert number.network in ("resnet50", "vgg16") or not number.table.startswith("Table")
    # Table 1: 17 methods by 6 columns, less 3 methods without ResNet-50; table 4: 6 rows of 7, less
    # 2 dashes.
    assert {origin: count for origin, count in counts.items() if "Section" not in origin[1]} == {
        ("Schulz et al. 2020", "Table 1"): 17 * 6 - 3 * 3,
        ("Schulz et al. 2020", "Table 4"): 6 * 7 - 2,
        ("Schulz et al. 2020", "Figure 4"): 5,
        ("Zhang et al. 2021", "Table 2"): 7,
    }
    assert all(n.standard_error is not None for n in lookup("ehr", {"preset": "reference"}))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"smooth": 0}, [0.476]),
        ({"smooth": 0.0, "output": "sigmoid_alpha"}, [0.476]),
        ({"preset": "reference"}, [0.476]),
        ({}, []),  # its map is blurred
        ({"smooth": 4.0}, []),
        ({"smooth": 0, "output": "bits"}, []),
        ({"output": "bits"}, []),
        ({"smooth": 0, "output": "total_bits"}, []),
        ({"smooth": 0, "gan": "none"}, []),
    ],
)
def test_input_ibas_heat_ratio_is_of_its_mask_and_of_one_form(given: dict, found: list) -> None:
    def printed(**form: object) -> list[float]:
        return [n.value for n in lookup("ehr", form, "vgg16", "input_iba", given)]

    assert printed(base_threshold=0.1, top=0.99) == printed(preset="reference") == found
    assert printed() == printed(base_threshold=0.0, top=1.0) == []
    assert lookup("ehr", {}, "vgg16", "grad_cam") == []


def test_what_the_visual_explanations_state_is_of_certain_layers_and_a_median() -> None:
    def found(network: str, explainer: str, given: dict, what: str, **metric: str) -> list[float]:
        numbers = lookup("decision_flip", metric, network, explainer, given, what)
        return [number.value for number in numbers]

    median = "delta_e_minus_median"
    for layers, value in (
        (["layer4.2"], [0.1]),
        (["layer4.1"], [0.1]),
        (1, [0.1]),
        (["input"], []),
        (["layer4.1", "layer4.2"], []),
        (2, []),
        ("all_but_input", []),
    ):
        assert found("resnet50", "activity", {"layers": layers}, median) == value, layers
    assert found("resnet50", "activity", {"layers": 1, "signed": True}, median) == []
    assert found("resnet50", "activity", {"layers": 1}, median, fill="blur") == []
    assert found("resnet50", "activity", {"layers": 1}, "delta_e_minus") == []  # a mean
    assert found("resnet50", "saliency", {"channels": "sum_abs"}, median) == [0.02]
    assert found("resnet50", "saliency", {}, median) == []
    assert found("vgg16", "activity", {}, median) == [0.15]
    assert found("vgg16", "activity", {"layers": "all"}, median) == []
    assert found("vgg16", "activity", {}, "delta_e_plus_median") == [-0.08]


def test_every_setting_beside_a_decision_flip_is_one_that_the_class_has() -> None:
    """A misspelt setting would hide its number for ever."""
    for number in (n for n in all_published() if n.metric == "decision_flip"):
        for name, kinds, given in (
            (number.explainer, EXPLAINERS, number.explainer_settings),
            (number.metric, METRICS, number.settings),
        ):
            if name in kinds:
                known = inspect.signature(class_named(name, "", kinds, object)).parameters
                assert set(given) <= set(known), (name, given)


def test_names_are_recognised_however_they_are_written() -> None:
    assert {canonical("networks", name) for name in ("resnet50", "ResNet-50", "RESNET_50")} == {
        "resnet50"
    }
    assert canonical("explainers", "lit_iba.methods.GuidedBackpropagation") == "guided_backprop"
    assert canonical("explainers", "pkg.GuidedBackpropagation") == "pkg.GuidedBackpropagation"
    assert canonical("metrics", "lit_iba.metrics.sensitivity_n.SensitivityN") == "sensitivity_n"
    assert canonical("metrics", "EffectiveHeatRatio") == "ehr"


@pytest.mark.parametrize(
    ("metric", "network", "explainer", "quantity", "value", "unit"),
    [
        ("latency", "vgg16", "input_iba", "score", 24, "s"),
        ("latency", "vgg16", "pda", "score", 25 * 60, "s"),
        ("latency", "vgg16", "fido", "score", 60, "s"),
        ("sensitivity_n", "vgg16", "input_iba", "best_of_all_above_n", 100, "pixels"),
        ("sanity_check", None, "readout_iba", "ssim_drop_final_layer", 0.4, ""),
        ("bounding_box", "vgg16", "per_sample_iba", "margin_to_best_baseline", 0.152, ""),
    ],
)
def test_numbers_that_stand_in_the_text(
    metric: str, network: str | None, explainer: str, quantity: str, value: float, unit: str
) -> None:
    found = lookup(metric, {"tile": 1}, network, explainer, {"smooth": 0}, quantity)
    assert [(number.value, number.unit) for number in found] == [(value, unit)]
    assert found[0].table.startswith("Section")


def test_a_margin_in_the_text_follows_from_its_table() -> None:
    for network in ("resnet50", "vgg16"):
        column = lookup("bounding_box", {}, network)
        ours = max(n.value for n in column if "iba" in n.explainer)
        best_baseline = max(n.value for n in column if "iba" not in n.explainer)
        stated = lookup(
            "bounding_box", {}, network, "per_sample_iba", quantity="margin_to_best_baseline"
        )
        assert stated[0].value == pytest.approx(ours - best_baseline)


def test_every_name_in_the_file_is_a_registered_one() -> None:
    explainers = set(_canonical_names("explainers").values())
    metrics = set(_canonical_names("metrics").values())
    assert {number.explainer for number in all_published()} <= explainers | {""}
    assert {number.metric for number in all_published()} <= metrics
    assert {name for name in EXPLAINERS if name not in ("occlusion", "captum")} <= explainers
    assert set(METRICS) <= metrics


def test_quantities_are_found_under_their_other_names() -> None:
    found = lookup(
        "bits_and_accuracy", {}, "resnet50", "readout_iba", {"beta": 10}, quantity="top1_accuracy"
    )
    assert [number.value for number in found] == [0.660]
