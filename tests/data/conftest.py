"""Small real shards: photographs' crops of uneven sizes, whose class and key tell them apart."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from data_toys import samples

from lit_iba.data import ShardIndex, write_shards


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., ShardIndex]:
    """Write ``count`` samples in shards of ``size`` to ``tmp_path / name``."""

    def make(count: int, size: int = 7, name: str = "shards") -> ShardIndex:
        return write_shards(samples(count), tmp_path / name, "x", size)

    return make


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """Storage options of a server on this machine."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}", "key": "somebody", "secret": "secret"}
    server.stop()
