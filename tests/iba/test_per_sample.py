"""The Per-Sample bottleneck against a plain one-image loop, and what must not matter to it."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
import torchvision
from reordered_copies import Reordered
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, InputError, PerSampleIBA, Preprocessing
from lit_iba.heatmap import resize_keeping_total
from lit_iba.iba import per_sample
from lit_iba.iba.per_sample_settings import PRESETS, PerSampleSettings
from lit_iba.iba.readout_network import ReadoutSettings
from lit_iba.randomness import sample_generators


def plain_per_sample(
    classifier: FrozenClassifier,
    statistics: FeatureStatistics,
    image: Tensor,
    target: int,
    key: str,
    steps: int,
    preset: str = "default",
) -> Tensor:
    """The paper's algorithm as a reader would write it: one image, the whole network through hooks,
    a loop over copies; and what the authors' library and evaluation code do otherwise.
    """
    evaluation, resnet = preset.startswith("reference_paper"), preset == "reference_paper"
    steps -= preset != "default"  # the heatmap is read before the last update
    layer = dict(classifier.model.named_modules())["layer2"]
    mean, std = statistics.mean.float(), statistics.std.float()
    if resnet:
        squares = statistics.std**2 * (statistics.count - 1) + statistics.count * mean**2
        mean, std = 0 * mean, (squares / statistics.nonzero.clamp_min(1)).sqrt().float()
    std = std.clamp_min(0.01)
    active = torch.ones_like(mean) if evaluation else (statistics.active > 0.01).float()
    inactive = 0 * mean if preset == "reference" else mean
    offsets = torch.arange(-2.0, 3.0)
    kernel = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(mean.shape[0], 1, 5, 5)
    alpha = torch.full((1, *mean.shape), 5.0, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=1.0)
    (generator,) = sample_generators(0, [key], image.device)
    seen: list[Tensor] = []

    def divergence(lam: Tensor, r: Tensor) -> Tensor:
        mu_z, var_z = lam * (r - mean) / std, (1 - lam) ** 2
        return 0.5 * (mu_z**2 + var_z - torch.log(var_z) - 1) * active

    def smoothed() -> Tensor:
        return F.conv2d(
            F.pad(torch.sigmoid(alpha), [2] * 4, mode="reflect"), kernel, groups=mean.shape[0]
        )

    for _ in range(steps):
        noise = torch.randn((4, *mean.shape), generator=generator)
        loss = torch.zeros(())
        for copy in range(4):

            def restrict(
                _module: object, _inputs: object, r: Tensor, unit_noise: Tensor = noise[copy]
            ) -> Tensor:
                seen[:] = [r.detach()]
                lam = smoothed()
                z = lam * r + (1 - lam) * (mean + std * unit_noise)
                z = z * active + inactive * (1 - active)
                return z.clamp_min(0) if resnet else z

            handle = layer.register_forward_hook(restrict)
            loss = loss + F.cross_entropy(classifier(image[None]), torch.tensor([target])) / 4
            handle.remove()
        loss = loss + 10.0 * divergence(smoothed(), seen[0]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    bits = divergence(smoothed(), seen[0]).sum(dim=1) / torch.log(torch.tensor(2.0))
    edge: Literal["clamp", "mirror"] = "mirror" if preset == "reference" else "clamp"
    values = resize_keeping_total(bits.detach(), (64, 64), edge)[0]
    return (values - values.min()) / (values.max() - values.min()) if evaluation else values


def test_it_is_the_papers_algorithm(
    small_classifier: FrozenClassifier, statistics: FeatureStatistics, images: Tensor
) -> None:
    explainer = PerSampleIBA(small_classifier, "layer2", statistics, steps=4, copies=4)
    heatmap = explainer.attribute(images[:2], target=torch.tensor([3, 7]), keys=["a", "b"])
    assert heatmap.unit == "bits"
    assert heatmap.values.shape == (2, 64, 64)
    for i, (target, key) in enumerate([(3, "a"), (7, "b")]):
        expected = plain_per_sample(small_classifier, statistics, images[i], target, key, steps=4)
        assert torch.allclose(
            heatmap.values[i], expected, rtol=1e-4, atol=1e-5 * float(expected.max())
        )
    one_less = PerSampleIBA(
        small_classifier, "layer2", statistics, steps=4, copies=4, read_after="T-1"
    )
    expected = plain_per_sample(small_classifier, statistics, images[0], 3, "a", steps=3)
    found = one_less.attribute(images[:1], target=3, keys=["a"]).values[0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_a_heatmap_does_not_depend_on_the_batch(
    small_classifier: FrozenClassifier, statistics: FeatureStatistics, images: Tensor
) -> None:
    explainer = PerSampleIBA(small_classifier, "layer2", statistics, steps=3, copies=3)
    together = explainer.attribute(images, target=1).values
    for i in (0, 3, 5):
        alone = explainer.attribute(images[i : i + 1], target=1).values[0]
        assert torch.allclose(together[i], alone, rtol=0, atol=1e-5 * float(alone.max()))
    turned = explainer.attribute(images.flip(0), target=1).values.flip(0)
    assert torch.allclose(together, turned, rtol=0, atol=1e-5 * float(together.max()))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_step_brings_a_feature_map_into_another_order(
    small_classifier: FrozenClassifier,
    statistics: FeatureStatistics,
    images: Tensor,
    precision: Literal["float32", "bf16"],
) -> None:
    """On a GPU such copies were a seventh of the time."""
    given = images[:2].contiguous(memory_format=torch.channels_last)
    counts = []
    for steps in (2, 5):
        explainer = PerSampleIBA(
            small_classifier, "layer2", statistics, steps=steps, copies=4, precision=precision
        )
        with Reordered(statistics.mean.numel()) as reordered:
            explainer.attribute(given, target=0)
        counts.append(len(reordered.found))
    assert counts[0] == counts[1], reordered.found


def test_more_beta_leaves_fewer_bits(
    small_classifier: FrozenClassifier, statistics: FeatureStatistics, images: Tensor
) -> None:
    totals = [
        PerSampleIBA(small_classifier, "layer2", statistics, beta=beta, copies=2)
        .attribute(images[:2])
        .total
        for beta in (0.1, 10.0, 1000.0)
    ]
    assert (totals[0] > totals[1]).all()
    assert (totals[1] > totals[2]).all()


def test_nothing_of_the_users_is_changed(
    small_classifier: FrozenClassifier, statistics: FeatureStatistics, images: Tensor
) -> None:
    given = images[:2].clone()
    PerSampleIBA(small_classifier, "layer2", statistics, steps=2, copies=2).attribute(
        given, target=0
    )
    assert torch.equal(given, images[:2])
    assert not given.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in small_classifier.parameters())
    assert not any(module._forward_hooks for module in small_classifier.modules())


def test_dead_units_and_another_image_size_stay_finite(
    small_classifier: FrozenClassifier,
    statistics: FeatureStatistics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dead = FeatureStatistics(statistics.shape, statistics.identity)
    dead.merge(statistics)
    dead.mean[:8], dead.sum_of_squares[:8], dead.nonzero[:8] = 0.0, 0.0, 0
    explainer = PerSampleIBA(small_classifier, "layer2", dead, steps=2, copies=2)
    images = torch.randn(1, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    heatmap = explainer.attribute(images)
    assert heatmap.values.shape == (1, 96, 80)
    assert torch.isfinite(heatmap.values).all()
    assert "interpolated" in caplog.text


class Unit(torch.nn.Module):
    """Gives its input in another unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return x * self.unit


def test_the_unit_of_the_features_does_not_matter(images: Tensor) -> None:
    """The floor of the deviations is a length: in a network whose features are all far below it,
    noise of its size would drown them, and the map would be the same whatever the network does.
    """
    many = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    first, last = torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.Linear(8, 5)
    torch.nn.init.normal_(first.weight, generator=torch.Generator().manual_seed(5))
    torch.nn.init.normal_(last.weight, std=9, generator=torch.Generator().manual_seed(6))
    maps = []
    for unit in (1.0, 1e-5):
        network = torch.nn.Sequential(
            first,
            Unit(unit),
            Unit(1 / unit),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            last,
        )
        classifier = FrozenClassifier(network, preprocessing=Preprocessing(resize=None, crop=64))
        statistics = FeatureStatistics.estimate(classifier, "1", many)
        explainer = PerSampleIBA(classifier, "1", statistics, steps=5)
        maps.append(explainer.attribute(images[:2], torch.tensor([0, 1])).values)
    for one, other in zip(*(m.flatten(1) for m in maps), strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.9


@pytest.mark.slow
def test_bf16_gives_nearly_the_same_map(
    small_classifier: FrozenClassifier, statistics: FeatureStatistics, images: Tensor
) -> None:
    maps = [
        PerSampleIBA(small_classifier, "layer2", statistics, precision=p)
        .attribute(images[:2], target=0)
        .values.flatten(1)
        for p in ("float32", "bf16")
    ]
    correlation = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*maps, strict=True)]
    )
    assert (correlation > 0.99).all()
    assert not torch.equal(*maps)


class Network(torch.nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)
        torch.nn.init.normal_(self.vit.heads.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images)


def test_tokens_are_explained_and_the_class_token_is_not_drawn() -> None:
    torch.manual_seed(0)
    classifier = FrozenClassifier(Network(), preprocessing=Preprocessing(resize=None, crop=32))
    layer = "vit.encoder.layers.encoder_layer_0"
    statistics = FeatureStatistics.estimate(classifier, layer, torch.randn(32, 3, 32, 32))
    heatmap = PerSampleIBA(classifier, layer, statistics, copies=2).attribute(
        torch.randn(2, 3, 32, 32)
    )
    assert heatmap.values.shape == (2, 32, 32)
    assert heatmap.undrawn is not None
    assert (heatmap.undrawn > 0).all()
    assert (heatmap.total > 0).all()


def test_as_many_images_are_optimised_at_once_as_the_cache_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    classifier = FrozenClassifier(Network(), preprocessing=Preprocessing(resize=None, crop=32))
    layer = "vit.encoder.layers.encoder_layer_0"
    statistics = FeatureStatistics.estimate(classifier, layer, torch.randn(32, 3, 32, 32))
    explainer = PerSampleIBA(classifier, layer, statistics, copies=2, steps=3, beta=0.01)
    targets = torch.tensor([0, 1, 3])
    images, seen, tail = torch.randn(3, 3, 32, 32), [], explainer.tail
    keys = ["a", "b", "c"]
    alone = [
        explainer.attribute(images[i : i + 1], target=targets[i], keys=keys[i : i + 1])
        for i in range(3)
    ]
    explainer.tail = lambda z, carried: seen.append(len(z)) or tail(z, carried)
    # Two copies of the 17 tokens of 24 float32 are 3,264 bytes an image.
    for held, expected in ((2 * 3264, [4] * 3 + [2] * 3), (100, [2] * 9), (3 * 3264, [6] * 3)):
        monkeypatch.setattr(per_sample, "CACHED_BYTES", held)
        seen.clear()
        found = explainer.attribute(images, target=targets, keys=keys)
        assert seen == expected
        for values, undrawn, own in zip(found.values, found.undrawn, alone, strict=True):
            torch.testing.assert_close(values, own.values[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(undrawn, own.undrawn[0], rtol=1e-4, atol=1e-5)


def test_swin_tokens_are_explained() -> None:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4], num_classes=5)
    classifier = FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=32))
    assert classifier.layout("features.1").kind == "BHWC"
    statistics = FeatureStatistics.estimate(classifier, "features.1", torch.randn(32, 3, 32, 32))
    heatmap = PerSampleIBA(classifier, "features.1", statistics, copies=2).attribute(
        torch.randn(2, 3, 32, 32)
    )
    assert (heatmap.total > 0).all()
    assert heatmap.undrawn is None


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "default"])
def test_a_preset_is_the_authors_code_it_is_named_after(
    preset: str,
    small_classifier: FrozenClassifier,
    statistics: FeatureStatistics,
    images: Tensor,
) -> None:
    measured = deepcopy(statistics)
    measured.nonzero[:16] = 0  # units that count as never active, though their mean is not zero
    settings = {"preset": preset, "steps": 4, "copies": 4}
    explainer = PerSampleIBA(small_classifier, "layer2", measured, **settings)
    heatmap = explainer.attribute(images[:1], target=3, keys=["a"])
    expected = plain_per_sample(small_classifier, measured, images[0], 3, "a", 4, preset)
    assert heatmap.unit == ("bits" if preset == "reference" else "1")
    tolerance = 1e-4 * float(expected.max())
    assert torch.allclose(heatmap.values[0], expected, rtol=1e-3, atol=tolerance)


def test_bad_input_is_named(
    small_classifier: FrozenClassifier,
    statistics: FeatureStatistics,
    images: Tensor,
    tmp_path: Path,
) -> None:
    explainer = PerSampleIBA(small_classifier, "layer2", statistics, steps=1, copies=1)
    broken = images[:2].clone()
    broken[1, 0, 0, 0] = float("nan")
    cases = {
        "contains NaN": lambda: explainer.attribute(broken),
        "class 10 is out of range; the classifier has classes 0..9": lambda: explainer.attribute(
            images[:1], target=10
        ),
        "must be a dense float tensor": lambda: explainer.attribute(
            (images[:1] * 255).to(torch.uint8)
        ),
        "2 targets were given for 3 images": lambda: explainer.attribute(
            images[:3], target=torch.tensor([0, 1])
        ),
        "2 keys were given for 1 images": lambda: explainer.attribute(images[:1], keys=["a", "b"]),
        "did you mean 'copies'": lambda: PerSampleIBA(
            small_classifier, "layer2", statistics, copiess=1
        ),
        "'stepz'": lambda: PerSampleIBA(small_classifier, "layer2", statistics, preset="stepz"),
        "steps is 0": lambda: PerSampleIBA(small_classifier, "layer2", statistics, steps=0),
        "has no positions": lambda: PerSampleIBA(
            small_classifier, "fc", FeatureStatistics.estimate(small_classifier, "fc", images)
        ).attribute(images[:1]),
        "nowhere.safetensors does not exist": lambda: PerSampleIBA(
            small_classifier, "layer2", tmp_path / "nowhere.safetensors"
        ),
        "but 'layer1' is asked for": lambda: PerSampleIBA(small_classifier, "layer1", statistics),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("kind", [PerSampleSettings, ReadoutSettings])
@pytest.mark.parametrize(
    ("setting", "value"), [("min_std", -0.1), ("smoothing_sigma", -1.0), ("active_threshold", 1.0)]
)
def test_noise_that_cannot_be_is_refused(
    kind: type[PerSampleSettings | ReadoutSettings], setting: str, value: float
) -> None:
    """With an active_threshold of 1 no element counted, and every map was empty."""
    with pytest.raises(InputError, match=setting):
        kind(**{setting: value})  # type: ignore[arg-type]
