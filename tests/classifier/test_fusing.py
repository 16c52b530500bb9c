"""Fused convolutions compute the network they were made of, forwards and backwards; cuDNN's part of
it runs on a GPU only.
"""

import pytest
import torch
import torchvision
from slim_networks import slim
from torch import nn

from lit_iba import FrozenClassifier
from lit_iba.classifier.folding import fold_batch_norms
from lit_iba.classifier.fusing import FusedConv2d, _Fused, fuse_convolutions
from lit_iba.classifier.kept_forms import cast


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """A network with its batch norms folded, and the same fused."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        narrow = not name.startswith("regnet")
        make = slim if narrow else torchvision.models.get_model
        model = make(name, num_classes=7)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
    folded = fold_batch_norms(FrozenClassifier(model)._traced.whole())
    return folded, fuse_convolutions(folded)


def kinds(network: nn.Module) -> list[bool]:
    return [module.relu for module in network.modules() if isinstance(module, FusedConv2d)]


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11", "squeezenet1_0", "mobilenet_v2", "densenet121", "regnet_y_400mf"]
)
def test_a_fused_network_is_the_network(name: str) -> None:
    folded, fused = both(name)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fused(images), folded(images), rtol=1e-4, atol=1e-5)


def test_what_can_be_fused_is() -> None:
    _, resnet = both("resnet18")
    # 20 convolutions: 17 end in a ReLU, of which 8 after a skip connection; 3 lead around a block.
    assert (sum(kinds(resnet)), len(kinds(resnet))) == (17, 20)
    with_skip = [n for n in resnet.graph.nodes if n.op == "call_module" and len(n.args) == 2]
    assert len(with_skip) == 8
    assert not [n for n in resnet.graph.nodes if n.op == "call_module" and "relu" in str(n.target)]
    _, vgg = both("vgg11")
    assert kinds(vgg) == [True] * 8


@pytest.mark.parametrize("kernel", [1, 3, (2, 5)])
@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_only_a_skip_connection_of_the_outputs_shape_is_taken_in(
    kernel: int, stride: int, dilation: int
) -> None:
    convolution = nn.Conv2d(3, 5, kernel, stride=stride, dilation=dilation, padding=2)
    module = FusedConv2d(convolution.requires_grad_(False), relu=True)
    x = torch.randn(2, 3, 17, 19)
    y = torch.randn_like(convolution(x))
    assert module._adds(x, y)
    assert not any(module._adds(x, other) for other in (y[:1], y[:, :1], y[..., :1], y[0]))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_skip", [True, False])
def test_gradients_are_those_of_the_operations_one_by_one(relu: bool, with_skip: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    convolution = nn.Conv2d(3, 5, 3, stride=2, padding=1).double().requires_grad_(False)
    module = FusedConv2d(convolution, relu)
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    skip = (
        torch.randn(2, 5, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
        if with_skip
        else None
    )
    given = [t for t in (x, skip) if t is not None]
    weights = torch.randn(2, 5, 4, 4, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((module.plain(x, skip) * weights).sum(), given)
    found = torch.autograd.grad((_Fused.apply(x, skip, module) * weights).sum(), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_that_change_are_noticed() -> None:
    convolution = nn.Conv2d(3, 5, 3).requires_grad_(False)
    module, x = FusedConv2d(convolution, relu=False), torch.randn(2, 3, 8, 8)
    for _ in range(2):
        torch.testing.assert_close(module.run(x, None), convolution(x))
        before = cast(convolution, torch.bfloat16)[0].clone()
        convolution.weight.mul_(2)
        torch.testing.assert_close(cast(convolution, torch.bfloat16)[0], 2 * before)
