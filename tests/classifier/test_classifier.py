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
from lit_iba.classifier import TracedNetwork
from lit_iba.classifier.folding import fold_batch_norms
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights


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


@pytest.mark.slow
def test_the_folded_network_is_the_same_function_with_the_same_gradient() -> None:
    classifier = FrozenClassifier("resnet18", "random").double()
    before = copy.deepcopy(classifier.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        folded = classifier.folded()  # made under inference mode, used for gradients below
    assert classifier.folded() is folded, "it is made once"
    plain, fast = classifier(images), folded(images)
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)
    wanted, found = (torch.autograd.grad(logits[:, 3].sum(), images)[0] for logits in (plain, fast))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in _modules_that_run(folded, images))
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert copy.deepcopy(classifier).folded() is not folded


class CallsItsNorm(nn.Module):
    """A batch norm as a function, as timm's networks have it."""

    def __init__(self, training: bool = False) -> None:
        super().__init__()
        self.norm, self.conv, self.on_the_batch = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3), training
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n, x = self.norm, self.conv(images)
        x = nn.functional.batch_norm(
            x, n.running_mean, n.running_var, n.weight, n.bias, self.on_the_batch, 0.0, n.eps
        )
        return x.relu().mean(dim=(2, 3))


@pytest.mark.parametrize("on_the_batch", [False, True])
def test_a_batch_norm_that_is_called_is_folded_where_its_statistics_are_kept(
    on_the_batch: bool,
) -> None:
    model = CallsItsNorm(on_the_batch).double().eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    folded = fold_batch_norms(TracedNetwork(model).whole())
    torch.testing.assert_close(folded(images), model(images), rtol=1e-12, atol=1e-12)
    calls = [node.target for node in folded.graph.nodes if node.op == "call_function"]
    assert (nn.functional.batch_norm in calls) == on_the_batch
    assert any(node.op == "get_attr" for node in folded.graph.nodes) == on_the_batch
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def _modules_that_run(function: object, images: torch.Tensor) -> list[nn.Module]:
    """The modules that a call enters."""
    entered: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, _inputs: entered.append(module)
    )
    with torch.no_grad():
        function(images)  # type: ignore[operator]
    handle.remove()
    assert entered
    return entered


def test_the_folded_network_follows_weights_hooks_and_moves() -> None:
    classifier = FrozenClassifier("resnet18", "random")
    images = torch.randn(2, 3, 64, 64)

    def same() -> bool:
        with torch.inference_mode():
            return torch.allclose(
                classifier.folded()(images), classifier(images), rtol=1e-4, atol=1e-4
            )

    assert same()
    with torch.no_grad():
        classifier.model.layer1[0].bn1.weight.mul_(3)
        classifier.model.conv1.weight.add_(0.1)
    assert same()
    handle = classifier.model.bn1.register_forward_hook(lambda _m, _i, output: output * 0)
    assert classifier.folded() is classifier
    handle.remove()
    assert classifier.folded() is not classifier
    assert classifier.double().folded()(images.double()).dtype == torch.float64


def test_networks_that_cannot_be_traced_are_run_as_they_are() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.norm(self.conv(images)).mean(dim=(2, 3))
            signs = [1 if float(image.sum()) > 0 else -1 for image in images]
            return features * torch.tensor(signs)[:, None]

    classifier = FrozenClassifier(Branching())
    for sign in (1, -1):
        images = torch.rand(2, 3, 8, 8) * sign
        assert torch.equal(classifier.folded()(images), classifier(images))


@pytest.mark.slow
def test_weights_load_from_every_kind_of_file(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv" in name and name.startswith(("layer3", "layer4")):
                parameter.zero_()  # zeros compress at once; the shortcuts still carry the picture
    state = model.state_dict()
    torch.save(state, tmp_path / "a.pth")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors.xz").write_bytes(
        lzma.compress((tmp_path / "a.safetensors").read_bytes(), preset=0)
    )
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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_what_wrappers_put_round_weights_is_taken_off(
    prefix: str, nested: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = SmallCNN().state_dict()
    wrapped = {prefix + name: tensor for name, tensor in plain.items()}
    torch.save({nested: wrapped, "epoch": 3} if nested else wrapped, tmp_path / "net.pth")
    classifier = FrozenClassifier("small_cnn", str(tmp_path / "net.pth"))
    assert all(torch.equal(plain[n], t) for n, t in classifier.model.state_dict().items())
    assert any(f"the prefix {prefix!r} of all names" in message for message in caplog.messages)


def test_settings_travel_with_our_own_weights(tmp_path: Path) -> None:
    preprocessing = Preprocessing(resize=70, crop=64, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    settings = {
        "num_classes": 3,
        "preprocessing": preprocessing.to_dict(),
        "class_names": ["a", "b", "c"],
    }
    save_weights(tmp_path / "w.safetensors", SmallCNN(3).state_dict(), settings)
    classifier = FrozenClassifier("small_cnn", str(tmp_path / "w.safetensors"))
    assert (classifier.num_classes, classifier.class_names) == (3, ["a", "b", "c"])
    assert classifier.preprocessing == preprocessing


def test_weights_of_a_timm_network_with_same_padding_load_as_saved_from_here_and_by_timm(
    tmp_path: Path,
) -> None:
    timm = pytest.importorskip("timm")
    name = "tf_mobilenetv3_small_minimal_100"
    theirs = timm.create_model(name).eval()
    save_weights(tmp_path / "timms.safetensors", theirs.state_dict(), {})
    first = FrozenClassifier(name, str(tmp_path / "timms.safetensors"))
    assert first.model.state_dict().keys() != theirs.state_dict().keys()
    save_weights(tmp_path / "ours.safetensors", first.model.state_dict(), {})
    again = FrozenClassifier(name, str(tmp_path / "ours.safetensors"))
    assert again.identity["sha256"] == first.identity["sha256"]
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(again(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_timm_models_can_be_used() -> None:
    pytest.importorskip("timm")
    classifier = FrozenClassifier("resnet10t", "random")
    assert classifier.num_classes == 1000
    images = torch.randn(1, 3, 64, 64)
    r, carried = classifier.split("layer2").head(images)
    assert torch.allclose(
        classifier.split("layer2").tail(r, carried), classifier(images), atol=1e-5
    )


class NeedsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran while loading weights",)


def test_bad_weights_are_refused_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert (
        ours - weights.transforms()(picture)
    ).abs().max() < 0.02  # one grey level where rounding differs


def test_another_number_of_classes_is_numbered() -> None:
    classifier = FrozenClassifier("squeezenet1_1", "random", num_classes=4)
    assert classifier.num_classes == 4
    assert classifier.class_names == ["0", "1", "2", "3"]
