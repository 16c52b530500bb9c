"""DeepSHAP: complete on every network, and the rescale rule written out entry by entry."""

import pytest
import torch
from captum.attr import DeepLift
from propagation_toys import Clipped, Plain, Residual, dense, toy, toy_images
from slim_networks import slim
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing
from lit_iba.baselines.deep_shap import DeepSHAP, max_pool_multipliers, multiplier
from lit_iba.baselines.steps import Ceiling


def images_of(side: int, count: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(
        count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def at_size(name: str, side: int) -> FrozenClassifier:
    return FrozenClassifier(
        slim(name), preprocessing=Preprocessing(resize=None, crop=side)
    ).double()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16"])
def test_attributions_sum_to_the_difference_of_logits(name: str) -> None:
    classifier, images, background = at_size(name, 64), images_of(64), images_of(64, 2, 5)
    heatmap = DeepSHAP(classifier, background=background, forward_batch_size=4).attribute(
        images, target=7
    )
    promised = classifier(images)[:, 7] - classifier(background)[:, 7].mean()
    assert torch.allclose(heatmap.total, promised, rtol=1e-6)
    assert heatmap.completeness.max() < 1e-6


def rescaled(x: Tensor, b: Tensor, arriving: Tensor) -> Tensor:
    """The rescale rule of a ReLU, entry by entry."""
    received = []
    for u, v, m in zip(
        x.flatten().tolist(), b.flatten().tolist(), arriving.flatten().tolist(), strict=True
    ):
        received.append(m * ((max(u, 0) - max(v, 0)) / (u - v) if u != v else float(u > 0)))
    return torch.tensor(received, dtype=x.dtype).view_as(x)


def pooled(pool: nn.MaxPool2d, x: Tensor, b: Tensor, arriving: Tensor) -> Tensor:
    """What an overlapping max pooling's windows owe to their winners, window by window."""
    k, s, p = pool.kernel_size, pool.stride, pool.padding
    share = torch.zeros_like(x)
    for c in range(len(x)):
        for row in range(arriving.shape[1]):
            for column in range(arriving.shape[2]):
                places = [
                    (i, j)
                    for i in range(row * s - p, row * s - p + k)
                    for j in range(column * s - p, column * s - p + k)
                    if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]
                ]
                at_x, at_b = (max(places, key=lambda place: float(v[c, *place])) for v in (x, b))
                high, low = float(x[c, *at_x]), float(b[c, *at_b])
                share[c, *at_x] += arriving[c, row, column] * (max(high, low) - low)
                share[c, *at_b] += arriving[c, row, column] * (high - max(high, low))
    return torch.where(x == b, 0.0, share / torch.where(x == b, 1.0, x - b))


def test_the_rescale_rule_is_followed_entry_by_entry() -> None:
    classifier = toy(Residual)
    m, images, background = classifier.model, toy_images(2), toy_images(3, seed=9)
    first = nn.utils.fusion.fuse_conv_bn_eval(m.conv1, m.bn1)

    def values(image: Tensor) -> dict[str, Tensor]:
        v = {"image": image, "a": first(image[None])[0]}
        v["b"] = m.pool(v["a"].relu()[None])[0]
        v["c"] = m.conv2(v["b"][None])[0]
        v["y"] = m.conv3(v["c"].relu()[None])[0] + m.down(v["b"][None])[0]
        v["z"] = m.conv4(m.bn4(v["y"].relu()[None]))[0]
        return v

    def transposed(layer: nn.Module, x: Tensor, arriving: Tensor) -> Tensor:
        return (dense(layer, x)[0].T @ arriving.flatten()).view_as(x)

    wanted = []
    with torch.no_grad():
        for image in images:
            total = torch.zeros_like(image)
            for other in background:
                v, w = values(image), values(other)
                mean = 2 * m.fc.weight[3] / 16  # of 4 x 4 positions
                at_mean = mean[:, None, None].expand(11, 4, 4)
                at_y = transposed(
                    nn.Sequential(m.bn4, m.conv4), v["y"], rescaled(v["z"], w["z"], at_mean[:5])
                )
                at_y = rescaled(v["y"], w["y"], at_y + at_mean[5:])
                at_c = rescaled(v["c"], w["c"], transposed(m.conv3, v["c"], at_y))
                at_b = transposed(m.down, v["b"], at_y) + transposed(m.conv2, v["b"], at_c)
                at_a = pooled(m.pool, v["a"].relu(), w["a"].relu(), at_b)
                at_image = transposed(first, image, rescaled(v["a"], w["a"], at_a))
                total += at_image * (image - other) / len(background)
            wanted.append(total.sum(dim=0))
    for batch in (1, 4, 100):
        found = DeepSHAP(classifier, background=background, forward_batch_size=batch).attribute(
            images, target=3
        )
        assert torch.allclose(found.values, torch.stack(wanted), rtol=1e-9, atol=1e-12)


def test_captum_agrees_where_it_is_right() -> None:
    # It is without a max pooling behind a ReLU.
    classifier, images = toy(Plain), toy_images(3)
    layers = [*classifier.model.features, nn.Flatten(), *classifier.model.classifier]
    layers[2] = nn.AvgPool2d(2)
    network = nn.Sequential(
        *[nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers]
    )
    averaging = FrozenClassifier(network, preprocessing=classifier.preprocessing)
    found = DeepSHAP(averaging).attribute(images, target=2).values
    baseline = torch.zeros_like(images)
    with pytest.warns(UserWarning, match="hooks"):
        wanted = (
            DeepLift(network)
            .attribute(images.clone().requires_grad_(), baseline, target=2)
            .detach()
            .sum(dim=1)
        )
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_the_default_background_is_the_mean_colour() -> None:
    classifier, images = toy(Residual), toy_images(2)
    zero = DeepSHAP(classifier, background=torch.zeros_like(images[:1])).attribute(images, target=1)
    found = DeepSHAP(classifier).attribute(images, target=1)
    assert torch.equal(found.values, zero.values)
    logits = classifier(torch.cat([images, torch.zeros_like(images[:1])]))[:, 1]
    assert torch.allclose(found.total, logits[:2] - logits[2], rtol=1e-10)


def test_an_image_that_is_the_background_has_no_attribution() -> None:
    classifier, images = toy(Residual), toy_images(2)
    heatmap = DeepSHAP(classifier, background=images[:1]).attribute(images[:1], target=1)
    assert not heatmap.values.any()
    assert heatmap.completeness == 0


def test_overlapping_windows_add_up_in_a_max_pooling() -> None:
    pool, x, b = nn.MaxPool2d(3, 2, 1), images_of(9)[:, :2], images_of(9, seed=8)[:, :2]
    arriving = images_of(5, seed=4)[:, :2]
    multipliers = max_pool_multipliers(pool, x, b, arriving)
    assert torch.allclose((multipliers * (x - b)).sum(), (arriving * (pool(x) - pool(b))).sum())


def test_settings_are_checked() -> None:
    classifier = toy(Plain)
    with pytest.raises(InputError, match="the background has no images"):
        DeepSHAP(classifier, background=toy_images(2)[:0])
    with pytest.raises(InputError, match="give them the same size"):
        DeepSHAP(classifier, background=images_of(9)).attribute(toy_images(1), target=0)
    with pytest.raises(InputError, match="forward_batch_size is 0"):
        DeepSHAP(classifier, forward_batch_size=0)


def test_the_multiplier_of_a_limit_is_its_gain_over_the_inputs_gain() -> None:
    x = torch.tensor([5.0, 9.0, 9.0, 3.0, 7.0, 2.0])
    reference = torch.tensor([3.0, 3.0, 7.0, 9.0, 7.0, 2.0])
    wanted = torch.tensor([1.0, 3 / 6, 0.0, 3 / 6, 0.0, 1.0])
    assert torch.allclose(multiplier(Ceiling(6.0), x, reference), wanted)


def test_a_network_with_relu6_is_complete() -> None:
    classifier, images = toy(Clipped), toy_images(6)
    heatmap = DeepSHAP(classifier, background=toy_images(2, seed=7)).attribute(images, target=1)
    assert heatmap.values.any()
    assert heatmap.completeness.max() < 1e-9
