"""Image classifiers of transformers, made from a config without the network, and timm's by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier, PerSampleIBA, Preprocessing
from lit_iba.baselines import GradCAM, Saliency
from lit_iba.classifier import last_feature_map, usual_layer
from lit_iba.classifier.layout import Layout
from lit_iba.cli.main import main

SIDE = 64


class Logits(nn.Module):
    """The logits of what a model of transformers gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, intermediate_size=64, image_size=SIDE, num_labels=5)
    return transformers.ViTForImageClassification(config)


def convnext() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    size = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
    config = transformers.ConvNextConfig(**size, image_size=SIDE, num_labels=5)
    return transformers.ConvNextForImageClassification(config)


def classifier_of(make: Callable[[], nn.Module]) -> FrozenClassifier:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # untrained, they hardly look at the image
                parameter.normal_(0, 0.15)
    return FrozenClassifier(Logits(model), preprocessing=Preprocessing(resize=SIDE, crop=SIDE))


def random_images(count: int) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "bottleneck", "last"),
    [
        (vit, Layout("BTC", 4, 4, prefix=1), Layout("BTC", 4, 4, prefix=1)),
        (convnext, Layout("BCHW", 8, 8), Layout("BCHW", 2, 2)),
    ],
)
def test_a_model_of_transformers_is_explained(
    make: Callable[[], nn.Module], bottleneck: Layout, last: Layout
) -> None:
    classifier, images, targets = classifier_of(make), random_images(2), torch.tensor([1, 2])
    layer, top = usual_layer(classifier), last_feature_map(classifier)
    assert (classifier.layout(layer), classifier.layout(top)) == (bottleneck, last)

    given = images.clone().requires_grad_()
    kept: list[Tensor] = []
    module = classifier.model.get_submodule(top)
    handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    score = classifier(given).gather(1, targets[:, None]).sum()
    handle.remove()
    of_images, of_layer = torch.autograd.grad(score, [given, kept[0]])
    found = Saliency(classifier).attribute(images, targets).values
    torch.testing.assert_close(found, of_images.abs().amax(dim=1), rtol=1e-4, atol=1e-6)
    activity, slope = last.grid(kept[0].detach()), last.grid(of_layer)
    cam = (slope.mean(dim=(2, 3), keepdim=True) * activity).sum(dim=1, keepdim=True).relu()
    wanted = F.interpolate(cam, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    found = GradCAM(classifier).attribute(images, targets).values
    scale = wanted.amax() / found.amax()
    torch.testing.assert_close(found * scale, wanted, rtol=1e-3, atol=1e-5)

    statistics = FeatureStatistics.estimate(classifier, layer, random_images(16))
    iba = PerSampleIBA(classifier, layer, statistics, steps=3, copies=2)
    together = iba.attribute(images, targets).values
    alone = iba.attribute(images[1:], 2).values[0]
    assert float(alone.std()) > 0
    torch.testing.assert_close(together[1], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_a_model_of_timm_is_explained_by_its_name(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).resize((240, 240)).save(tmp_path / "one.png")
    settings: dict[str, Any] = {"steps": 1, "copies": 1}
    flags = [f"--settings.per_sample_iba.{key}={value}" for key, value in settings.items()]
    command = ["explain", str(tmp_path / "one.png"), "--explainer", "per_sample_iba,grad_cam"]
    network = ["--classifier.model", name, "--classifier.weights", "random"]
    assert main([*command, *network, *flags, "--out", str(tmp_path)], "evaluate.py") == 0
    for explainer in ("per_sample_iba", "grad_cam"):
        values = np.load(tmp_path / f"one.{explainer}.npy")
        assert values.shape == (224, 224)
        assert np.isfinite(values).all()
