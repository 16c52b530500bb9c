"""Pictures in shards: the format, the order in which samples are read, and the LightningDataModules.

The Lightning classes are imported on first use, so that worker processes start without Lightning.
"""

from typing import TYPE_CHECKING, Any

from lit_iba.data.plan import SamplePlan
from lit_iba.data.shards import Shard, ShardIndex, write_shards
from lit_iba.data.stream import SampleLoader, shard_batches, shard_loader

if TYPE_CHECKING:
    from lit_iba.data.modules import ImageFolderDataModule, QuickstartDataModule, ShardDataModule

__all__ = [
    "ImageFolderDataModule",
    "QuickstartDataModule",
    "SampleLoader",
    "SamplePlan",
    "Shard",
    "ShardDataModule",
    "ShardIndex",
    "shard_batches",
    "shard_loader",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    if name in ("ImageFolderDataModule", "QuickstartDataModule", "ShardDataModule"):
        from lit_iba.data import modules

        return getattr(modules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
