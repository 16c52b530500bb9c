"""What is trained on labels refuses pictures without one, and labels that its network does not
know: padding alone has none.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_toys import prepare

from lit_iba.activity import ZeroBiasTraining
from lit_iba.baselines import MaskingTraining
from lit_iba.data import ShardDataModule
from lit_iba.errors import InputError
from lit_iba.iba import ReadoutTraining
from lit_iba.training import ClassifierTraining


def batch_of(labels: list[int]) -> dict[str, Any]:
    """Four slots, of which the last is padding."""
    pictures = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    return {
        "picture": pictures.byte(),
        "label": torch.tensor([*labels, -1]),
        "weight": torch.tensor([1.0, 1.0, 1.0, 0.0]),
        "key": ["a", "b", "c", ""],
    }


def training(kind: str, folder: Path) -> Any:
    prepare(folder, "")
    classifier = {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")}
    if kind == "classifier":
        return ClassifierTraining("small_cnn", num_classes=10)
    if kind == "zero bias":
        return ZeroBiasTraining(classifier)
    if kind == "masking":
        return MaskingTraining(classifier, target="label")
    return ReadoutTraining(classifier, "layer2", ["layer2", "fc"], readout={"hidden": [8, 8]})


def validated(module: Any, labels: list[int]) -> None:
    """A step of validation, as a trainer makes it with a data module of ours."""
    module.eval()
    data = ShardDataModule()
    data.trainer = SimpleNamespace(lightning_module=module)
    module.validation_step(data.on_before_batch_transfer(batch_of(labels), 0), 0)


@pytest.mark.parametrize("kind", ["classifier", "zero bias", "masking", "readout"])
def test_labels_are_asked_for_and_compared_with_the_classes(kind: str, tmp_path: Path) -> None:
    module = training(kind, tmp_path)
    validated(module, [0, 9, 3])
    with pytest.raises(
        InputError, match=r"sample 'b' has label 10, but the classifier knows 0\.\.9"
    ):
        validated(module, [0, 10, 3])
    if kind == "zero bias":
        return  # which only its accuracies need
    with pytest.raises(InputError, match=r"^sample 'c' has no label; give data with labels"):
        validated(module, [0, 9, -1])


def test_accuracies_of_zero_bias_training_are_of_pictures_with_a_label(tmp_path: Path) -> None:
    module = training("zero bias", tmp_path)
    batch = batch_of([-1, -1, -1])
    labels = module.classifier(module.images_of(batch)).argmax(dim=1)
    batch["label"][0] = labels[0]
    module.validation_step(batch, 0)
    assert module.scores["original_accuracy_top1"].compute() == 1
    assert module.scores["agreement"].compute() == 1


@pytest.mark.parametrize("kind", ["zero bias", "masking", "readout"])
def test_labels_are_the_classifiers_classes_by_name_too(kind: str, tmp_path: Path) -> None:
    module = training(kind, tmp_path)
    module.classifier.class_names = [f"class {i}" for i in range(10)]
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(class_names=["class_0", "class 2"]))
    with pytest.raises(InputError, match="label 1 of the data is 'class 2', but class 1 of the"):
        validated(module, [0, 1, 1])
