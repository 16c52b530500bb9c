"""The masking network, its gate and its objective against plain loops; the explainer's manners."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba import FrozenClassifier, InputError
from lit_iba.baselines.masking import RealTimeSaliency, class_evidence, unit_scale
from lit_iba.baselines.masking_objective import PRESETS, ask, draw, mask_losses, mix, strong_blur
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.export import export_explainer, load_exported
from lit_iba.randomness import sample_generators


@pytest.fixture(scope="module")
def explainer(small_classifier: FrozenClassifier) -> RealTimeSaliency:
    """A masking network whose gate and masks vary."""
    torch.manual_seed(0)
    made = RealTimeSaliency(small_classifier, ["layer1", "layer2", "layer3"], widths=(12, 8))
    with torch.no_grad():
        made.network.embedding.weight.normal_(std=20)
        made.network.blocks[0].enlarge.weight.mul_(5)
    return made


def test_masks_are_shares_at_the_images_size_and_belong_to_the_class(
    explainer: RealTimeSaliency, images: Tensor
) -> None:
    heatmap = explainer.attribute(images, target=torch.arange(6))
    assert heatmap.values.shape == (6, 64, 64)
    assert 0 <= heatmap.values.min() < 0.4 < 0.6 < heatmap.values.max() <= 1
    other = explainer.attribute(images, target=torch.arange(1, 7)).values
    assert (heatmap.values - other).abs().amax(dim=(1, 2)).min() > 1e-3
    assert explainer.attribute(torch.randn(2, 3, 80, 100)).values.shape == (2, 80, 100)


def test_a_mask_does_not_depend_on_its_batch(explainer: RealTimeSaliency, images: Tensor) -> None:
    together = explainer.attribute(images, target=3).values
    alone = torch.cat([explainer.attribute(image[None], target=3).values for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    predicted = explainer.classifier(images).argmax(dim=1)
    assert torch.allclose(
        explainer.masks_of_predictions(images), explainer.attribute(images, predicted).values
    )


def test_the_gate_is_the_sigmoid_of_an_inner_product_a_position(
    explainer: RealTimeSaliency, images: Tensor
) -> None:
    _, _, taps = explainer.split.observe(images)
    features, embedding = taps["layer3"], explainer.network.embedding.weight
    classes = torch.tensor([0, 9, 4, 4, 2, 7])
    expected = torch.zeros(6, 8, 8)
    for image in range(6):
        for row in range(8):
            for column in range(8):
                here, wanted = (
                    features[image, :, row, column].tolist(),
                    embedding[classes[image]].tolist(),
                )
                expected[image, row, column] = sum(a * b for a, b in zip(here, wanted, strict=True))
    assert torch.allclose(class_evidence(features, embedding[classes]), expected, atol=1e-4)
    assert expected.std() > 0.1
    seen: list[Tensor] = []
    handle = explainer.network.blocks[0].register_forward_pre_hook(
        lambda _m, given: seen.append(given[0])
    )
    explainer.network(taps, explainer.classifier.layouts_of(taps, (64, 64)), classes)
    handle.remove()
    scale = features / (features.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(seen[0], scale * torch.sigmoid(expected)[:, None], atol=1e-3)


def test_a_larger_confidence_closes_the_gate(explainer: RealTimeSaliency, images: Tensor) -> None:
    closed = RealTimeSaliency(explainer.classifier, explainer.taps, widths=(12, 8), confidence=1e4)
    closed.network.load_state_dict(explainer.network.state_dict())
    classes = closed.attribute(images, target=1).values, closed.attribute(images, target=5).values
    assert torch.allclose(*classes, atol=1e-5)
    assert not torch.allclose(classes[0], explainer.attribute(images, target=1).values, atol=1e-3)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_the_objective_is_that_of_a_plain_loop(preset: str) -> None:
    generator = torch.Generator().manual_seed(0)
    settings, classes, size = PRESETS[preset], 5, 4
    masks = torch.rand(6, size, size, generator=generator)
    kept, removed = (4 * torch.randn(6, classes, generator=generator) for _ in range(2))
    labels, real = (
        torch.tensor([0, 1, 2, 3, 4, 0]),
        torch.tensor([True, False, True, False, True, True]),
    )
    found = mask_losses(masks, kept, removed, labels, real, settings)
    for i in range(6):
        m, c = masks[i].tolist(), int(labels[i])
        pairs = [(m[y][x], m[y + 1][x]) for y in range(size - 1) for x in range(size)]
        pairs += [(m[y][x], m[y][x + 1]) for y in range(size) for x in range(size - 1)]
        variation = sum((a - b) ** 2 for a, b in pairs)
        edge = [m[0][k] for k in range(size)] + [m[-1][k] for k in range(size)]
        edge += [m[k][0] for k in range(size)] + [m[k][-1] for k in range(size)]

        def probability(logits: list[float], c: int = c) -> float:
            return math.exp(logits[c]) / sum(math.exp(v) for v in logits)

        def lead(logits: list[float], c: int = c) -> float:
            return logits[c] - max(v for k, v in enumerate(logits) if k != c)

        k, r = kept[i].tolist(), removed[i].tolist()
        if preset == "default":
            shows, shows_not = (k, r) if real[i] else (r, k)
            expected = {
                "area": 10 * sum(map(sum, m)) / size**2,
                "smoothness": 1e-3 * variation,
                "preserver": -math.log(probability(shows)),
                "destroyer": 5 * probability(shows_not) ** 0.3,
            }
        else:
            expected = {
                "area": 8 * sum((v + 0.0005) ** 0.3 for row in m for v in row) / size**2,
                "smoothness": 0.005 * (variation + 0.3 * sum(v**2 for v in edge)) / 2,
                "preserver": 0.3 * max(1 - lead(k), 0) if real[i] else 1.0 * max(1 - lead(r), 0),
                "destroyer": 1.0 * max(lead(r) + 5, 0) if real[i] else 0.3 * max(lead(k) + 1, 0),
            }
        for name, value in expected.items():
            assert float(found[name][i]) == pytest.approx(value, rel=1e-4, abs=1e-6), (name, i)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_a_black_and_white_mask_has_finite_gradients(preset: str) -> None:
    masks = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]).requires_grad_()
    logits = torch.tensor([[200.0, -200.0]]).requires_grad_()
    losses = mask_losses(
        masks, logits, -logits, torch.tensor([0]), torch.tensor([True]), PRESETS[preset]
    )
    sum(value.sum() for value in losses.values()).backward()
    assert torch.isfinite(masks.grad).all()
    assert torch.isfinite(logits.grad).all()


def test_draws_belong_to_the_sample(images: Tensor) -> None:
    settings = PRESETS["reference"]
    keys = [f"sample {i}" for i in range(6)]
    labels = torch.tensor([0, 1, 2, 3, 4, 9])
    whole = draw(images, labels, 10, settings, sample_generators(0, keys, images.device))
    part = draw(images[3:], labels[3:], 10, settings, sample_generators(0, keys[3:], images.device))
    for name in ("classes", "real", "images", "alternatives"):
        assert torch.allclose(getattr(whole, name)[3:], getattr(part, name), atol=1e-6), name
    assert float((whole.images - images).std()) == pytest.approx(0.03, rel=0.05)


def test_fake_classes_are_all_the_others_equally_often() -> None:
    uniform = torch.rand(20000, 2, generator=torch.Generator().manual_seed(0))
    uniform[0] = torch.tensor([0.0, 1 - 2**-24])  # the largest that torch.rand gives
    classes, real = ask(torch.full((20000,), 3), 5, 0.3, uniform)
    assert (classes == 3).equal(real)
    assert float((~real).float().mean()) == pytest.approx(0.3, abs=0.01)
    counts = torch.bincount(classes[~real], minlength=5)
    assert counts[3] == 0
    assert counts[[0, 1, 2, 4]].min() > 0.85 * counts.max()


def test_alternatives_are_blurred_or_plain_and_a_mask_mixes_them_in() -> None:
    pictures = torch.randn(64, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    generators = sample_generators(1, [str(i) for i in range(64)], pictures.device)
    made = draw(pictures, torch.zeros(64).long(), 4, PRESETS["default"], generators)
    assert torch.equal(made.images, pictures)
    near = (made.alternatives - strong_blur(pictures)).abs().flatten(1).amax(dim=1) < 1e-6
    assert 20 < int(near.sum()) < 44
    plain = made.alternatives[~near]
    assert float((plain - plain.mean(dim=(2, 3), keepdim=True)).std()) == pytest.approx(
        0.11, rel=0.02
    )
    means = plain.mean(dim=(2, 3)).abs()
    assert 0.25 < float(means.max()) < 0.34
    masks = torch.rand(64, 56, 56)
    expected = pictures * masks[:, None] + made.alternatives * (1 - masks[:, None])
    assert torch.allclose(mix(pictures, made.alternatives, masks), expected, atol=1e-5)


def test_the_blur_is_sigma_11_in_55_taps_for_224_pixels() -> None:
    image = torch.zeros(1, 1, 224, 224)
    image[0, 0, 112, 112] = 1
    offsets = torch.arange(-27, 28).double()
    kernel = torch.exp(-0.5 * (offsets / 11) ** 2)
    expected = F.pad(torch.outer(kernel, kernel) / kernel.sum() ** 2, (85, 84, 85, 84))
    assert torch.allclose(strong_blur(image)[0, 0].double(), expected, atol=1e-7)


def test_other_networks_and_layouts_can_be_read(images: Tensor) -> None:
    torch.manual_seed(0)
    network = SmallCNN(num_classes=4, width=4)
    made = RealTimeSaliency(
        FrozenClassifier(network), ["layer1.0", "layer1.1", "layer3"], widths=(4, 4)
    )
    assert [block.factor for block in made.network.blocks] == [2, 2]
    assert made.attribute(images[:2]).values.shape == (2, 64, 64)
    constant = unit_scale(torch.zeros(1, 3, 2, 2))
    assert torch.isfinite(constant).all()


def test_what_does_not_fit_is_refused(small_classifier: FrozenClassifier) -> None:
    cases = {
        "did you mean 'layer3'": {"taps": ["layer1", "layer33"]},
        "has no positions": {"taps": ["layer1", "fc"]},
        "at least 2 different layers": {"taps": ["layer1"]},
        "from the first to the deepest": {"taps": ["layer3", "layer1"]},
        "2 taps need 1": {"taps": ["layer1", "layer3"], "widths": (4, 4)},
        "'width' is not a known setting of real_time_saliency; did you mean 'widths'": {
            "width": (4, 4)
        },
        "whole number of at least 1": {"widths": (4, 0)},
    }
    for message, settings in cases.items():
        with pytest.raises(InputError, match=message):
            RealTimeSaliency(small_classifier, **settings)
    with pytest.raises(InputError, match="knows no taps for SmallCNN"):
        RealTimeSaliency(FrozenClassifier(SmallCNN()))


def test_every_resnet_has_its_four_stages_as_taps() -> None:
    made = RealTimeSaliency(
        FrozenClassifier("resnet18", weights="random", preprocessing={"resize": 36, "crop": 32})
    )
    assert made.taps == ["layer1", "layer2", "layer3", "layer4"]
    assert made.attribute(torch.randn(1, 3, 32, 32)).values.shape == (1, 32, 32)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The given buffer is not writable:UserWarning"
)  # torch 2.11, of its own copy
def test_exports_give_the_mask_of_the_predicted_class(
    explainer: RealTimeSaliency, tmp_path: Path
) -> None:
    report = export_explainer(explainer, tmp_path / "export", progress=False)
    assert set(report.errors) == {"pt2", "onnx", "safetensors"}
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    expected = explainer.attribute(images).values
    other = explainer.attribute(
        images, target=(explainer.classifier(images).argmax(dim=1) + 1) % 10
    ).values
    found = torch.export.load(tmp_path / "export" / "explainer.pt2").module()(images)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found - other).abs().max() > 1e-3
    assert torch.equal(
        load_exported(tmp_path / "export", explainer.classifier).attribute(images).values, expected
    )
