"""The printed numbers, spot-checked against the papers, and their lookup."""

import pytest

from lit_iba.report.published import all_published, canonical, lookup


@pytest.mark.parametrize(
    ("metric", "settings", "network", "explainer", "value"),
    [
        ("degradation", {"tile": 8}, "resnet50", "per_sample_iba", 0.572),
        ("degradation", {"tile": 14}, "vgg16", "readout_iba", 0.536),
        ("degradation", {"tile": 14}, "resnet50", "guided_grad_cam", 0.577),
        ("degradation", {"tile": [14, 14]}, "ResNet-50", "occlusion_8", 0.130),
        ("degradation", {"tile": 8}, "vgg16", "lrp_alpha0_beta1", 0.462),
        ("lit_iba.metrics.BoundingBox", {"limit": 0.33}, "resnet50", "lit_iba.baselines.gradient.RandomMap", 0.167),
        ("bbox", {}, "VGG-16", "lit_iba.iba.per_sample.PerSampleIBA", 0.593),
        ("bounding_box", {}, "vgg16", "pattern_attribution", 0.404),
        ("ehr", {}, "vgg16", "input_iba", 0.476),
        ("effective_heat_ratio", {}, "vgg16", "integrated_gradients", 0.155),
    ],
)
def test_spot_checks(metric: str, settings: dict, network: str, explainer: str, value: float) -> None:
    assert [number.value for number in lookup(metric, settings, network, explainer)] == [value]


def test_beta_chooses_the_row() -> None:
    found = [lookup("bbox", {}, "resnet50", "per_sample_iba", {"beta": beta})[0].value for beta in (1, 10.0, 100)]
    assert found == [0.606, 0.620, 0.574]
    assert lookup("bbox", {}, "resnet50", "per_sample_iba", {"beta": 3}) == []


def test_bits_and_accuracy_of_table_4() -> None:
    def values(quantity: str, explainer: str) -> list[float]:
        wanted = [n for n in all_published() if n.explainer == explainer and n.quantity == quantity]
        return [n.value for n in wanted]

    assert values("information_per_element", "readout_iba") == [2.5, 1.822, 0.628, 0.222, 0.079, 0.023]
    assert values("accuracy_top1", "per_sample_iba") == [0.760, 0.760, 1.0, 0.963, 1.0, 0.984, 0.427]
    top5 = lookup("bits_and_accuracy", None, "resnet50", "readout_iba", {"beta": 100}, quantity="accuracy_top5")
    assert [number.value for number in top5] == [0.505]


def test_what_no_paper_prints_is_not_found() -> None:
    assert lookup("degradation", {"tile": 4}) == []
    assert lookup("degradation", {}) == []
    assert lookup("degradation", {"tile": 8}, "resnet50", "pattern_attribution") == []
    assert lookup("degradation", {"tile": 8}, "small_cnn") == []
    assert lookup("my_metric", {"tile": 8}) == []


def test_tables_are_complete_and_say_where_they_are_from() -> None:
    counts: dict[tuple[str, str], int] = {}
    for number in all_published():
        counts[number.source, number.table] = counts.get((number.source, number.table), 0) + 1
        assert all((number.citation, number.data))
        assert number.network_label in ("ResNet-50", "VGG-16")
    # Table 1: 17 methods by 6 columns, less 3 methods without ResNet-50; table 4: 6 rows of 7, less 2 dashes.
    assert counts == {
        ("Schulz et al. 2020", "Table 1"): 17 * 6 - 3 * 3,
        ("Schulz et al. 2020", "Table 4"): 6 * 7 - 2,
        ("Zhang et al. 2021", "Table 2"): 7,
    }
    assert all(n.standard_error is not None for n in lookup("ehr"))


def test_names_are_recognised_however_they_are_written() -> None:
    assert {canonical("networks", name) for name in ("resnet50", "ResNet-50", "RESNET_50")} == {"resnet50"}
    assert canonical("explainers", "pkg.methods.GuidedBackpropagation") == "guided_backprop"
    assert canonical("metrics", "lit_iba.metrics.sensitivity_n.SensitivityN") == "sensitivityn"
