"""A run for the explorer, of a tiny network that can be made again."""

from collections.abc import Iterator
from pathlib import Path

import benchmark_toys as toys
import pytest

from lit_iba import Benchmark, FrozenClassifier, Preprocessing
from lit_iba.view import ExplorerSession
from lit_iba.view.worker import Worker

IBA = {"layer": "layer2", "steps": 3, "copies": 2, "beta": 5.0}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark's folder."""
    folder = tmp_path_factory.mktemp("explorer")
    data = toys.make_data(folder / "data", count=6, corrupt=())
    square = Preprocessing(resize=None, crop=toys.SIDE)
    Benchmark(
        FrozenClassifier("small_cnn", "random", preprocessing=square),
        data,
        {"per_sample_iba": IBA, "random": None},
        {"degradation": {"tile": 4}, "deletion": {"pixels_per_step": 64}, "bounding_box": {}},
        folder / "run",
        statistics_data=data,
        gallery=4,
    ).run()
    return folder / "run"


@pytest.fixture(scope="session")
def session(run: Path) -> ExplorerSession:
    return ExplorerSession.of_run(run)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()
