"""What several test folders share."""

import os
from pathlib import Path

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # one thread each, here and in the programs that tests start: before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from lit_iba import FeatureStatistics, FrozenClassifier


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Real photographs and weights; the test is skipped where they are absent."""
    default = Path(__file__).parents[2] / "shared" / "realdata"
    folder = Path(os.environ.get("LIT_IBA_REALDATA", default))
    if not folder.is_dir():
        pytest.skip("no real data here; set LIT_IBA_REALDATA to its folder")
    return folder


@pytest.fixture(scope="session")
def small_classifier() -> FrozenClassifier:
    """A small network with fixed random weights."""
    return FrozenClassifier("small_cnn", "random")


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Random images (6, 3, 64, 64)."""
    return torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def statistics(small_classifier: FrozenClassifier) -> FeatureStatistics:
    """Statistics of the small network's layer2."""
    samples = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    return FeatureStatistics.estimate(small_classifier, "layer2", samples)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without PNG files, which cost a second each; tests/report and the quickstart's chain
    draw them.
    """
    monkeypatch.setattr("lit_iba.report.write.write_plots", lambda *_: [])
    monkeypatch.setattr("lit_iba.report.write.write_layer_plots", lambda *_: [])


FIRST = ("cluster", "end_to_end", "devices")  # folders whose files take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that none is left alone on one core at the end."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in FIRST)
