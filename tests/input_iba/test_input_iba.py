"""InputIBA against a plain loop, and what must not matter to it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from reordered_copies import Reordered
from slim_networks import slim
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.iba.bottleneck import blur, information_bits
from lit_iba.input_iba.explainer import InputIBA, InputStages
from lit_iba.input_iba.generator import CriticView, InputPrior, LatentBottleneck, fit_prior
from lit_iba.input_iba.settings import InputIBASettings
from lit_iba.randomness import normal_copies, sample_generators
from lit_iba.text import TextInputIBASettings

QUICK: dict[str, Any] = {
    "feature_steps": 2,
    "feature_copies": 2,
    "generator_steps": 3,
    "critic_warm_up": 3,
    "critic_steps": 2,
    "samples": 4,
    "steps": 4,
    "copies": 3,
}
Build = Callable[..., InputIBA]


@pytest.fixture(scope="module")
def build(small_classifier: FrozenClassifier, statistics: FeatureStatistics) -> Build:
    """Makes explainers of the small network, with little to do."""
    samples = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    of_input = FeatureStatistics.estimate(small_classifier, "input", samples.split(16))

    def built(**settings: Any) -> InputIBA:
        return InputIBA(small_classifier, "layer2", statistics, of_input, **{**QUICK, **settings})

    return built


def stages(explainer: InputIBA, images: Tensor) -> InputStages:
    generators = sample_generators(0, [str(i) for i in range(len(images))], images.device)
    return explainer.find_stages(images, torch.arange(len(images)), generators)


def nearly_everywhere(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Adam's step for an element without gradient has the sign of a rounding error, which the blur
    spreads: 2 % may differ.
    """
    wrong = (found - expected).abs() > tolerance * expected.abs().max()
    return float(wrong.float().mean()) < 0.02


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_last_stage_is_a_plain_loop_over_steps(build: Build, images: Tensor) -> None:
    """One image, the formula as printed, a loop over copies; the noise is what comes after the
    first stage's.
    """
    explainer = build(gan="none", output="bits")
    image, classifier = images[0], explainer.classifier
    noise = explainer.input_noise(images)
    (generator,) = sample_generators(0, ["a"], image.device)
    explainer.feature_iba.masked_feature(images[:1], torch.tensor([3]), [generator])
    found = explainer.find_stages(
        images[:1], torch.tensor([3]), sample_generators(0, ["a"], image.device)
    )
    prior = torch.sigmoid(found.prior.logits[0].double()).float()
    alpha = torch.full((3, 64, 64), 5.0, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=1.0)

    def information(lam: Tensor) -> Tensor:
        whole = 1 - prior * lam
        distance = (
            (image - noise.mean) ** 2 * (lam - prior * lam) ** 2 / (2 * whole**2 * noise.std**2)
        )
        return torch.log(whole / (1 - lam)) + (1 - lam) ** 2 / (2 * whole**2) + distance - 0.5

    def mask() -> Tensor:
        return blur(torch.sigmoid(alpha)[None], 1.0)[0]

    for _ in range(4):
        unit_noise = torch.randn((3, 3, 64, 64), generator=generator)
        lam = mask()
        loss = 20 * information(lam).mean()
        for copy in range(3):
            z = lam * image + (1 - lam) * (noise.mean + noise.std * unit_noise[copy])
            loss = loss + F.cross_entropy(classifier(z[None]), torch.tensor([3])) / 3
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert nearly_everywhere(found.mask.keep[0], mask().detach(), 1e-3)
    expected = information(mask()).detach() / torch.log(torch.tensor(2.0))
    assert nearly_everywhere(found.mask.bits[0], expected, 2e-3)
    heatmap = explainer.attribute(images[:1], target=3, keys=["a"])
    assert heatmap.unit == "bits"
    assert nearly_everywhere(heatmap.values[0], expected.sum(dim=0), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"gan": "wgan"}, {"gan": "wgan", "step_size": "element"}, {"gan": "none"}]
)
def test_a_heatmap_does_not_depend_on_the_batch_or_the_size_of_forward_passes(
    build: Build, images: Tensor, settings: dict[str, str]
) -> None:
    """Steps by element follow the sign of a rounding error, so that one in the GAN would be seen at
    once.
    """
    together = build(**settings).attribute(images[:4], target=1).values
    for i in (0, 3):
        assert close(
            together[i], build(**settings).attribute(images[i : i + 1], target=1).values[0]
        )
    assert close(
        build(forward_batch_size=4, **settings).attribute(images[:4], target=1).values, together
    )
    turned = build(**settings).attribute(images[:4].flip(0), target=1).values.flip(0)
    assert close(turned, together)
    other = build(seed=1, **settings).attribute(images[:4], target=1).values
    assert not torch.equal(other, together)


def sliced_wasserstein(first: Tensor, second: Tensor) -> Tensor:
    """Mean distance of sorted projections on random directions, (B,), of samples (S, B, ...)."""
    first, second = first.flatten(2), second.flatten(2)
    directions = F.normalize(
        torch.randn(first.shape[2], 200, generator=torch.Generator().manual_seed(0)), dim=0
    )
    return (
        ((first @ directions).sort(dim=0)[0] - (second @ directions).sort(dim=0)[0])
        .abs()
        .mean(dim=(0, 2))
    )


@pytest.mark.slow
def test_no_step_at_the_input_brings_a_tensor_into_another_order(
    build: Build, images: Tensor
) -> None:
    given, counts = images[:2].contiguous(memory_format=torch.channels_last), []
    for steps in (2, 5):
        with Reordered(images[0].numel()) as reordered:
            build(gan="none", steps=steps).attribute(given, target=0)
        counts.append(len(reordered.found))
    assert counts[0] == counts[1], reordered.found


def test_fitting_brings_the_features_closer_to_z_star(build: Build, images: Tensor) -> None:
    explainer = build(
        feature_steps=10, generator_steps=40, samples=8, critic_warm_up=20, critic_steps=5
    )
    images = images[:2] + 1.5  # unlike the noise
    targets = torch.tensor([1, 2])
    generators = sample_generators(0, ["a", "b"], images.device)
    masked = explainer.feature_iba.masked_feature(images, targets, generators)
    start = InputPrior(torch.zeros_like(images), torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1))

    def head(z: Tensor) -> Tensor:
        return explainer.feature_iba.split.head(z)[0]

    spread = 0.1 * explainer.input_noise(images).std
    fitted = fit_prior(start, images, spread, masked, head, explainer.settings, generators)
    view = CriticView(masked, standardise=True)

    def distance(prior: InputPrior) -> Tensor:
        drawn = sample_generators(7, ["a", "b"], images.device)
        z = prior.sample(images, normal_copies(drawn, 64, images.shape[1:])).flatten(0, 1)
        with torch.no_grad():
            fake = head(z).unflatten(0, (64, 2))
        return sliced_wasserstein(
            view(fake), view(LatentBottleneck(masked, explainer.settings.latent, drawn).sample(64))
        )

    assert (distance(fitted) < 0.9 * distance(start)).all()


def test_the_stages_are_there_to_see(build: Build, images: Tensor) -> None:
    seen: list[tuple[str, int, int]] = []
    explainer = build(on_step=lambda *step: seen.append(step))
    found = stages(explainer, images[:2])
    assert found.feature_keep.shape == (2, *explainer.feature_iba.noise.mean.shape)
    for mask in (found.feature_keep, found.mask.prior_keep, found.mask.keep):
        assert mask.min() >= 0
        assert mask.max() <= 1
    assert (
        found.mask.prior_keep.shape
        == found.mask.keep.shape
        == found.mask.bits.shape
        == (2, 3, 64, 64)
    )
    assert torch.allclose(found.mask.prior_keep, torch.sigmoid(found.prior.logits), atol=1e-5)
    prior = [
        ("features", 1, 1),
        *[("prior", i, 3) for i in (1, 2, 3)],
    ]  # of one image after the other
    assert seen == [*prior, *prior, *[("input", i, 4) for i in (1, 2, 3, 4)]]


def test_outputs_are_what_they_are_called(build: Build, images: Tensor) -> None:
    found = stages(build(gan="none"), images[:2])
    noise = build(gan="none").input_noise(images)
    r, keep = (images[:2] - noise.mean) / noise.std, found.mask.keep
    expected = {
        "bits": found.mask.bits.sum(dim=1),
        "total_bits": information_bits(r, keep, 1 - keep).sum(dim=1),  # equation 5 of IBA
        "smoothed_lambda": keep.mean(dim=1),
        "sigmoid_alpha": torch.sigmoid(found.mask.alpha).mean(dim=1),
        "prior_mask": found.mask.prior_keep.mean(dim=1),
    }
    assert (found.mask.total_bits >= found.mask.bits - 1e-4).all()
    for output, values in expected.items():
        explainer = build(gan="none", output=output, smooth=0.0)
        heatmap = explainer.attribute(images[:2], target=torch.tensor([0, 1]), keys=["0", "1"])
        assert torch.allclose(heatmap.values, values, rtol=1e-2, atol=1e-4), output
        assert heatmap.unit == ("bits" if output.endswith("bits") else "1")


def test_the_map_of_an_image_is_the_smoothed_mask_and_that_of_a_text_is_in_bits(
    build: Build, images: Tensor
) -> None:
    mask, drawn = (build(gan="none", **smooth) for smooth in ({"smooth": 0.0}, {}))
    values = mask.attribute(images[:2], target=1).values
    heatmap = drawn.attribute(images[:2], target=1)
    sigma = 4 * 64 / 224  # four pixels of a picture of 224
    assert close(heatmap.values, torchvision.transforms.functional.gaussian_blur(values, 11, sigma))
    assert not close(heatmap.values, values)
    assert (heatmap.unit, heatmap.signed) == ("1", False)
    assert float(heatmap.values.max()) <= 1
    smooths = {o: build(output=o).smooth for o in ("smoothed_lambda", "bits", "total_bits")}
    assert smooths == {"smoothed_lambda": 4.0, "bits": 0.0, "total_bits": 0.0}
    assert build(preset="reference").smooth == 0.0
    assert InputIBASettings().input.output == "smoothed_lambda"
    assert TextInputIBASettings().output == "bits"


@pytest.mark.parametrize(
    "extreme",
    [
        {"initial_alpha": 1e4},
        {"initial_alpha": -1e4},
        {"mask_learning_rate": 1e5},
        {"beta_input": 1e8},
        {"beta_feat": 1e8},
    ],
)
def test_saturated_masks_give_finite_bits(
    build: Build, images: Tensor, extreme: dict[str, float]
) -> None:
    found = stages(build(**extreme), images[:1] * 100)
    assert torch.isfinite(found.mask.bits).all()
    assert (found.mask.bits >= 0).all()
    assert torch.isfinite(found.mask.total_bits).all()
    assert torch.isfinite(found.mask.alpha).all()


@pytest.mark.slow
def test_the_reference_preset_is_what_the_published_code_does(build: Build, images: Tensor) -> None:
    explainer = build(preset="reference")
    latent, critics = explainer.settings.latent, explainer.settings.critics
    named = (latent.z_star_mask, latent.z_star_noise, critics.critic, critics.lipschitz)
    assert named == (
        "capacity",
        "uniform_groups",
        "published",
        "clip",
    )
    assert explainer.feature_iba.settings.read_after == "T-1"
    assert explainer.input_statistics is None  # N(0, 1)
    found = stages(explainer, images[:2])
    assert (found.mask.prior_keep >= 0.45).all()  # bits as logits, hardly moved
    assert explainer.attribute(images[:2]).unit == "1"
    alone = stages(explainer, images[:1])
    assert close(alone.mask.alpha[0], found.mask.alpha[0])


def test_what_passes_may_be_the_prior_as_well(build: Build, images: Tensor) -> None:
    through_image, through_prior = (
        stages(build(gan="none", passes=p), images[:1]).mask.keep for p in ("image", "prior")
    )
    assert not torch.allclose(through_image, through_prior)


def test_nothing_of_the_users_is_changed_even_when_something_raises(
    build: Build, images: Tensor
) -> None:
    given = images[:2].clone()
    explainer = build()
    with torch.no_grad():
        explainer.attribute(given, target=0)
    with pytest.raises(KeyboardInterrupt):
        build(on_step=interrupted).attribute(given, target=0)
    assert torch.equal(given, images[:2])
    assert not given.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in explainer.classifier.parameters())
    assert not any(module._forward_hooks for module in explainer.classifier.modules())


def interrupted(stage: str, done: int, total: int) -> None:
    if stage == "prior":
        raise KeyboardInterrupt


class Images:
    """Surroundings with random images."""

    def __init__(self, size: int = 64) -> None:
        self.size = size
        self.asked: list[str] = []

    def batches(self, classifier: FrozenClassifier) -> Iterator[Tensor]:
        yield from torch.randn(
            32, 3, self.size, self.size, generator=torch.Generator().manual_seed(0)
        ).split(8)

    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        self.asked.append(layer)
        return FeatureStatistics.estimate(classifier, layer, self.batches(classifier))


def test_it_is_built_by_name_and_asks_for_the_statistics_it_needs(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    surroundings = Images()
    maps = [
        build_explainer("input_iba", small_classifier, {"layer": "layer2", **QUICK}, surroundings)  # type: ignore[arg-type]
        .attribute(images[:1], target=0)
        .values
        for _ in range(2)
    ]
    assert torch.equal(*maps)
    assert surroundings.asked == 2 * ["layer2", "input"]
    standard = {"layer": "layer2", "input_noise": "standard", **QUICK}
    build_explainer("input_iba", small_classifier, standard, surroundings)  # type: ignore[arg-type]
    assert surroundings.asked == [*2 * ["layer2", "input"], "layer2"]


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_the_usual_networks_are_explained(name: str) -> None:
    classifier = FrozenClassifier(
        slim(name, num_classes=5), preprocessing=Preprocessing(resize=None, crop=32)
    )
    settings = {"layer": {"vgg11": "features.10", "resnet18": "layer2"}[name], **QUICK, "steps": 2}
    explainer = build_explainer("input_iba", classifier, settings, Images(32))  # type: ignore[arg-type]
    heatmap = explainer.attribute(torch.randn(2, 3, 32, 32), target=1)
    assert heatmap.values.shape == (2, 32, 32)
    assert (heatmap.total > 0).all()


def test_tokens_are_explained() -> None:
    torch.manual_seed(0)
    classifier = FrozenClassifier(
        torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5),
        preprocessing=Preprocessing(resize=None, crop=32),
    )
    settings = {"layer": "encoder.layers.encoder_layer_0", **QUICK}
    explainer = build_explainer("input_iba", classifier, settings, Images(32))  # type: ignore[arg-type]
    assert (explainer.attribute(torch.randn(2, 3, 32, 32), target=1).total > 0).all()


def test_bad_input_is_named(
    small_classifier: FrozenClassifier, statistics: FeatureStatistics, build: Build
) -> None:
    cases: dict[str, Callable[[], object]] = {
        "did you mean 'beta_input'": lambda: build(beta_inputt=1),
        "preset of InputIBA": lambda: build(preset="paper"),
        "gan is 'gan'; it must be one of 'wgan'": lambda: build(gan="gan"),
        "steps is 0": lambda: build(steps=0),
        "samples is 1": lambda: build(samples=1),
        "copies is True": lambda: build(copies=True),
        "beta_input is -1": lambda: build(beta_input=-1.0),
        "clip is 0": lambda: build(clip=0.0),
        "smooth is -1": lambda: build(smooth=-1.0),
        "output is 'bit'": lambda: build(output="bit"),
        "needs feature statistics of layer 'layer2'": lambda: InputIBA(small_classifier, "layer2"),
        "needs statistics of the images": lambda: InputIBA(small_classifier, "layer2", statistics),
        "measured behind layer 'layer2', but 'input'": lambda: InputIBA(
            small_classifier, "layer2", statistics, statistics
        ),
        "no images were given": lambda: FeatureStatistics.estimate(small_classifier, "input", []),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
