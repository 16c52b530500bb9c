"""Networks that give more than one tensor, and networks of other channels than three."""

import copy
import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_iba import FrozenClassifier, Preprocessing, build_explainer
from lit_iba.classifier.preprocessing import drawn
from lit_iba.errors import InputError
from lit_iba.heatmap import Heatmap

Pair = namedtuple("Pair", ["features", "logits"])


@dataclass
class Found:
    """As networks of one's own return."""

    features: Tensor
    logits: Tensor


class Several(nn.Module):
    """Features and logits, as one of the kinds in which networks give several tensors."""

    def __init__(self, kind: str, channels: int = 3) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Any:
        features = self.conv(images).relu()
        logits = self.fc(features.mean(dim=(2, 3)))
        if self.kind == "dict":
            return {"features": features, "logits": logits}
        if self.kind == "tuple":
            return features, logits
        if self.kind == "namedtuple":
            return Pair(features, logits)
        if self.kind == "dataclass":
            return Found(features, logits)
        return logits


SMALL = Preprocessing(resize=None, crop=12)
KINDS: list[tuple[str, str | int]] = [
    ("dict", "logits"),
    ("tuple", 1),
    ("tuple", -1),
    ("namedtuple", "logits"),
    ("namedtuple", 1),
    ("dataclass", "logits"),
]


@pytest.mark.parametrize(("kind", "output"), KINDS)
def test_one_of_several_outputs_is_explained_and_layers_keep_their_names(
    kind: str, output: str | int
) -> None:
    model = Several(kind)
    classifier = FrozenClassifier(model, output=output, preprocessing=SMALL)
    plain = Several("tensor")
    plain.load_state_dict(model.state_dict())
    expected = FrozenClassifier(plain, preprocessing=SMALL)
    images, targets = torch.randn(2, 3, 12, 12), [1, 4]
    assert torch.equal(classifier(images), expected(images))
    torch.testing.assert_close(classifier.folded()(images), expected(images))
    assert "conv" in classifier.layers()
    for name, settings in (("saliency", {}), ("grad_cam", {"layer": "conv"}), ("activity", {})):
        found, wanted = (
            build_explainer(name, one, settings).attribute(images, targets).values
            for one in (classifier, expected)
        )
        assert torch.equal(found, wanted)
    for again in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert torch.equal(again(images), expected(images))
        assert again.identity == classifier.identity
    assert type(model) is Several  # the user's module is as it was
    assert isinstance(model(images), Tensor) is False


@pytest.mark.parametrize(
    ("kind", "output", "sentence"),
    [
        ("dict", None, "must map images to a tensor, but gives dict; say output='features' or"),
        ("tuple", None, "gives tuple; say output=0 or 1"),
        ("dataclass", None, "gives Found; say output='features' or 'logits'"),
        ("dict", "logit", "output is 'logit', but the network gives dict; say output='features'"),
        ("tuple", 2, "output is 2, but the network gives tuple; say output=0 or 1"),
        ("tensor", "logits", r"output is 'logits', but .* one tensor \(2, 5\); leave output out"),
    ],
)
def test_an_output_that_is_none_is_refused_and_those_that_there_are_are_named(
    kind: str, output: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        FrozenClassifier(Several(kind), output=output, preprocessing=SMALL)


def test_a_network_of_transformers_is_explained_through_its_output() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=4,
        num_labels=3,
    )
    model = transformers.ViTForImageClassification(config)
    with pytest.raises(InputError, match="gives ImageClassifierOutput; say output='logits'"):
        FrozenClassifier(model, preprocessing={"crop": 16, "resize": 16})
    classifier = FrozenClassifier(model, output="logits", preprocessing={"crop": 16, "resize": 16})
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(classifier(images), model.eval()(images).logits)
    assert build_explainer("saliency", classifier).attribute(images).values.shape == (2, 16, 16)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_images_have_the_channels_of_the_first_convolution(channels: int) -> None:
    classifier = FrozenClassifier(Several("tensor", channels), preprocessing={"crop": 12})
    assert classifier.channels == channels
    assert classifier.preprocessing.mean == (0.5,) * channels
    images = torch.rand(2, channels, 12, 12)
    for name, settings in (
        ("integrated_gradients", {"steps": 2}),
        ("occlusion", {"tile": 4}),
        ("smoothgrad", {"samples": 2}),
        ("lime", {"samples": 4}),
        ("fido", {"steps": 2, "samples": 2, "infill": "random"}),
        ("lrp_epsilon", {}),
    ):
        heatmap = build_explainer(name, classifier, settings).attribute(images)
        assert heatmap.values.shape == (2, 12, 12)
        assert heatmap.overlay(images).shape == (2, 3, 12, 12)
    with pytest.raises(InputError, match=rf"must be a dense float tensor \(B, {channels}, H, W\)"):
        build_explainer("saliency", classifier).attribute(torch.rand(2, 3, 12, 12))


def test_stated_channels_are_kept_and_others_are_refused() -> None:
    stated = Preprocessing(resize=None, crop=12, mean=(0.1,), std=(0.2,))
    assert FrozenClassifier(Several("tensor", 1), preprocessing=stated).preprocessing == stated
    with pytest.raises(InputError, match=r"cannot take images \(2, 1, 12, 12\) .*mean and std"):
        FrozenClassifier(Several("tensor", 2), preprocessing=stated)
    with pytest.raises(InputError, match=r"std is .* one number a channel"):
        Preprocessing(mean=(0.5,))


def test_photographs_become_grey_for_a_network_of_one_channel() -> None:
    pictures = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    grey = Preprocessing(resize=None, crop=12, mean=(0.0,), std=(1.0,)).normalize(pictures)
    expected = (pictures.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(
        dim=1
    ) / 255
    torch.testing.assert_close(grey[:, 0], expected)
    with pytest.raises(InputError, match="pictures have 3 channels, but the classifier takes 2"):
        Preprocessing(mean=(0.5, 0.5), std=(0.5, 0.5)).normalize(pictures)


def test_other_channels_are_drawn_as_grey_false_colour_or_the_first_three() -> None:
    pictures = torch.randint(256, (2, 12, 4, 4), dtype=torch.uint8)
    assert torch.equal(drawn(pictures[:, :1]), pictures[:, :1].expand(-1, 3, -1, -1))
    assert torch.equal(drawn(pictures[:, :2])[:, :2], pictures[:, :2])
    assert drawn(pictures[:, :2])[:, 2].max() == 0
    assert torch.equal(drawn(pictures), pictures[:, :3])
    assert Heatmap(torch.ones(2, 4, 4)).overlay(pictures).shape == (2, 3, 4, 4)


def test_torchvisions_segmentation_networks_are_known_by_name() -> None:
    classifier = FrozenClassifier(
        "lraspp_mobilenet_v3_large",
        "random",
        objective="segmentation",
        output="out",
        preprocessing={"crop": 32, "resize": 32},
    )
    assert classifier.output_shape == (21, 32, 32)
    assert classifier.class_names[1] == "aeroplane"
    images = torch.randn(2, 3, 32, 32)
    heatmap = build_explainer("grad_cam", classifier, {"layer": "backbone.4"}).attribute(images)
    assert heatmap.values.shape == (2, 32, 32)
