"""The gradient baselines against autograd written out, and what the caller keeps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slim_networks import slim
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines import HiResCAM
from lit_iba.classifier import last_feature_map

NAMES = (
    "random",
    "gradient",
    "saliency",
    "integrated_gradients",
    "grad_cam",
    "hires_cam",
    "layer_cam",
    "input_x_gradient",
    "smoothgrad",
    "smoothgrad_squared",
    "occlusion_14",
)


def input_gradient(classifier: FrozenClassifier, image: Tensor, target: int) -> Tensor:
    image = image[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(image)[0, target], image)
    return gradient[0]


def test_gradient_and_saliency_are_autograds(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    targets = torch.tensor([1, 4, 9])
    gradient = build_explainer("gradient", small_classifier).attribute(images[:3], target=targets)
    saliency = build_explainer("saliency", small_classifier).attribute(images[:3], target=targets)
    summed = build_explainer("saliency", small_classifier, {"channels": "sum_abs"}).attribute(
        images[:3], target=targets
    )
    for i, target in enumerate(targets.tolist()):
        expected = input_gradient(small_classifier, images[i], target)
        assert torch.allclose(gradient.values[i], expected.mean(dim=0), atol=1e-7)
        assert torch.allclose(saliency.values[i], expected.abs().amax(dim=0), atol=1e-7)
        assert torch.allclose(summed.values[i], expected.abs().sum(dim=0), atol=1e-7)
    assert gradient.signed
    assert not saliency.signed
    assert not summed.signed


def test_input_x_gradient_is_its_product(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    heatmap = build_explainer("input_x_gradient", small_classifier).attribute(images[:2], target=3)
    for i in range(2):
        expected = (images[i] * input_gradient(small_classifier, images[i], 3)).sum(dim=0)
        assert torch.allclose(heatmap.values[i], expected, atol=1e-6)


def test_integrated_gradients_are_complete(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    heatmap = build_explainer("integrated_gradients", small_classifier, {"steps": 200}).attribute(
        images[:2], target=3
    )
    logits = small_classifier(torch.cat([images[:2], torch.zeros_like(images[:1])]))[:, 3]
    assert torch.allclose(heatmap.total, logits[:2] - logits[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "signed"), [("sum", True), ("mean", True), ("sum_abs", False), ("max_abs", False)]
)
def test_integrated_gradients_of_a_path_are_reduced_over_channels_as_asked(
    small_classifier: FrozenClassifier, images: Tensor, channels: str, signed: bool
) -> None:
    settings = {"steps": 5, "multiply_by_inputs": False, "channels": channels}
    explainer = build_explainer("integrated_gradients", small_classifier, settings)
    found = explainer.attribute(images[:2], target=1)
    # The mean gradient along the path from zero, by five Gauss-Legendre points.
    points, weights = np.polynomial.legendre.leggauss(5)
    for i in range(2):
        mean = sum(
            weight / 2 * input_gradient(small_classifier, (1 + point) / 2 * images[i], 1)
            for point, weight in zip(points, weights, strict=True)
        )
        by_hand = {
            "sum": mean.sum(dim=0),
            "mean": mean.mean(dim=0),
            "sum_abs": mean.abs().sum(dim=0),
            "max_abs": mean.abs().max(dim=0).values,
        }[channels]
        assert torch.allclose(found.values[i], by_hand, atol=1e-6)
    assert found.signed == signed


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam"])
def test_class_activation_maps_are_their_definitions(
    name: str, small_classifier: FrozenClassifier, images: Tensor
) -> None:
    assert build_explainer(name, small_classifier).layer == "layer3"
    heatmap = build_explainer(name, small_classifier, {"layer": "layer2"}).attribute(images[:2], 5)
    split = small_classifier.split("layer2")
    for i in range(2):
        r = split.head(images[i : i + 1])[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(split.tail(r)[0, 5], r)
        expected = torch.zeros(r.shape[-2:])
        for g, channel in zip(gradient[0], r[0].detach(), strict=True):
            expected += {"grad_cam": g.mean(), "hires_cam": g, "layer_cam": g.clamp(min=0)}[
                name
            ] * channel
        expected = F.interpolate(
            expected.clamp(min=0)[None, None], size=(64, 64), mode="bilinear", align_corners=False
        )[0, 0]
        assert float(expected.max()) > 0
        assert torch.allclose(heatmap.values[i], expected, atol=1e-6)


def test_hires_cam_of_the_last_features_is_grad_cam_and_sums_to_the_logit(images: Tensor) -> None:
    # Draelos and Carin, section 3: where average pooling and one linear layer follow.
    residual = FrozenClassifier("resnet8", "random")
    hires, grad = (build_explainer(name, residual) for name in ("hires_cam", "grad_cam"))
    torch.testing.assert_close(hires.attribute(images, 2).values, grad.attribute(images, 2).values)
    split = residual.split("layer3")
    r = split.head(images)[0].detach().requires_grad_()
    logits = split.tail(r)[:, 2]
    (gradients,) = torch.autograd.grad(logits.sum(), r)
    assert isinstance(hires, HiResCAM)
    total = (hires.weights(gradients) * r).sum(dim=(1, 2, 3))
    (bias,) = [p[2] for n, p in residual.named_parameters() if n.endswith("fc.bias")]
    torch.testing.assert_close(total, logits - bias)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("vgg11", "features")])
def test_grad_cam_finds_the_last_feature_map(name: str, layer: str) -> None:
    assert last_feature_map(FrozenClassifier(slim(name))) == layer


@pytest.mark.parametrize("name", NAMES)
def test_baselines_leave_no_trace_and_do_not_depend_on_the_batch(
    name: str, small_classifier: FrozenClassifier, images: Tensor
) -> None:
    explainer = build_explainer(name, small_classifier)
    given = images.clone()
    together = explainer.attribute(given, target=2).values
    assert torch.equal(given, images)
    assert not given.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in small_classifier.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in small_classifier.modules())
    alone = explainer.attribute(images[4:5], target=2).values[0]
    assert torch.allclose(together[4], alone, rtol=1e-4, atol=1e-6 * float(alone.abs().max()))


def test_names_and_settings_are_checked(small_classifier: FrozenClassifier) -> None:
    with pytest.raises(InputError, match="did you mean 'grad_cam'"):
        build_explainer("gradcam", small_classifier)
    with pytest.raises(
        InputError, match="'steps' is not a known setting of saliency; known: channels"
    ):
        build_explainer("saliency", small_classifier, {"steps": 3})
    with pytest.raises(InputError, match="is no Explainer"):
        build_explainer("torch.nn.Linear", small_classifier)
    with pytest.raises(InputError, match="cannot be imported"):
        build_explainer("nowhere.Method", small_classifier)
