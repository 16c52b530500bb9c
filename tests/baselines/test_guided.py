"""Guided backpropagation against its definition by autograd, ReLUs of every kind, and its product
with Grad-CAM.
"""

import pytest
import torch
import torch.nn.functional as F
from propagation_toys import SIDE, Clipped, Plain, Residual, toy, toy_images
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer


class GuidedReLU(torch.autograd.Function):
    """Passes back what is positive and where the input was."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (gradient > 0) * (x > 0)


class GuidedReLU6(torch.autograd.Function):
    """The same below the limit, and nothing above it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0, 6)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (gradient > 0) * (x > 0) * (x < 6)


guided, guided_6 = GuidedReLU.apply, GuidedReLU6.apply


def residual_by_hand(m: Residual, images: Tensor) -> Tensor:
    x = m.pool(guided(m.bn1(m.conv1(images))))
    y = guided(m.conv3(guided(m.conv2(x))) + m.down(x))
    z = torch.cat([guided(m.conv4(m.bn4(y))), y], dim=1)
    return 2 * m.fc(z.mean(dim=(2, 3))) + 0.5


def plain_by_hand(m: Plain, images: Tensor) -> Tensor:
    x = m.features[2](guided(m.features[0](images)))
    x = guided(m.features[3](x)).flatten(1)
    return m.classifier[2](guided(m.classifier[0](x)))


def clipped_by_hand(m: Clipped, images: Tensor) -> Tensor:
    x = guided_6(m.bn1(m.conv1(m.pad(images))))
    x = guided_6(m.conv2(F.pad(x, (1, 1, 1, 1))))
    return m.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("network", "by_hand"),
    [(Plain, plain_by_hand), (Residual, residual_by_hand), (Clipped, clipped_by_hand)],
)
def test_every_relu_also_stops_what_is_negative(network, by_hand) -> None:
    classifier, images, targets = toy(network), toy_images(3), torch.tensor([0, 2, 4])
    x = images.clone().requires_grad_()
    logits = by_hand(classifier.model, x)
    assert torch.allclose(logits, classifier(images))
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), x)
    found = build_explainer("guided_backprop", classifier).attribute(images, target=targets)
    assert torch.allclose(found.values, gradient.abs().amax(dim=1), rtol=1e-9)


class TwoNames(nn.Module):
    """One ReLU6 under two names, the second of which is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.first = self.second = nn.ReLU6()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.second(self.conv(images)).mean(dim=(2, 3)))


def test_a_relu6_under_two_names_is_guided_under_both() -> None:
    classifier, images = toy(TwoNames), toy_images(3)
    m, x = classifier.model, images.clone().requires_grad_()
    logits = m.fc(guided_6(m.conv(x)).mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), x)
    found = build_explainer("guided_backprop", classifier).attribute(images, target=2)
    assert torch.allclose(found.values, gradient.abs().amax(dim=1), rtol=1e-9)


def test_guided_grad_cam_is_the_product(small_classifier: FrozenClassifier, images: Tensor) -> None:
    maps = [
        build_explainer(name, small_classifier).attribute(images, target=3).values
        for name in ("grad_cam", "guided_backprop", "guided_grad_cam")
    ]
    assert torch.equal(maps[2], maps[0] * maps[1])
    assert maps[2].abs().max() > 0


class WithoutReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.never_called = nn.Linear(3, 5), nn.ReLU()
        self.clipped = nn.Hardtanh()

    def forward(self, images: Tensor) -> Tensor:
        return F.hardtanh(self.clipped(self.fc(F.gelu(images.mean(dim=(2, 3))))))


class Untraceable(nn.Module):
    def __init__(self, relu: object) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(3, 5), relu

    def forward(self, images: Tensor) -> Tensor:
        x = self.fc(images.mean(dim=(2, 3)))
        return self.relu(x) if x.sum() < 1e9 else x


def test_networks_whose_relus_cannot_be_changed_are_refused() -> None:
    def wrapped(model: nn.Module) -> FrozenClassifier:
        return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=SIDE)).double()

    with pytest.raises(InputError, match="WithoutReLU has none"):
        build_explainer("guided_backprop", wrapped(WithoutReLU()))
    with pytest.raises(InputError, match=r"calls ReLU as a function and cannot be traced"):
        build_explainer("guided_backprop", wrapped(Untraceable(F.relu)))
    heatmap = build_explainer("guided_backprop", wrapped(Untraceable(nn.ReLU()))).attribute(
        toy_images(2), target=0
    )
    assert heatmap.values.shape == (2, SIDE, SIDE)
