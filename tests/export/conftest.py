"""What the tests of exports share."""

from pathlib import Path

import pytest
from export_toys import trained_like

from lit_iba.classifier import FrozenClassifier
from lit_iba.export import export_explainer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a small network's readout, without programs."""
    explainer = trained_like(FrozenClassifier("small_cnn", "random"), "layer1", ["layer1"])
    folder = tmp_path_factory.mktemp("exported") / "export"
    return export_explainer(explainer, folder, ["safetensors"], progress=False).folder
