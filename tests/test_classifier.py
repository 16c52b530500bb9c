"""Frozen means frozen; and every way of naming weights either works or says what to do."""

import copy
import lzma
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from lit_iba import FrozenClassifier, InputError, Preprocessing
from lit_iba.small_cnn import SmallCNN
from lit_iba.weights import save_weights


def test_a_classifier_stays_frozen() -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    holder = nn.Sequential(classifier, nn.BatchNorm1d(10))
    before = copy.deepcopy(classifier.state_dict())
    holder.train()
    classifier.requires_grad_(True)
    holder(torch.randn(4, 3, 64, 64)).sum().backward()
    assert not any(module.training for module in classifier.modules())
    assert not any(p.requires_grad for p in classifier.parameters())
    assert all(p.grad is None for p in classifier.parameters())
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())


def test_weights_load_from_every_kind_of_file(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None)
    state = model.state_dict()
    torch.save(state, tmp_path / "a.pth")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors.xz").write_bytes(lzma.compress((tmp_path / "a.safetensors").read_bytes(), preset=0))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(images)
    identities = set()
    for name in ("a.pth", "a.safetensors", "a.safetensors.xz"):
        classifier = FrozenClassifier("resnet18", str(tmp_path / name))
        assert torch.allclose(classifier(images), expected, atol=1e-5)
        identities.add(classifier.identity["sha256"])
    assert len(identities) == 1, "the identity is the weights', not the file's"
    assert classifier.class_names[0] == "tench"
    assert classifier.preprocessing == Preprocessing()


def test_settings_travel_with_our_own_weights(tmp_path: Path) -> None:
    preprocessing = Preprocessing(resize=70, crop=64, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    settings = {"num_classes": 3, "preprocessing": preprocessing.to_dict(), "class_names": ["a", "b", "c"]}
    save_weights(tmp_path / "w.safetensors", SmallCNN(3).state_dict(), settings)
    classifier = FrozenClassifier("small_cnn", str(tmp_path / "w.safetensors"))
    assert (classifier.num_classes, classifier.class_names) == (3, ["a", "b", "c"])
    assert classifier.preprocessing == preprocessing


def test_timm_models_can_be_used() -> None:
    pytest.importorskip("timm")
    classifier = FrozenClassifier("resnet10t", "random")
    assert classifier.num_classes == 1000
    images = torch.randn(1, 3, 64, 64)
    r, carried = classifier.split("layer2").head(images)
    assert torch.allclose(classifier.split("layer2").tail(r, carried), classifier(images), atol=1e-5)


class NeedsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran while loading weights",)


def test_bad_weights_are_refused_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"x": NeedsCode()}, tmp_path / "evil.pth")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    whole = (tmp_path / "r18.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    safetensors.torch.save_file({"a": torch.zeros(9)}, tmp_path / "s.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:-8])

    def offline(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    cases = {
        ("resnet18", "IMAGENET1K_V9"): "did you mean 'IMAGENET1K_V1'",
        ("resnet18", "DEFAULT"): r"put the file resnet18-\w+\.pth into",
        ("resnet81", "random"): "did you mean 'resnet18'|known",
        ("resnet18", str(tmp_path / "none.pth")): "none.pth does not exist",
        ("resnet18", str(tmp_path / "evil.pth")): "evil.pth needs code to load",
        ("resnet18", str(tmp_path / "cut.pth")): "cut.pth is damaged",
        ("resnet18", str(tmp_path / "cut.safetensors")): "cut.safetensors is damaged",
        ("resnet50", str(tmp_path / "r18.pth")): "does not fit ResNet",
        ("small_cnn", "DEFAULT"): "has no published weights",
    }
    for (model, weights), message in cases.items():
        with pytest.raises(InputError, match=message):
            FrozenClassifier(model, weights)


def test_a_module_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="must map images"):
        FrozenClassifier(nn.Conv2d(3, 3, 1))


def test_preprocessing_is_torchvisions() -> None:
    from PIL import Image

    picture = Image.effect_noise((300, 260), 80).convert("RGB").resize((301, 263))
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    own = Preprocessing()
    ours = own.normalize(own.picture(picture)[None])[0]
    assert (ours - weights.transforms()(picture)).abs().max() < 0.02  # one grey level where rounding differs
