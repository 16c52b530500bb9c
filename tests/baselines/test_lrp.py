"""LRP against loops over neurons, against Captum where that is right, and what is conserved."""

import copy

import pytest
import torch
from captum.attr import LRP as CaptumLRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from propagation_toys import Clipped, Plain, Residual, dense, toy, toy_images
from slim_networks import slim
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing
from lit_iba.baselines.lrp import LRP, LRPAlpha0Beta1, LRPAlpha1Beta0, LRPEpsilon


def shared_out(
    layer: nn.Module, x: Tensor, relevance: Tensor, alpha: float, beta: float, epsilon: float
) -> Tensor:
    """The alpha-beta rule, neuron by neuron and input by input."""
    weight, _ = dense(layer, x)
    received = torch.zeros(x.numel(), dtype=x.dtype)
    for j, r in enumerate(relevance.flatten().tolist()):
        z = [float(v) for v in weight[j] * x.flatten()]
        gain, loss = sum(v for v in z if v > 0), sum(v for v in z if v < 0)
        a, b = alpha, beta
        if alpha and beta:
            a, b = (1.0 if loss == 0 else alpha), (-1.0 if gain == 0 else beta)
        for i, v in enumerate(z):
            if v > 0:
                received[i] += a * v / (gain + epsilon) * r
            elif v < 0:
                received[i] -= b * v / (loss - epsilon) * r
    return received.view_as(x)


def pooled_out(pool: nn.MaxPool2d, x: Tensor, relevance: Tensor) -> Tensor:
    """All to the largest of each window, window by window."""
    received = torch.zeros_like(x)
    k, s, p = pool.kernel_size, pool.stride, pool.padding
    for channel in range(len(x)):
        for row in range(relevance.shape[1]):
            for column in range(relevance.shape[2]):
                window = [
                    (float(x[channel, i, j]), i, j)
                    for i in range(row * s - p, row * s - p + k)
                    for j in range(column * s - p, column * s - p + k)
                    if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]
                ]
                _, i, j = max(window)
                received[channel, i, j] += relevance[channel, row, column]
    return received


SETTINGS = [(1.0, 0.0, 0.0), (0.0, -1.0, 5.0), (2.0, 1.0, 0.0), (1.5, 0.5, 0.1)]


@pytest.mark.parametrize(("alpha", "beta", "epsilon"), SETTINGS)
def test_a_small_vgg_is_propagated_neuron_by_neuron(
    alpha: float, beta: float, epsilon: float
) -> None:
    classifier, images = toy(Plain), toy_images(2)
    heatmap = LRP(classifier, alpha=alpha, beta=beta, epsilon=epsilon).attribute(
        images, target=torch.tensor([2, 4])
    )
    conv1, _, pool, conv2, _ = classifier.model.features
    fc1, _, fc2 = classifier.model.classifier
    for image, target, values in zip(images, (2, 4), heatmap.values, strict=True):
        a = conv1(image[None])[0].relu()
        b = pool(a[None])[0]
        c = conv2(b[None])[0].relu()
        d = fc1(c.flatten()).relu()
        r = torch.zeros(5, dtype=a.dtype)
        r[target] = fc2(d)[target]
        r = shared_out(fc2, d, r, alpha, beta, epsilon)
        r = shared_out(fc1, c.flatten(), r, alpha, beta, epsilon).view_as(c)
        r = pooled_out(pool, a, shared_out(conv2, b, r, alpha, beta, epsilon))
        r = shared_out(conv1, image, r, alpha, beta, epsilon)
        assert torch.allclose(values, r.sum(dim=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("alpha", "beta", "epsilon"), SETTINGS)
def test_additions_averages_and_overlapping_pooling_are_propagated_by_their_definition(
    alpha: float, beta: float, epsilon: float
) -> None:
    classifier, image = toy(Residual), toy_images(1)[0]
    m, rule = classifier.model, (alpha, beta, epsilon)
    with torch.no_grad():
        first = nn.utils.fusion.fuse_conv_bn_eval(m.conv1, m.bn1)
        a = first(image[None])[0].relu()
        b = m.pool(a[None])[0]
        c = m.conv2(b[None])[0].relu()
        left, right = m.conv3(c[None])[0], m.down(b[None])[0]
        y = (left + right).relu()
        n = m.bn4(y[None])[0]
        z = m.conv4(n[None])[0].relu()
        both = torch.cat([z, y])
        mean = both.mean(dim=(1, 2))
        r = torch.zeros(5, dtype=a.dtype)
        r[3] = 2 * m.fc(mean)[3] + 0.5
    r = shared_out(m.fc, mean, r, *rule)
    r = (
        torch.where(both > 0, both / both.sum(dim=(1, 2), keepdim=True).clamp_min(1e-300), 0)
        * r[:, None, None]
    )
    r_y = r[5:] + shared_out(m.conv4, n, r[:5], *rule)
    total = left.clamp_min(0) + right.clamp_min(0)
    r_left = torch.where(total > 0, left.clamp_min(0) / total.clamp_min(1e-300), 0) * r_y
    r_right = torch.where(total > 0, right.clamp_min(0) / total.clamp_min(1e-300), 0) * r_y
    r_b = shared_out(m.down, b, r_right, *rule) + shared_out(
        m.conv2, b, shared_out(m.conv3, c, r_left, *rule), *rule
    )
    r = shared_out(first, image, pooled_out(m.pool, a, r_b), *rule)
    found = LRP(classifier, alpha=alpha, beta=beta, epsilon=epsilon).attribute(
        image[None], target=3
    )
    assert torch.allclose(found.values[0], r.sum(dim=0), rtol=1e-9, atol=1e-12)


def test_captum_agrees_where_it_is_right() -> None:
    # Its alpha-1-beta-0 rule only clamps weights and it gives biases a share, so: no biases, no
    # negative inputs.
    classifier, images = toy(Plain, bias=False), toy_images(3).abs()
    targets = torch.tensor([0, 3, 4])
    captum_model = copy.deepcopy(classifier.model)
    for ours, rule in (
        (LRPAlpha1Beta0(classifier), Alpha1_Beta0_Rule),
        (LRPEpsilon(classifier, epsilon=1e-9), EpsilonRule),
    ):
        for module in captum_model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.rule = rule()
            if isinstance(module, nn.ReLU):
                module.inplace = False
        wanted = (
            CaptumLRP(captum_model)
            .attribute(images.clone().requires_grad_(), target=targets)
            .detach()
            .sum(dim=1)
        )
        found = ours.attribute(images, target=targets).values
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7 * float(wanted.abs().max()))


@pytest.mark.parametrize("network", [Plain, Residual, Clipped])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (2.0, 1.0)])
def test_without_biases_the_logit_is_conserved(
    network: type[nn.Module], alpha: float, beta: float
) -> None:
    classifier, images = toy(network, bias=False), toy_images(4)
    logits, targets = classifier(images).max(dim=1)
    assert (logits > 0).all()  # so that something speaks for each
    heatmap = LRP(classifier, alpha=alpha, beta=beta).attribute(images, target=targets)
    assert torch.allclose(heatmap.total, logits, rtol=1e-10)
    assert heatmap.completeness.max() < 1e-10


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11"])
def test_alpha_1_beta_0_conserves_the_logit_of_real_architectures(name: str) -> None:
    classifier = FrozenClassifier(
        slim(name), preprocessing=Preprocessing(resize=None, crop=64)
    ).double()
    images = torch.randn(
        2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    heatmap = LRPAlpha1Beta0(classifier).attribute(images, target=7)
    assert torch.allclose(heatmap.total, classifier(images)[:, 7], rtol=1e-9)
    assert heatmap.completeness.max() < 1e-9


def test_relevance_of_neurons_active_by_bias_alone_is_what_is_missing() -> None:
    classifier = toy(Plain)
    with torch.no_grad():
        classifier.model.classifier[0].weight[0] = -classifier.model.classifier[0].weight[0].abs()
        classifier.model.classifier[0].bias[0] = 100.0  # active, though nothing speaks for it
    images = toy_images(1)
    heatmap = LRPAlpha1Beta0(classifier).attribute(images, target=1)
    hidden = classifier.model.classifier[:2](classifier.model.features(images).flatten(1))[0]
    z = (hidden * classifier.model.classifier[2].weight[1]).clamp_min(0)
    logit = classifier(images)[0, 1]
    assert torch.allclose(heatmap.total[0], logit * (1 - z[0] / z.sum()), rtol=1e-9)
    assert torch.allclose(heatmap.completeness[0], z[0] / z.sum(), rtol=1e-9)


@pytest.mark.parametrize("network", [Plain, Residual])
def test_without_biases_the_epsilon_rule_is_input_times_gradient(network: type[nn.Module]) -> None:
    classifier, images = toy(network, bias=False), toy_images(3)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x)[:, 2].sum(), x)
    factor = 1.0
    if network is Residual:  # which adds 0.5 to the logit
        logit = classifier(images)[:, 2]
        factor = (logit / (logit - 0.5))[:, None, None]
    heatmap = LRPEpsilon(classifier, epsilon=0.0).attribute(images, target=2)
    assert torch.allclose(
        heatmap.values, (images * gradient).sum(dim=1) * factor, rtol=1e-8, atol=1e-12
    )


def test_settings_are_checked() -> None:
    classifier = toy(Plain)
    with pytest.raises(InputError, match="must be 1"):
        LRP(classifier, alpha=1.0, beta=1.0)
    with pytest.raises(InputError, match="epsilon is -1"):
        LRPAlpha0Beta1(classifier, epsilon=-1)
    defaults = LRPAlpha0Beta1(classifier)
    assert (defaults.alpha, defaults.beta, defaults.epsilon) == (0.0, -1.0, 5.0)
