"""Small real shards: photographs' crops of uneven sizes, whose class and key tell them apart."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data_toys import samples

from lit_iba.data import ShardIndex, write_shards


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., ShardIndex]:
    """Write ``count`` samples in shards of ``size`` to ``tmp_path / name``."""

    def make(count: int, size: int = 7, name: str = "shards") -> ShardIndex:
        return write_shards(samples(count), tmp_path / name, "x", size)

    return make
