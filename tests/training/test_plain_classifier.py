"""What a training is given of its classifier can be read from its checkpoint without code."""

from pathlib import Path
from typing import Any

import pytest

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.errors import InputError
from lit_iba.iba import ReadoutTraining
from lit_iba.varsal import VarSalTraining


@pytest.mark.parametrize("training", [ReadoutTraining, VarSalTraining])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": SmallCNN()}, "model is or has a SmallCNN, .* name a function that makes it"),
        ({"weights": Path("x.safetensors")}, "weights is or has a PosixPath, .* as a config would"),
        ({"preprocessing": Preprocessing(crop=64)}, "preprocessing is or has a Preprocessing"),
        ({"objective": {"name": [SmallCNN]}}, "objective is or has a type"),
    ],
)
def test_objects_are_refused_before_the_training_whose_checkpoint_would_be_lost(
    training: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        training({"model": "small_cnn", "weights": "random", **settings})
