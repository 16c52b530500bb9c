"""Guided backpropagation against its definition by autograd, ReLUs of every kind, and its product
with Grad-CAM.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from propagation_toys import SIDE, Clipped, Plain, Residual, toy, toy_images
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def with_side(model: nn.Module, **settings: object) -> FrozenClassifier:
    size = Preprocessing(resize=None, crop=SIDE)
    return FrozenClassifier(model, preprocessing=size, **settings).double()


def test_a_network_without_relus_is_refused() -> None:
    with pytest.raises(InputError, match="WithoutReLU has none"):
        build_explainer("guided_backprop", with_side(WithoutReLU()))


class Trunk(nn.Module):
    """ReLU by a function that can be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = F.relu
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.aside = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.first(images))
        x = self.relu(self.second(x) - x)
        return self.fc(x.mean(dim=(2, 3)))


class Aside(Trunk):
    """ReLUs as modules that run and do not reach the output."""

    def forward(self, images: Tensor) -> Tensor:
        self.aside(self.first(images))
        return super().forward(images)


class AuxiliaryHead(Trunk):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(images), self.aside(self.first(images)).mean(dim=(2, 3))


class Detached(Trunk):
    def forward(self, images: Tensor) -> Tensor:
        away = self.aside(self.first(images)).mean(dim=(2, 3))
        return super().forward(images) + 0 * away.detach()


class Called(Trunk):
    """What a trace does not see: a call of its own."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__((images - 0.3) * 3)


class Normalising(Trunk):
    """What a trace takes otherwise: images that are no tensor there."""

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, Tensor):
            images = (images - 0.3) * 3
        return super().forward(images)


class Untraceable(Trunk):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if images.sum() < 1e9 else self.fc(images)


class Overwriting(Trunk):
    """Reads what was overwritten, by every name for it."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        if self.relu is F.relu:
            F.relu(x, True)
            y = self.second(x)
            y.relu_()
            z = self.second(y)
            torch.relu_(z[:, :4])  # a part of it
        else:
            x = self.relu(x)
            y = self.relu(self.second(x))
            z = self.second(y)
            z = torch.cat([self.relu(z[:, :4]), z[:, 4:]], dim=1)
        return self.fc(z.mean(dim=(2, 3)))


class Checkpointed(Trunk):
    """A part that is computed once more on the way back."""

    def forward(self, images: Tensor) -> Tensor:
        def part(x: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(x))))

        x = checkpoint(part, images, use_reentrant=False)
        return self.fc(x.mean(dim=(2, 3)))


class Encoder(nn.Module):
    """An encoder whose ReLU lies inside a module of torch, and one outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = F.relu
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        self.encoder.activation = self.relu
        tokens = self.relu(self.patches(images)).flatten(2).transpose(1, 2)
        return self.fc(self.encoder(tokens).mean(dim=1))


def doubled(_module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0] * 2 - 0.3,)


def with_a_hook() -> Trunk:
    model = Trunk()
    model.register_forward_pre_hook(doubled)
    return model


@pytest.mark.parametrize(
    "make",
    [
        Trunk,
        Aside,
        AuxiliaryHead,
        Detached,
        Called,
        Normalising,
        Untraceable,
        Overwriting,
        Checkpointed,
        Encoder,
        with_a_hook,
    ],
)
def test_every_relu_on_the_way_is_guided_and_no_other(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double().eval()
    classifier = with_side(model, **({"output": 0} if make is AuxiliaryHead else {}))
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    maps = []
    for model.relu in (guided, F.relu):
        outputs = model(images)
        logits = outputs[0] if make is AuxiliaryHead else outputs
        (gradient,) = torch.autograd.grad(logits[:, 2].sum(), images)
        maps.append(gradient.abs().amax(dim=1))
    found = build_explainer("guided_backprop", classifier).attribute(images, target=2).values
    assert torch.allclose(found, maps[0], rtol=1e-9)
    assert not torch.allclose(found, maps[1], rtol=0.1)


def test_weights_that_change_later_count() -> None:
    classifier = toy(Plain)
    explainer, images = build_explainer("guided_backprop", classifier), toy_images(2)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(-1.5)
    again = build_explainer("guided_backprop", classifier)
    wanted, found = (e.attribute(images, target=1).values for e in (again, explainer))
    assert torch.equal(found, wanted)


class ReentrantlyCheckpointed(Trunk):
    def forward(self, images: Tensor) -> Tensor:
        x = checkpoint(lambda x: F.relu(self.first(x)), images, use_reentrant=True)
        return self.fc(F.relu(self.second(x)).mean(dim=(2, 3)))


class WithAScriptedPart(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.jit.script(nn.Sequential(self.first, nn.ReLU()))


class WithAScriptedReLU6(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.second = torch.jit.script(nn.Sequential(self.second, nn.ReLU6()))


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning", "ignore:None of the inputs")
@pytest.mark.parametrize("make", [ReentrantlyCheckpointed, WithAScriptedPart, WithAScriptedReLU6])
def test_relus_that_cannot_be_reached_are_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match="scripted, compiled or checkpointed parts, in which"):
        build_explainer("guided_backprop", with_side(make()))
