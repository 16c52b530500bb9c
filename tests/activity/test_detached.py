"""Networks that are no piecewise linear functions: equation 13 with detached gates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer, efficientnet
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.activity.decomposition import Decomposition, HookedActivity, layer_sums
from lit_iba.activity.detached import DetachedGates
from lit_iba.activity.layers import INPUT, NetworkLayers
from lit_iba.classifier.preprocessing import Preprocessing


def slim_efficientnet() -> nn.Module:
    block = efficientnet.MBConvConfig
    settings = [block(1, 3, 1, 16, 8, 1, 1.0, 1.0), block(4, 3, 2, 8, 12, 2, 1.0, 1.0)]
    return efficientnet.EfficientNet(settings, dropout=0.2, num_classes=10, last_channel=32)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (lambda: VisionTransformer(32, 8, 2, 4, 24, 48, num_classes=10), 32),
    "swin": (lambda: SwinTransformer([4, 4], 8, [2, 2], [2, 2], [7, 7], num_classes=10), 48),
    "swin v2": (
        lambda: SwinTransformer(
            [4, 4],
            8,
            [2],
            [2],
            [4, 4],
            num_classes=10,
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
        ),
        32,
    ),
    "efficientnet": (slim_efficientnet, 32),
    "convnext": (
        lambda: ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=10),
        64,
    ),
    "timm's vit": (
        partial(
            timm.create_model,
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_classes=10,
        ),
        32,
    ),
}


def with_biases(model: nn.Module) -> nn.Module:
    """Every bias, scale and statistic random, at the scale of the activity."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or name.endswith("relative_coords_table"):
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.data = 0.5 + drawn.abs()
        elif tensor.ndim >= 2 and not name.endswith("bias"):
            tensor.data = drawn / tensor[0].numel() ** 0.5
        else:
            tensor.data = (0 if "bias" in name or "mean" in name else 1) + 0.3 * drawn
    return model.eval()


def classifier_of(model: nn.Module, side: int) -> FrozenClassifier:
    return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=side)).double()


def double_images(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_activity_and_the_biases_above_add_up_at_every_layer_of_a_smooth_network(name: str) -> None:
    make, side = NETWORKS[name]
    classifier, images = classifier_of(with_biases(make()), side), double_images(side)
    expected, targets = classifier(images).max(dim=1)
    sums = layer_sums(classifier, images, targets, gates="detached")
    assert torch.allclose(sums.score, expected, rtol=1e-9)
    assert (sums.error <= 1e-9).all()
    assert len(sums.layers) > 2
    # Not for want of biases, nor because the gradient adds up anyway.
    assert (sums.bias_above[:, 0].abs() > 0.01 * sums.activity[:, 0].abs()).all()
    plain = layer_sums(classifier, images, targets)
    gap = (plain.activity + plain.bias_above - plain.score[:, None]).abs()
    assert plain.error.isnan().all()
    assert (gap[:, 0] > 1e-3 * expected.abs()).all()


class Untraceable(nn.Module):
    """A branch on values, which no tracer follows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x if x.abs().sum() > 0 else x + 1)


class Smooth(nn.Module):
    """A token mixer of everything that has a gate, a scale or weights of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm, self.groups = nn.LayerNorm(8), nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.squeeze, self.act = nn.Linear(8, 8), nn.SiLU(inplace=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.act(self.groups(self.conv(x)))
        tokens = maps.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed)[0]
        scale = torch.sigmoid(self.squeeze(tokens.mean(dim=1, keepdim=True)))
        return self.fc(F.gelu(tokens * scale).mean(dim=1))


def frozen_gradient(m: Smooth, x: Tensor, target: int) -> Tensor:
    """The image's gradient, every gate, scale and weight written out and held at its value."""
    x = x.clone().requires_grad_()
    a = m.conv(x)
    grouped = a.view(len(x), 2, -1)
    spread = (grouped.var(dim=2, unbiased=False, keepdim=True) + m.groups.eps).sqrt().detach()
    b = ((grouped - grouped.mean(dim=2, keepdim=True)) / spread).view_as(a)
    b = b * m.groups.weight[:, None, None] + m.groups.bias[:, None, None]
    t = (b * torch.sigmoid(b).detach()).flatten(2).transpose(1, 2)
    spread = (t.var(dim=2, unbiased=False, keepdim=True) + m.norm.eps).sqrt().detach()
    n = (t - t.mean(dim=2, keepdim=True)) / spread * m.norm.weight + m.norm.bias
    q, k, v = (n @ m.attention.in_proj_weight.T + m.attention.in_proj_bias).chunk(3, dim=2)
    heads = []
    for h in range(2):
        one = slice(4 * h, 4 * h + 4)
        weights = ((q[..., one] @ k[..., one].transpose(1, 2)) / 2).softmax(dim=2).detach()
        heads.append(weights @ v[..., one])
    t = t + m.attention.out_proj(torch.cat(heads, dim=2))
    s = t * torch.sigmoid(m.squeeze(t.mean(dim=1, keepdim=True))).detach()
    gate = 0.5 * (1 + torch.erf(s / 2**0.5))
    score = m.fc((s * gate.detach()).mean(dim=1))[:, target].sum()
    return torch.autograd.grad(score, x)[0]


def test_the_gradient_is_that_of_the_network_with_its_gates_held() -> None:
    model = with_biases(Smooth())
    classifier, images = classifier_of(model, 16), double_images(16)
    targets = torch.tensor([1, 1])
    layers = NetworkLayers(classifier, ["conv"], "detached")
    found = Decomposition(layers, [INPUT, "conv"], list(layers.bias_nodes)).attribute(
        images, targets
    )
    by_hand = images * frozen_gradient(model.double(), images, 1)
    torch.testing.assert_close(found.activity[INPUT].product, by_hand, rtol=1e-9, atol=1e-12)
    hooked = HookedActivity(classifier_of(Untraceable(model), 16), [INPUT], "detached")
    other = hooked.attribute(images, targets).activity[INPUT].product
    torch.testing.assert_close(other, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("x", [0.0, -0.0, 1e-9, 3.0, -40.0])
@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish", "elu", "selu", "tanh"])
def test_values_are_as_outside_and_no_gate_is_infinite(name: str, x: float) -> None:
    function = getattr(F, name)
    value = torch.tensor([x], requires_grad=True)
    with DetachedGates():
        inside = function(value)
    (gradient,) = torch.autograd.grad(inside.sum(), value)
    torch.testing.assert_close(inside, function(value))
    assert gradient.isfinite().all()
    torch.testing.assert_close(value * gradient, inside)
    if x == 0.0 and name != "selu":  # which has two slopes there
        (slope,) = torch.autograd.grad(function(value).sum(), value)
        torch.testing.assert_close(gradient, slope, rtol=5e-4, atol=0.0)


def test_explainers_take_the_setting(images: Tensor) -> None:
    classifier = FrozenClassifier(
        with_biases(NETWORKS["vit"][0]()), preprocessing=Preprocessing(resize=None, crop=32)
    )
    pictures, targets = images[:2, :, :32, :32], torch.tensor([1, 2])
    for name in ("activity", "fullgrad"):
        plain = build_explainer(name, classifier, {}).attribute(pictures, targets)
        settings = {"gates": "detached"}
        found = build_explainer(name, classifier, settings).attribute(pictures, targets)
        assert plain.completeness is None
        assert found.completeness is not None
        assert (found.completeness < 1e-4).all()
        assert not torch.allclose(plain.values, found.values, rtol=0.01)
    biases = build_explainer("bias_attribution", classifier, {"gates": "detached"})
    assert biases.attribute(pictures, targets).values.isfinite().all()
    with pytest.raises(InputError, match="gates"):
        build_explainer("activity", classifier, {"gates": "open"})


def test_what_is_written_over_its_argument_is_there() -> None:
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    y = 1 * x
    with DetachedGates():
        F.silu(y, inplace=True)  # its result is not looked at
    torch.testing.assert_close(y, F.silu(x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.sigmoid(x))
