"""Pictures in shards: the format, the order in which samples are read, and the
LightningDataModules.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.data.image_folder import ImageFolder as ImageFolder
    from lit_iba.data.loader import SampleLoader as SampleLoader
    from lit_iba.data.loader import shard_loader as shard_loader
    from lit_iba.data.modules import ImageFolderDataModule as ImageFolderDataModule
    from lit_iba.data.modules import QuickstartDataModule as QuickstartDataModule
    from lit_iba.data.modules import ShardDataModule as ShardDataModule
    from lit_iba.data.pipeline_module import PipelineDataModule as PipelineDataModule
    from lit_iba.data.plan import SamplePlan as SamplePlan
    from lit_iba.data.published import index_shards as index_shards
    from lit_iba.data.quickstart import QuickstartSettings as QuickstartSettings
    from lit_iba.data.quickstart import make_quickstart as make_quickstart
    from lit_iba.data.remote import Remote as Remote
    from lit_iba.data.sample_module import SampleDataModule as SampleDataModule
    from lit_iba.data.shard import Shard as Shard
    from lit_iba.data.shard_writer import write_shards as write_shards
    from lit_iba.data.shards import ShardIndex as ShardIndex
    from lit_iba.data.stream import shard_batches as shard_batches
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.data.image_folder": ["ImageFolder"],
            "lit_iba.data.loader": ["SampleLoader", "shard_loader"],
            "lit_iba.data.modules": [
                "ImageFolderDataModule",
                "QuickstartDataModule",
                "ShardDataModule",
            ],
            "lit_iba.data.sample_module": ["SampleDataModule"],
            "lit_iba.data.pipeline_module": ["PipelineDataModule"],
            "lit_iba.data.plan": ["SamplePlan"],
            "lit_iba.data.published": ["index_shards"],
            "lit_iba.data.quickstart": ["QuickstartSettings", "make_quickstart"],
            "lit_iba.data.remote": ["Remote"],
            "lit_iba.data.shard_writer": ["write_shards"],
            "lit_iba.data.shard": ["Shard"],
            "lit_iba.data.shards": ["ShardIndex"],
            "lit_iba.data.stream": ["shard_batches"],
        },
    )
