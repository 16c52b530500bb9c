"""Occlusion against Captum's, SmoothGrad against a loop over its copies."""

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines.perturbation import SmoothGrad
from lit_iba.randomness import sample_generators


@pytest.mark.slow
@pytest.mark.parametrize("tile", [4, 5])
def test_occlusion_agrees_with_captum(
    small_classifier: FrozenClassifier, images: Tensor, tile: int
) -> None:
    targets = torch.tensor([1, 4, 9])
    settings = {"tile": tile, "fill": "zero", "forward_batch_size": 7}
    ours = build_explainer("occlusion", small_classifier, settings).attribute(
        images[:3], target=targets
    )
    captum = CaptumOcclusion(small_classifier).attribute(
        images[:3], (3, tile, tile), strides=(3, tile, tile), target=targets, baselines=0
    )
    assert torch.allclose(ours.values, captum[:, 0], atol=1e-5)
    assert ours.signed


def test_occlusion_covers_with_the_images_own_mean(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    values = (
        build_explainer("occlusion_14", small_classifier).attribute(images[:2], target=2).values
    )
    covered = images[:2].clone()
    covered[:, :, 14:28, :14] = images[:2].mean(dim=(2, 3), keepdim=True)
    drop = (small_classifier(images[:2]) - small_classifier(covered))[:, 2]
    assert torch.allclose(values[:, 14:28, :14], drop[:, None, None].expand(-1, 14, 14), atol=1e-5)


def test_smoothgrad_is_the_mean_over_its_copies(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    settings = {"samples": 6, "noise": 0.2, "forward_batch_size": 4}
    plain = build_explainer("smoothgrad", small_classifier, settings).attribute(
        images[:2], target=1, keys=["a", "b"]
    )
    squared = build_explainer("smoothgrad_squared", small_classifier, settings)
    squares = squared.attribute(images[:2], target=1, keys=["a", "b"])
    of_saliency = build_explainer(
        "smoothgrad", small_classifier, settings | {"channels": "max_abs"}
    )
    saliency = of_saliency.attribute(images[:2], target=1, keys=["a", "b"])
    assert (plain.signed, squares.signed, saliency.signed) == (True, False, False)
    for i, generator in enumerate(sample_generators(0, ["a", "b"], images.device)):
        image, gradients = images[i], []
        for _ in range(6):
            noise = torch.randn(image.shape, generator=generator)
            noisy = (image + 0.2 * (image.max() - image.min()) * noise)[None].requires_grad_()
            (gradient,) = torch.autograd.grad(small_classifier(noisy)[0, 1], noisy)
            gradients.append(gradient[0])
        stack = torch.stack(gradients)
        assert torch.allclose(plain.values[i], stack.mean(dim=(0, 1)), atol=1e-6)
        assert torch.allclose(squares.values[i], stack.square().mean(dim=(0, 1)), atol=1e-6)
        largest = stack.mean(dim=0).abs().amax(dim=0)  # of the mean: not the mean of the largest
        assert torch.allclose(saliency.values[i], largest, atol=1e-6)


def test_smoothgrad_without_noise_is_the_gradient(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    smooth = SmoothGrad(small_classifier, samples=2, noise=0.0).attribute(images[:2], target=5)
    plain = build_explainer("gradient", small_classifier).attribute(images[:2], target=5)
    assert torch.allclose(smooth.values, plain.values, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("occlusion_8", {"fill": "black"}, "'mean', 'zero'"),
        ("occlusion", {"tile": 0}, "tile is 0"),
        ("smoothgrad", {"noise": -1.0}, "fraction of the image's range"),
        ("smoothgrad", {"samples": 0}, "samples is 0"),
        ("smoothgrad", {"channels": "max"}, "'sum', 'mean', 'sum_abs', 'max_abs'"),
        ("integrated_gradients", {"channels": "max"}, "'sum', 'mean', 'sum_abs', 'max_abs'"),
    ],
)
def test_settings_are_checked(
    small_classifier: FrozenClassifier, name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_explainer(name, small_classifier, settings)
