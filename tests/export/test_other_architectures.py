"""Networks of other kinds than the small one are exported as well."""

from pathlib import Path

import pytest
from export_toys import Untraceable, tiny_transformer, trained_like
from slim_networks import slim

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.export import export_explainer

# torch 2.11 says so of every weight while it loads a .pt2; its own copy follows.
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet18", "vit", "swin", "untraceable"])
def test_other_architectures_export(kind: str, tmp_path: Path) -> None:
    if kind == "resnet18":
        classifier = FrozenClassifier(slim(kind), preprocessing=Preprocessing(resize=None, crop=64))
        layer, taps = "layer1", ["layer1", "layer2", "layer3", "layer4", "fc"]
    elif kind == "untraceable":
        classifier = FrozenClassifier(
            Untraceable(), preprocessing=Preprocessing(resize=None, crop=64)
        )
        layer, taps = "net.layer1", ["net.layer1", "net.layer3"]
    else:
        network, layer, taps = tiny_transformer(kind)
        classifier = FrozenClassifier(network, preprocessing=Preprocessing(resize=None, crop=32))
    report = export_explainer(
        trained_like(classifier, layer, taps), tmp_path / "out", progress=False
    )
    assert max(error for errors in report.errors.values() for error in errors.values()) < 1e-4
