"""Networks made fast, with packed weights, give what they give as they are, however they are
written.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba import FrozenClassifier
from lit_iba.classifier import Preprocessing
from lit_iba.classifier.fusing import fuse_convolutions
from lit_iba.classifier.packing import can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of torch cannot pack weights")


class Grey(nn.Module):
    """One channel lies in both orders of memory, and ``view`` takes only the usual one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6 * 144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(x.view(x.shape[0], -1))


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.convolution(input=x).relu().mean((2, 3)))


class Attention(nn.Module):
    """Its arguments by place: a mask of padded tokens, whether weights are wanted, and so on."""

    def __init__(self, *more: bool | None) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, 12, 4, 4), nn.Linear(12, 5)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, *self.more)[0].mean(1))


class Ternary(Tensor):
    """Weights that compute in their own way, as quantised ones do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func in (F.linear, F.conv2d, torch.conv2d):
                args = (args[0], torch.sign(args[1]), *args[2:])
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(cls) if func in (Tensor.detach, Tensor.clone) else result


class Quantised(nn.Sequential):
    def __init__(self) -> None:
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 196, 5)
        super().__init__(*layers)
        for layer in (self[0], self[3]):
            weight = layer.weight.detach().clone().as_subclass(Ternary)
            layer.weight = nn.Parameter(weight, requires_grad=False)


class Exchanged(nn.Module):
    """Weights of another size than the layer was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 7, stride=2, padding=3)
        self.second = nn.Conv2d(9, 4, 5, padding=2)
        self.second.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.head = nn.Linear(9, 5)
        self.head.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "network",
    [
        Grey,
        ByName,
        Attention,
        lambda: Attention(None),
        lambda: Attention(None, False),
        Quantised,
        Exchanged,
    ],
)
def test_a_network_made_fast_is_the_network(network, layout) -> None:
    if network is Grey and layout == torch.channels_last:
        pytest.skip("torch's own layers refuse it")
    torch.manual_seed(0)
    classifier = FrozenClassifier(
        network().to(memory_format=layout), preprocessing=Preprocessing(crop=16)
    )
    drawn = torch.randn(2, 1, 16, 16)
    found = []
    for run in (classifier, classifier.folded(), fuse_convolutions(classifier._traced.whole())):
        images = drawn.clone().requires_grad_()
        logits = run(images)
        found.append((logits.detach(), *torch.autograd.grad(logits.pow(2).sum(), images)))
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("size", [(3, 15, 15), (2, 16, 16)])
def test_images_of_a_wrong_size_are_refused_in_torchs_own_words(size: tuple[int, ...]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 196, 5))
    images = torch.randn(2, *size).contiguous(memory_format=torch.channels_last)
    classifier = FrozenClassifier(
        network.to(memory_format=torch.channels_last), preprocessing=Preprocessing(crop=16)
    )
    with pytest.raises(RuntimeError) as expected:
        classifier(images)
    with pytest.raises(RuntimeError) as found:
        classifier.folded()(images)
    assert str(found.value) == str(expected.value)


def test_torchs_attention_calls_no_hook_of_its_last_layer_and_neither_does_the_packed() -> None:
    network = Attention(None, False).double()
    network.attention.out_proj.register_forward_hook(lambda _m, _i, output: output * 0)
    classifier = FrozenClassifier(network, preprocessing=Preprocessing(crop=16))
    images = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    split = classifier.split("patches")
    assert torch.allclose(split.folded_tail(*split.folded_head(images)), classifier(images))
