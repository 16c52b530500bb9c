"""Where a bottleneck goes by default: the papers' layers, or what is most like them."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lit_iba import FrozenClassifier, InputError, Preprocessing
from lit_iba.classifier import usual_layer

PICTURES = Preprocessing(resize=None, crop=64)


class Block(nn.Module):
    """Two branches are added: nothing inside has the whole picture pass."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.ReLU())
        self.skip = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


def test_it_is_the_last_block_with_an_eighth_of_the_pictures_size() -> None:
    torch.manual_seed(0)
    widths = [(3, 4, 2), (4, 4, 2), (4, 6, 2), (6, 6, 1), (6, 8, 2)]
    blocks = nn.Sequential(*[Block(*width) for width in widths])
    network = nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    # Blocks "0.2" and "0.3" have 8 x 8 positions, for 64 pixels.
    assert usual_layer(FrozenClassifier(network, preprocessing=PICTURES)) == "0.3"


def test_in_a_transformer_it_is_the_middle_of_the_stream() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(64, 16, 4, 2, 16, 32, num_classes=5)
    nn.init.normal_(network.heads.head.weight)  # torchvision begins with zeros
    found = usual_layer(FrozenClassifier(network, preprocessing=PICTURES))
    assert found in ("encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_2")


def test_in_segmentation_it_is_not_the_logits_before_they_are_enlarged() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(Block(3, 4, 2), Block(4, 4, 2), Block(4, 6, 2))
    network = nn.Sequential(blocks, nn.Conv2d(6, 5, 1), nn.Upsample(scale_factor=8))
    classifier = FrozenClassifier(network, preprocessing=PICTURES, objective="segmentation")
    assert usual_layer(classifier) in ("0", "0.2")


def test_networks_of_the_papers_have_the_papers_layer_and_what_is_given_stays() -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    assert usual_layer(classifier, "layer1") == "layer1"
    classifier.name = "vgg16"
    assert usual_layer(classifier) == "features.17"


def test_a_network_without_positions_is_refused_in_one_sentence() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5))
    with pytest.raises(InputError, match="no layer for a bottleneck"):
        usual_layer(FrozenClassifier(network, preprocessing=PICTURES))
