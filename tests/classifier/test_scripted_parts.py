"""A network with a scripted part is cut and searched as the same network without."""

import pytest
import torch
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.activity.layers import NetworkLayers
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.classifier.stages import feature_maps, last_feature_map, usual_layer

pytestmark = pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")


class Parts(nn.Module):
    """A stem and a trunk, each of which can be scripted, and a head."""

    def __init__(self, scripted: tuple[str, ...] = (), traceable: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU())
        self.trunk = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc, self.traceable = nn.Linear(8, 5), traceable
        for name in scripted:
            setattr(self, name, torch.jit.script(getattr(self, name).eval()))

    def forward(self, images: Tensor) -> Tensor:
        x = self.trunk(self.stem(images))
        if not self.traceable and x.sum() > 1e9:
            x = x * 2
        return self.fc(x.mean(dim=(2, 3)))


def frozen(scripted: tuple[str, ...] = (), traceable: bool = True) -> FrozenClassifier:
    model = Parts(scripted, traceable)
    return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=32))


SCRIPTED = [("stem",), ("trunk",), ("stem", "trunk")]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scripted", SCRIPTED)
@pytest.mark.parametrize("traceable", [True, False])
def test_its_layers_are_those_of_the_network_without(
    scripted: tuple[str, ...], traceable: bool
) -> None:
    plain, classifier = frozen((), traceable), frozen(scripted, traceable)
    maps = feature_maps(plain)
    outer = {n: m for n, m in maps.items() if n.partition(".")[0] not in scripted or "." not in n}
    assert feature_maps(classifier) == outer
    assert usual_layer(classifier) in outer
    assert last_feature_map(classifier) == last_feature_map(plain) == "trunk"
    for layer in ("stem", "trunk"):
        r, carried = classifier.split(layer).head(IMAGES)
        wanted, _ = plain.split(layer).head(IMAGES)
        torch.testing.assert_close(r, wanted)
        torch.testing.assert_close(classifier.split(layer).tail(r, carried), plain(IMAGES))
    if not traceable:
        assert isinstance(classifier.cuttable, HookedNetwork)


@pytest.mark.parametrize("scripted", SCRIPTED)
@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam", "saliency"])
def test_its_maps_are_those_of_the_network_without(
    scripted: tuple[str, ...], traceable: bool, name: str
) -> None:
    maps = [
        build_explainer(name, frozen(parts, traceable)).attribute(IMAGES, target=2)
        for parts in ((), scripted)
    ]
    torch.testing.assert_close(maps[1].values, maps[0].values, rtol=1e-4, atol=1e-6)


def test_what_is_inside_is_not_seen_and_guided_maps_are_refused() -> None:
    for traceable in (True, False):
        classifier = frozen(("trunk",), traceable)
        with pytest.raises(InputError, match=r"scripted, which hides|is not a known layer"):
            classifier.split("trunk.0")
        with pytest.raises(InputError, match="scripted, compiled or checkpointed parts"):
            build_explainer("guided_grad_cam", classifier)
    assert NetworkLayers.of(frozen(("trunk",))).inexact == ["forward"]
