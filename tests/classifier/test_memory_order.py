"""Networks that flatten with ``view``, which refuses maps with their channels side by side in
memory.
"""

import pytest
import torch
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier, Preprocessing
from lit_iba.classifier.packing import PackedConv2d, can_pack
from lit_iba.explainer import build_explainer
from lit_iba.training import ClassifierTraining

SIZE = Preprocessing(resize=None, crop=16)


class Flattening(nn.Module):
    """As many tutorials have it."""

    def __init__(self, traceable: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, stride=2)
        self.relu, self.fc = nn.ReLU(), nn.Linear(4 * 7 * 7, 5)
        self.traceable = traceable

    def forward(self, x: Tensor) -> Tensor:
        if not self.traceable and x.sum() > 1e9:
            return x
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(x.view(-1, 4 * 7 * 7))


class Reshaping(Flattening):
    """The same function."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(x.flatten(1))


def images() -> Tensor:
    drawn = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return drawn.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize(
    "name", ["", "per_sample_iba", "grad_cam", "saliency", "occlusion_8", "activity", "lime"]
)
def test_they_are_explained_in_any_order_of_memory(name: str, traceable: bool) -> None:
    found = []
    for network in (Flattening(traceable), Reshaping()):
        classifier, x = FrozenClassifier(network, preprocessing=SIZE), images()
        if not name:
            pictures = (x * 50).clamp(0, 255).byte()
            assert pictures.is_contiguous(memory_format=torch.channels_last)
            found.append(classifier(classifier.images(pictures)))
            continue
        settings = {}
        if name == "per_sample_iba":
            settings = {"layer": "first", "steps": 3, "copies": 2}
            settings["statistics"] = FeatureStatistics.estimate(classifier, "first", x)
        if name == "activity" and not traceable:
            return  # which needs the graph
        explainer = build_explainer(name, classifier, settings)
        found.append(explainer.attribute(x, [0, 1, 2], keys=["a", "b", "c"]).values)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not can_pack(), reason="this build of torch cannot pack weights")
@pytest.mark.parametrize("network", [Flattening(), Reshaping()])
def test_a_module_in_the_usual_order_is_packed_if_it_takes_another(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[nn.Module] = []
    run = PackedConv2d.run
    monkeypatch.setattr(PackedConv2d, "run", lambda self, x: used.append(self) or run(self, x))
    classifier = FrozenClassifier(network, preprocessing=SIZE)
    x = images().contiguous()
    torch.testing.assert_close(classifier.folded()(x), network(x), rtol=1e-3, atol=1e-5)
    assert len(used) == (2 if isinstance(network, Reshaping) else 0)
    assert network.first.weight.is_contiguous()


def test_a_view_of_another_kind_of_number_stays_one() -> None:
    class Bits(Flattening):
        def forward(self, x: Tensor) -> Tensor:
            x = x.view(torch.int32).view(torch.float32)
            return super().forward(x)

    classifier = FrozenClassifier(Bits(), preprocessing=SIZE)
    torch.testing.assert_close(classifier.folded()(images()), Reshaping()(images()))


def flattening(num_classes: int = 5) -> nn.Module:
    """For a recipe."""
    return Flattening()


def reshaping(num_classes: int = 5) -> nn.Module:
    """Likewise, of pictures of any size."""
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_they_are_trained() -> None:
    pictures = torch.zeros(2, 16, 16, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for name, layout in (
        ("flattening", torch.contiguous_format),
        ("reshaping", torch.channels_last),
    ):
        module = ClassifierTraining(f"{__name__}:{name}", num_classes=5)
        weight = next(module.network.parameters())
        assert weight.is_contiguous(memory_format=layout)
        module.preprocessing = SIZE
        assert module._logits(pictures).shape == (2, 5)
