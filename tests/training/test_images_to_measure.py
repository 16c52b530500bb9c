"""Feature statistics are of the same images whatever the batches and processes of a training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_toys import prepare

from lit_iba.data import QuickstartDataModule
from lit_iba.errors import InputError
from lit_iba.iba import ReadoutTraining


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("measured"), "")


def measured(folder: Path, count: int, batch_size: int, world: int) -> list[list[torch.Tensor]]:
    """What each of so many processes measures."""
    data = QuickstartDataModule(
        str(folder / "data"),
        **{"train_samples": 40, "val_samples": 8, "test_samples": 8, "batch_size": batch_size},
        **{"block": 2},
    )
    data.setup("fit")
    weights = str(folder / "classifier.safetensors")
    module = ReadoutTraining({"model": "small_cnn", "weights": weights}, "layer2", ["layer2"])
    found = []
    for rank in range(world):
        module._trainer = SimpleNamespace(  # type: ignore[assignment]
            **{"datamodule": data, "global_rank": rank, "world_size": world},
            **{"is_global_zero": False, "progress_bar_callback": None},
        )
        batches = list(module.images_to_measure(count))
        assert all(len(batch) <= batch_size for batch in batches)
        found.append([image for batch in batches for image in batch])
    return found


def test_the_images_depend_on_neither_batches_nor_processes(folder: Path) -> None:
    (whole,) = measured(folder, 13, batch_size=5, world=1)
    assert len(whole) == 13
    for batch_size, world in ((3, 1), (2, 4), (16, 8)):
        found = measured(folder, 13, batch_size, world)
        together = [found[i % world][i // world] for i in range(13)]
        assert torch.equal(torch.stack(together), torch.stack(whole))
        assert sum(map(len, found)) == 13


def test_more_processes_than_images_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="over 3 images, which 4 processes cannot share"):
        measured(folder, 3, 2, 4)
