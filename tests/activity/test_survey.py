"""The survey's numbers against loops over images, its files, and that it goes on where it
stopped.
"""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch import nn

from lit_iba import FrozenClassifier, InputError
from lit_iba.activity import survey_report
from lit_iba.activity.batch_norms import reestimate_batch_norms, unfold_batch_norms
from lit_iba.activity.survey import SurveySettings, output_relation, run_survey, top_hits
from lit_iba.activity.zero_bias import without_biases
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.cli.main import main
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart

SETTINGS = SurveySettings(
    7, scales=(0.5, 1.0, 100.0), shifts=(-0.5, 0.0), reestimate_images=14, regression_images=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("survey")
    make_quickstart(root / "data", QuickstartSettings(4, 24, 4, val_shard_size=10))
    torch.manual_seed(0)
    network = SmallCNN()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.bias.data.normal_(0, 0.3)
    save_weights(root / "small.safetensors", network.state_dict(), {"num_classes": 10})
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> ShardIndex:
    return ShardIndex.load(folder / "data" / "val")


def test_the_survey_is_the_loop_over_images(folder: Path, data: ShardIndex, tmp_path: Path) -> None:
    record = {"model": "small_cnn", "weights": str(folder / "small.safetensors")}
    result = run_survey({"mine": record}, data, tmp_path, SETTINGS)["mine"]
    classifier = FrozenClassifier(**record)
    zero = without_biases(classifier)
    std = torch.tensor(classifier.preprocessing.std)[:, None, None]
    ranks, shifted, scaled, slopes, correlations = [], [], [], [], []
    for shard in data.shards:
        for batch in shard_batches(shard, classifier.preprocessing, 1):
            image, label = classifier.images(batch["picture"]), int(batch["label"])
            f, g = classifier(image)[0], zero(image)[0]
            ranks.append([int((x > x[label]).sum()) for x in (f, g)])
            shifted.append(int(classifier(image - 0.5 / std).argmax()) == label)
            scaled.append(int(classifier(image * 100).argmax()) == label)
            slopes.append(np.polyfit(f.double().numpy(), g.double().numpy(), 1))
            correlations.append(np.corrcoef(f.numpy(), g.numpy())[0, 1])
    ranks = np.array(ranks)
    assert result["images"] == len(ranks) == 24
    for column, which in enumerate(("original", "without_biases")):
        assert result["accuracy"][which] == pytest.approx(
            [(ranks[:, column] < k).mean() for k in (1, 2, 3, 4, 5)]
        )
    drop = (ranks[:, 0] < 1).astype(float) - (ranks[:, 1] < 1)
    assert result["drop_top1"]["mean"] == pytest.approx(drop.mean())
    assert result["drop_top1"]["se"] == pytest.approx(drop.std(ddof=1) / 24**0.5)
    assert result["correlation"]["mean"] == pytest.approx(np.mean(correlations), rel=1e-4)
    assert result["regression"]["slope"]["values"] == pytest.approx(
        [s[0] for s in slopes[:5]], rel=1e-3, abs=1e-5
    )
    assert result["regression"]["offset"]["mean"] == pytest.approx(
        np.mean([s[1] for s in slopes]), rel=1e-3, abs=1e-4
    )
    assert result["shift"]["fixed"] == pytest.approx([np.mean(shifted), (ranks[:, 0] < 1).mean()])
    assert result["scaling"]["fixed"][1:] == pytest.approx(
        [(ranks[:, 0] < 1).mean(), np.mean(scaled)]
    )
    assert result["batch_norms"] == 6
    biases = {
        n: v
        for n, v in classifier.model.state_dict().items()
        if n.endswith((".bias", ".running_mean"))
    }
    assert result["biases"] == sum(v.numel() for v in biases.values())
    # Measured again, batch norms undo a scaling of the input: every factor gives about the same
    # accuracy.
    again = result["scaling"]["reestimated"]
    assert max(again) - min(again) <= 2.01 / 24


def test_batch_norms_measured_again_are_those_of_the_batches() -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    batches = [torch.randn(6, 3, 64, 64) * 3 + 1 for _ in range(3)]
    found = reestimate_batch_norms(classifier, iter(batches))
    convolution = classifier.model.layer1[0][0]
    outputs = [convolution(batch) for batch in batches]
    means = torch.stack([o.mean(dim=(0, 2, 3)) for o in outputs]).mean(dim=0)
    variances = torch.stack([o.var(dim=(0, 2, 3)) for o in outputs]).mean(dim=0)
    assert torch.allclose(found["layer1.0.1.running_mean"], means, atol=1e-5)
    assert torch.allclose(found["layer1.0.1.running_var"], variances, rtol=1e-4)
    assert len(found) == 12
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_folded_batch_norms_get_their_statistics_back() -> None:
    """The network whose norms were folded, once unfolded, is measured again as the one that never
    was.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(16, 3, 64, 64, generator=generator) for _ in range(4)]
    original = FrozenClassifier("small_cnn", "random")
    original.model.load_state_dict(reestimate_batch_norms(original, iter(batches)), strict=False)
    folded = copy.deepcopy(original)
    for norm in [m for m in folded.model.modules() if isinstance(m, nn.BatchNorm2d)]:
        gamma = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.data.sub_(gamma * norm.running_mean)
        norm.weight.data.copy_(gamma * (1 + norm.eps) ** 0.5)
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
    with torch.no_grad():
        unfolded, count = unfold_batch_norms(folded, iter(batches))
        assert count == 6
        assert torch.allclose(unfolded(batches[0]), original(batches[0]), atol=1e-4)
        brighter = [batch * 50 for batch in batches]
        for network in (original, unfolded):
            network.model.load_state_dict(
                reestimate_batch_norms(network, iter(brighter)), strict=False
            )
        assert torch.allclose(unfolded(brighter[0]), original(brighter[0]), atol=0.02)
        assert not any(m._forward_pre_hooks for m in unfolded.modules())
        assert unfold_batch_norms(original, iter(batches))[1] == 0


def test_hits_and_relations_of_edge_cases() -> None:
    hits = top_hits(torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]]), torch.tensor([2, 0]))
    assert hits.tolist() == [[False, True, True, True, True], [True] * 5]
    f = torch.randn(2, 6)
    correlation, slope, offset = output_relation(f, 0.4 * f + 2)
    assert torch.allclose(
        torch.stack([correlation, slope, offset]), torch.tensor([[1.0], [0.4], [2.0]]), atol=1e-5
    )
    constant = output_relation(torch.ones(1, 6), f[:1])
    assert [float(x) for x in constant[:2]] == [0.0, 0.0]


@pytest.mark.slow
def test_the_command_writes_tables_and_figures_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifiers = {
        "one": {"model": "small_cnn", "weights": "random"},
        "two": {
            "model": "small_cnn",
            "weights": str(folder / "small.safetensors"),
            "decayed": "random",
        },
        "plain": {"model": "activity_toys:plain_network", "weights": "random"},
    }
    command = [
        "survey",
        "--data",
        str(folder / "data" / "val"),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    few = [
        "--max_images",
        "9",
        "--scales",
        "[0.1, 1]",
        "--shifts",
        "[0]",
        "--reestimate_images",
        "4",
        "--batch_size",
        "4",
    ]
    assert (
        main(
            [*command, *few, "--classifiers", json.dumps({"one": classifiers["one"]})],
            "evaluate.py",
        )
        == 0
    )
    first = (tmp_path / "classifiers" / "one.json").stat().st_mtime_ns
    assert main([*command, *few, "--classifiers", json.dumps(classifiers)], "evaluate.py") == 0
    assert (tmp_path / "classifiers" / "one.json").stat().st_mtime_ns == first
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: result["images"] for name, result in results.items()} == {
        "plain": 9,
        "one": 9,
        "two": 9,
    }
    assert results["plain"]["scaling"]["reestimated"] is None
    similar = {name: result["similarity"] for name, result in results.items()}
    assert [name for name in similar if "decayed" in similar[name]] == ["two"]
    for found in similar.values():
        assert len(found["without_biases"]["median"]) == len(found["layers"])
    assert len((tmp_path / "survey.csv").read_text().splitlines()) == 4
    page = (tmp_path / "survey.md").read_text().split("\n\n")
    assert [part.count("\n|") for part in page[:1]] == [4]
    figures = sorted(tmp_path.glob("figure_*.png"))
    assert len(figures) == 7
    for figure in figures:
        with Image.open(figure) as drawn:
            assert np.asarray(drawn.convert("L")).std() > 5
    assert main([*command, *few, "--classifiers", "{}"], "evaluate.py") == 2
    assert "has no classifiers" in capsys.readouterr().err


def test_a_damaged_result_is_made_again(data: ShardIndex, tmp_path: Path) -> None:
    settings = SurveySettings(
        max_images=2, scales=(1.0,), shifts=(), reestimate_images=0, similarity_images=0
    )
    small = {"small": {"model": "small_cnn", "weights": "random"}}
    whole, path = run_survey(small, data, tmp_path, settings), tmp_path / "classifiers/small.json"
    for left in (path.read_text()[:200], "", "[]"):
        path.write_text(left)
        assert run_survey(small, data, tmp_path, settings) == whole
        assert json.loads(path.read_text())["result"] == whole["small"]


def test_labels_that_a_classifier_does_not_know_are_refused(
    data: ShardIndex, tmp_path: Path
) -> None:
    small = {"model": "small_cnn", "weights": "random", "num_classes": 3}
    with pytest.raises(InputError, match=r"knows 0\.\.2"):
        run_survey({"small": small}, data, tmp_path, SETTINGS)
    with pytest.raises(InputError, match="must be a number above 0"):
        SurveySettings(scales=(0.0,))


def measured(**changes: object) -> dict[str, object]:
    """A classifier's result in which no two numbers are the same."""
    return {
        "images": 321,
        "biases": 77,
        "batch_norms": 5,
        "accuracy": {
            "original": [0.51, 0.62, 0.73, 0.84, 0.95],
            "without_biases": [0.11, 0.22, 0.33, 0.44, 0.55],
        },
        "drop_top1": {"mean": 0.401, "se": 0.013},
        "correlation": {"mean": 0.812, "se": 0.021},
        "regression": {
            "slope": {"mean": 0.37, "se": 0.01, "values": [0.1, 0.3, 0.7]},
            "offset": {"mean": -1.9, "se": 0.02, "values": [-3.0, -2.0, -0.5]},
        },
        "scaling": {"values": [0.1, 1.0], "fixed": [0.24, 0.51], "reestimated": [0.47, 0.49]},
        "shift": {"values": [-0.5], "fixed": [0.29], "reestimated": None},
        **changes,
    }


def test_the_table_has_each_number_under_its_own_name() -> None:
    row = survey_report.survey_row("net", measured())
    assert row == {
        "classifier": "net",
        "images": 321,
        "biases": 77,
        "batch_norms": 5,
        "top1": 0.51,
        "top1_without_biases": 0.11,
        "top5": 0.95,
        "top5_without_biases": 0.55,
        "drop_top1": 0.401,
        "drop_top1_se": 0.013,
        "correlation": 0.812,
        "slope": 0.37,
        "offset": -1.9,
        "scaling_0.1_fixed": 0.24,
        "scaling_1_fixed": 0.51,
        "scaling_0.1_reestimated": 0.47,
        "scaling_1_reestimated": 0.49,
        "shift_-0.5_fixed": 0.29,
        "shift_-0.5_reestimated": None,
    }
    page = survey_report._markdown([row]).splitlines()
    assert page[2] == "| net | 77 | 5 | 51.0 | 11.0 | 95.0 | 55.0 | 0.812 | 0.37 | -1.9 |"
    heads = page[0].strip("| ").split(" | ")
    assert heads[3:] == [
        "top-1",
        "without biases",
        "top-5",
        "without biases",
        "correlation",
        "slope",
        "offset",
    ]


def test_the_page_has_the_robustness_and_the_correlations_of_layers() -> None:
    found = {"layers": ["one", "two"]} | {
        which: {"low": [0.1 + i, None], "median": [0.2 + i, None], "high": [0.3 + i, None]}
        for i, which in enumerate(("bias", "decayed"))
    }
    results = {"net": measured(similarity=found)}
    assert survey_report._robustness_table(results).splitlines()[1:] == [
        "| top-1 of inputs | x 0.1 | x 1 | + -0.5 |",
        "|---|---:|---:|---:|",
        "| net | 24.0 / 47.0 | 51.0 / 49.0 | 29.0 |",
    ]
    table = survey_report._similarity_tables(results).splitlines()
    assert table[1].endswith("| its bias attribution | the network after zero-bias decay |")
    assert table[3:] == ["| one | 0.20 (0.10 to 0.30) | 1.20 (1.10 to 1.30) |", "| two |  |  |"]
    axes = survey_report._similarity(results).axes[0]
    first, second = (line for line in axes.lines if line.get_marker() == ".")
    assert [first.get_ydata()[0], second.get_ydata()[0]] == [0.2, 1.2]


def test_the_figures_draw_the_numbers_in_their_order_and_colour() -> None:
    plain = measured(batch_norms=0, drop_top1={"mean": 0.05, "se": 0.01})
    results = {"normed": measured(), "plain": plain}
    original, bare = survey_report._accuracy(results).axes
    for axes, heights, lines in (
        (original, 0.95, [0.51, 0.62, 0.73, 0.84]),
        (bare, 0.55, [0.11, 0.22, 0.33, 0.44]),
    ):
        assert [bar.get_height() for bar in axes.patches] == [heights, heights]
        assert [y for _, y in (path[0] for path in axes.collections[0].get_segments())] == lines
        assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [
            survey_report.WITH_NORM,
            survey_report.WITHOUT_NORM,
        ]
    slope, offset = survey_report._regression(results).axes
    for axes, middle in ((slope, 0.3), (offset, -2.0)):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["normed", "plain"]
        medians = [line for line in axes.lines if line.get_color() == "black"]
        assert sum(set(line.get_ydata()) == {middle} for line in medians) == 2
    fixed, again = survey_report._robustness(results, "scaling").axes
    assert [list(line.get_ydata()) for line in fixed.lines] == [[0.24, 0.51]] * 2
    assert [list(line.get_ydata()) for line in again.lines] == [[0.47, 0.49]] * 2
    (drop,) = survey_report._drop(results).axes
    points = [list(line.get_ydata()) for line in drop.lines if line.get_marker() == "o"]
    assert points == [[pytest.approx(40.1)], [pytest.approx(5.0)]]
