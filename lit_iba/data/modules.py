"""The LightningDataModules: shards, a folder of pictures, and the embedded digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_iba.data.image_folder import FolderSource, ImageFolder
from lit_iba.data.quickstart import QUICKSTART_PREPROCESSING, QuickstartSettings, make_quickstart
from lit_iba.data.remote import Remote
from lit_iba.data.sample_module import SampleDataModule
from lit_iba.data.shards import ShardIndex
from lit_iba.data.sources import SampleSource, ShardSource


class ShardDataModule(SampleDataModule):
    """Streams shards.

    Args:
        train: Shards for training: a folder, an ``index.json``, tars or a pattern (see
            :meth:`ShardIndex.load`).
        val: Shards for validation.
        test: Shards for the test.
        predict: Shards for prediction, read in their own order.
        remote: How shards are fetched whose address begins with ``http(s)://``, ``s3://`` or
            ``pipe:``.
        label: Where the class of a sample stands, if not where the index says: ``cls``, ``txt``, or
            a field such as ``json.label`` (see :meth:`ShardIndex.labelled`).
        class_names: Names of the classes in the order of their labels, if not the index's.
        loading: As in :class:`SampleDataModule`.

    Example:
        >>> from lit_iba.data import ShardDataModule
        >>> data = ShardDataModule(train="digits/train", val="digits/val", batch_size=4)
        >>> data.setup("fit")
        >>> len(data.train_dataloader())
        4
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        predict: str | list[str] | None = None,
        *,
        remote: Remote | None = None,
        label: str | None = None,
        class_names: list[str] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.remote = remote
        self.label = label
        self._class_names = class_names
        self.shards: dict[str, str | Sequence[str] | None] = {
            "train": train,
            "val": val,
            "test": test,
            "predict": predict,
        }

    def load(self, split: str) -> tuple[SampleSource, list[str] | None] | None:
        """Load and verify the index of a split."""
        source = self.shards[split]
        if source is None:
            return None
        index = ShardIndex.load(source, self.remote)
        index.verify()
        if self.label is not None or self._class_names is not None:
            index = index.labelled(self.label or index.label, self._class_names)
        return ShardSource(index.shards), index.class_names


class QuickstartDataModule(ShardDataModule):
    """The embedded digits; their shards are made once, in a few seconds.

    Args:
        folder: Where the shards are, or will be.
        train_samples: Number of training pictures.
        val_samples: Number of validation pictures.
        test_samples: Number of test pictures.
        data_seed: Seed of the pictures.
        loading: As in :class:`SampleDataModule`; the size of the pictures is given.

    Example:
        >>> from lit_iba.data import QuickstartDataModule
        >>> data = QuickstartDataModule(
        ...     "quickstart", train_samples=8, val_samples=4, test_samples=4, batch_size=4
        ... )
        >>> data.prepare_data()
        >>> data.setup("fit")
        >>> len(data.train_dataloader())
        2
    """

    def __init__(
        self,
        folder: str = "data/quickstart",
        *,
        train_samples: int = 4000,
        val_samples: int = 400,
        test_samples: int = 400,
        data_seed: int = 0,
        **loading: Any,
    ) -> None:
        root = Path(folder)
        super().__init__(
            str(root / "train"),
            str(root / "val"),
            str(root / "test"),
            str(root / "test"),
            preprocessing=QUICKSTART_PREPROCESSING,
            remote=None,
            label=None,
            class_names=None,
            **loading,
        )
        self.folder = root
        self.settings = QuickstartSettings(train_samples, val_samples, test_samples, seed=data_seed)

    def prepare_data(self) -> None:
        """Make the shards, if they are not there."""
        make_quickstart(self.folder, self.settings)

    def setup(self, stage: str | None = None) -> None:
        """Make the shards, if nobody called :meth:`prepare_data`, and verify them."""
        make_quickstart(self.folder, self.settings)
        super().setup(stage)


class ImageFolderDataModule(SampleDataModule):
    """Pictures in one folder a class, without shards: for small data sets, or a first look.

    Args:
        train: Folder that holds a folder of training pictures for each class.
        val: The same for validation.
        test: The same for the test.
        predict: The same for prediction.
        boxes: A folder of Pascal VOC files or a CSV file (see :meth:`ImageFolder.load`), for val,
            test and predict.
        class_names: Names of the folders in the order of their labels; by default they are sorted.
        loading: As in :class:`SampleDataModule`.

    Example:
        >>> from lit_iba.data import ImageFolderDataModule
        >>> data = ImageFolderDataModule(test="photographs", batch_size=2)
        >>> data.setup("test")
        >>> next(iter(data.test_dataloader()))["picture"].shape
        torch.Size([2, 3, 224, 224])
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        *,
        boxes: str | None = None,
        class_names: list[str] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.folders = {"train": train, "val": val, "test": test, "predict": predict}
        self.boxes = boxes
        self._class_names = class_names

    def load(self, split: str) -> tuple[SampleSource, list[str] | None] | None:
        """Find the pictures of a split."""
        folder = self.folders[split]
        if folder is None:
            return None
        found = ImageFolder.load(
            folder, None if split == "train" else self.boxes, self._class_names
        )
        return FolderSource(found.images), found.class_names
