"""A classifier runs its own copy of the user's modules and nothing else, and takes logits."""

import logging

import pytest
import torch
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer

SIZE = Preprocessing(resize=None, crop=16)


class Net(nn.Module):
    """A convolution, a batch norm, and a head that makes its softmax on the fly."""

    def __init__(self, last: type[nn.Module] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.fc, self.last = nn.Linear(8, 4), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(nn.ReLU()(self.norm(self.conv(x))).mean((2, 3)))
        return x if self.last is None else self.last(dim=1)(x)


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def with_forward(network: Net) -> Net:
    original = network.forward
    network.forward = lambda x: original(x / 2)  # type: ignore[method-assign]
    return network


class Stem(Net):
    """Runs a function that was hung on it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).mean((2, 3)))


def with_stem(_: Net) -> Net:
    network = Stem()
    network.stem = lambda x: network.norm(network.conv(x))  # type: ignore[assignment]
    return network


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("changed", [with_forward, with_stem])
def test_a_function_made_of_the_users_modules_is_refused_before_anything_runs(changed, training):
    network = changed(Net()).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match="runs the modules that it was given"):
        FrozenClassifier(network, preprocessing=SIZE)
    assert network.training is training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


class Hidden(nn.Module):
    """Its backbone stands in a list, where neither ``state_dict`` nor ``eval`` reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc = [nn.Conv2d(3, 8, 3)], nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone[0](x).mean((2, 3)))


def test_weights_that_no_name_leads_to_are_refused():
    with pytest.raises(InputError, match="runs a Conv2d that is none of its submodules"):
        FrozenClassifier(Hidden(), preprocessing=SIZE)


def test_nothing_is_left_on_torch_after_either():
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    before = len(hooks)
    for network in (Net(), Hidden()):
        try:
            FrozenClassifier(network, preprocessing=SIZE)
        except InputError:
            continue
    assert len(hooks) == before


def test_probabilities_are_refused_and_their_logarithms_taken():
    with pytest.raises(InputError, match="gives probabilities, which add up to 1"):
        FrozenClassifier(Net(nn.Softmax), preprocessing=SIZE)
    plain = FrozenClassifier(Net(), preprocessing=SIZE)
    logarithms = FrozenClassifier(Net(nn.LogSoftmax), preprocessing=SIZE)
    for classifier in (plain, logarithms):
        found = classifier.objective.probability(classifier(images()), torch.tensor([1, 2]))
        wanted = plain(images()).softmax(dim=1)[[0, 1], [1, 2]]
        torch.testing.assert_close(found, wanted)


class Squeezed(Net):
    """Takes away every axis of length one, that of a single image too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


def test_a_network_that_drops_the_axis_of_one_image_is_told_so():
    with pytest.raises(InputError, match=r"gives \(4,\) for one image and \(2, 4\) for two"):
        FrozenClassifier(Squeezed(), preprocessing=SIZE)


@pytest.mark.parametrize("wrong", [torch.rand(2, 3, 16, 0), torch.rand(2, 3, 16, 16).to_sparse()])
def test_images_without_pixels_or_without_memory_are_refused(wrong):
    explainer = build_explainer("gradient", FrozenClassifier(Net(), preprocessing=SIZE))
    with pytest.raises(InputError, match="dense float tensor"):
        explainer.attribute(wrong, 1)


class Sigmoid(Net):
    """The same with a sigmoid at its end."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


def test_outputs_of_a_sigmoid_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        FrozenClassifier(Net(), preprocessing=SIZE, objective="multilabel")
        assert "between 0 and 1" not in caplog.text
        FrozenClassifier(Sigmoid(), preprocessing=SIZE, objective="multilabel")
    assert "all outputs of Sigmoid lie between 0 and 1" in caplog.text


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_network_that_goes_over_to_16_bits_is_explained_in_float32(kind):
    network = Net().eval()
    classifier = FrozenClassifier(network, preprocessing=SIZE)
    explainer = build_explainer("gradient", classifier)
    network.to(kind)
    found = explainer.attribute(images(), 1).values
    fresh = build_explainer("gradient", FrozenClassifier(network, preprocessing=SIZE))
    torch.testing.assert_close(found, fresh.attribute(images(), 1).values)
    assert found.dtype == classifier.dtype == torch.float32
    assert next(network.parameters()).dtype == kind
    with torch.no_grad():
        network.fc.weight.mul_(2)
    torch.testing.assert_close(explainer.attribute(images(), 1).values, 2 * found)
