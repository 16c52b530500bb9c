"""How many top layers are averaged, chosen on other images: the same numbers as the metric's."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_iba.activity import ActivityAttribution, LayerChoice
from lit_iba.classifier import FrozenClassifier
from lit_iba.data import ShardIndex
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.errors import InputError
from lit_iba.evaluation import OwnStatistics, StoredStatistics
from lit_iba.explainer import build_explainer
from lit_iba.metrics import DecisionFlip


class Three(nn.Module):
    """Three layers on 8 x 8, 4 x 4 and 2 x 2 positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.c = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.c(self.b(self.a(x))).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def three() -> FrozenClassifier:
    return FrozenClassifier(Three(), preprocessing={"resize": None, "crop": [16, 24]})


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randn(7, 3, 16, 24, generator=torch.Generator().manual_seed(5))


def test_every_aggregate_scores_what_the_metric_says(
    three: FrozenClassifier, pictures: torch.Tensor
) -> None:
    choice = LayerChoice.estimate(three, [pictures[:3], pictures[3:]], forward_batch_size=3)
    assert choice.layers == ["a", "b", "c"]
    metric = DecisionFlip(noise_maps=1, grid="geometric")
    for count, found in enumerate(choice.scores, start=1):
        explainer = ActivityAttribution(three, layers=count)
        heatmap = explainer.attribute(pictures)
        others = heatmap.values.roll(1, dims=0)[:, None]
        targets = three.targets(pictures)
        rows = metric.judge(three, pictures, targets, heatmap.values, others=others)
        assert torch.allclose(found, metric.scores(rows)["score"], atol=1e-6)
    assert len({round(float(score), 4) for score in choice.scores.mean(dim=1)}) == 3


def test_the_largest_mean_is_chosen_where_it_is_separated_from_all_layers() -> None:
    nothing = float("nan")  # a picture without anything to lose
    few, all_layers = [0.3, nothing, 0.2, 0.3], [0.1, nothing, 0.1, 0.1]
    choice = LayerChoice(["a", "b", "c"], torch.tensor([few, few, all_layers]), {})
    assert choice.best == choice.count == 1  # of equals the fewest
    assert choice.ahead == pytest.approx((0.5 / 3, (0.01 / 3) ** 0.5 / 3**0.5))
    assert str(choice).startswith("the top 1 of 3 layers have the largest delta e-, 0.267 ± 0.033")
    assert str(choice).endswith(
        "on 4 images, more than all of them by 0.167 ± 0.033, image by image"
    )
    unsure = LayerChoice(
        ["a", "b", "c"], torch.tensor([few, [0.5, nothing, 0.5, 0], all_layers]), {}
    )
    assert (unsure.best, unsure.count) == (2, 3)
    assert "not separated from that of all layers (by 0.233 ±" in str(unsure)
    whole = LayerChoice(["a", "b"], torch.tensor([all_layers, few]), {})
    assert whole.best == whole.count == 2
    assert str(whole).endswith("on 4 images")


def test_images_are_drawn_alike_from_batches_of_any_size(
    three: FrozenClassifier, pictures: torch.Tensor
) -> None:
    one, other = (
        LayerChoice.estimate(three, pictures.split(size), images=4).scores for size in (2, 7)
    )
    assert torch.equal(one, other)
    first = LayerChoice.estimate(three, [pictures[:4]], images=4).scores
    assert not torch.equal(one, first)  # the later ones had their chance


def test_a_run_chooses_once_and_keeps_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = FrozenClassifier(Three(), preprocessing={"resize": 16, "crop": 16})
    make_quickstart(tmp_path / "data", QuickstartSettings(6, 4, 4))
    stored = StoredStatistics(tmp_path, ShardIndex.load(str(tmp_path / "data" / "train")), 3)
    explainer = build_explainer("activity", three, {"layers": "auto"}, stored)
    choice = LayerChoice.load(tmp_path / "activity_layers.safetensors", three)
    assert isinstance(explainer, ActivityAttribution)
    assert explainer.layers == choice.layers[-choice.count :]
    assert choice.scores.shape == (3, 3)
    settings = {"layers": "auto", "upsampling": "nearest"}
    build_explainer("activity", three, settings, stored)
    assert len(list(tmp_path.glob("activity_layers*.safetensors"))) == 2
    monkeypatch.setattr(LayerChoice, "estimate", lambda *_, **__: pytest.fail("chosen again"))
    build_explainer("activity", three, settings, stored)
    other = FrozenClassifier("small_cnn", "random")
    with pytest.raises(InputError, match="was made with"):
        LayerChoice.load(tmp_path / "activity_layers.safetensors", other)


def test_what_cannot_be_chosen_is_refused_in_one_sentence(
    three: FrozenClassifier, pictures: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give statistics_data"):
        ActivityAttribution(three, layers="auto")
    with pytest.raises(InputError, match="give statistics_data"):
        build_explainer("activity", three, {"layers": "auto"}, OwnStatistics(pictures[:1]))
    settings = {"layers": "auto", "signed": True}
    with pytest.raises(InputError, match="leave signed out"):
        build_explainer("activity", three, settings, OwnStatistics(pictures[:1]))
    with pytest.raises(InputError, match="chosen on 1 images; give two or more"):
        LayerChoice.estimate(three, [pictures[:1]])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    with pytest.raises(InputError, match="delete it"):
        LayerChoice.load(tmp_path / "cut.safetensors", three)
