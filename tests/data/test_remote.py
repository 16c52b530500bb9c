"""Shards from a server that fails on purpose, and from commands."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import Server

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardDataModule, ShardIndex
from lit_iba.data.remote import Remote
from lit_iba.data.stream import shard_batches
from lit_iba.errors import InputError

SMALL = Preprocessing(resize=24, crop=20)


@pytest.fixture
def server(tmp_path: Path, make_shards: Any) -> Iterator[Server]:
    make_shards(22, 7)
    found = Server(tmp_path / "shards")
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = time.sleep
    monkeypatch.setattr("lit_iba.data.remote.time.sleep", lambda seconds: pause(min(seconds, 0.01)))


def keys(index: ShardIndex) -> list[str]:
    return [k for shard in index.shards for b in shard_batches(shard, SMALL, 5) for k in b["key"]]


EVERY = [f"s{n:04d}" for n in range(22)]


@pytest.mark.parametrize("source", ["/", "/index.json", "/x-{000000..000003}.tar"])
def test_an_index_elsewhere_is_read_like_one_here(server: Server, source: str) -> None:
    index = ShardIndex.load(server.url + source)
    index.verify()
    assert index.total == 22
    assert keys(index) == EVERY
    assert index.identity() == ShardIndex.load(server.folder).identity()


def test_shards_without_an_index_are_counted(server: Server) -> None:
    (server.folder / "index.json").unlink()
    index = ShardIndex.load([f"{server.url}/x-00000{n}.tar" for n in range(4)])
    assert [shard.count for shard in index.shards] == [7, 7, 7, 1]
    assert keys(index) == EVERY


@pytest.mark.parametrize("tags", [True, False])
def test_what_breaks_and_comes_back_is_not_noticed(server: Server, tags: bool) -> None:
    server.tags = tags
    server.faults = {
        "/index.json": [503],
        "/x-000000.tar": [503, 503],
        "/x-000001.tar": ["cut", "cut"],
        "/x-000002.tar": ["stall"],
    }
    index = ShardIndex.load(server.url + "/", Remote(timeout=0.5))
    assert keys(index) == EVERY
    resumed = [found for path, found in server.requests if path == "/x-000001.tar"]
    assert [found is not None for found in resumed] == [False, tags, tags]


def test_what_will_not_come_back_is_said_at_once(server: Server) -> None:
    index = ShardIndex.load(server.url + "/")
    (server.folder / "x-000002.tar").unlink()
    before = len(server.requests)
    with pytest.raises(InputError, match=r"x-000002\.tar cannot be had: 404"):
        keys(index)
    assert len(server.requests) == before + 3
    server.faults = {"/x-000000.tar": [503] * 9}
    with pytest.raises(InputError, match=r"x-000000\.tar cannot be had after 5 attempts \(503"):
        keys(index)
    with pytest.raises(InputError, match="after 2 attempts"):
        ShardIndex.load("http://127.0.0.1:9/", Remote(attempts=2))


def test_another_file_than_indexed_is_refused(server: Server) -> None:
    index = ShardIndex.load(server.url + "/")
    path = server.folder / "x-000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="not what was indexed"):
        keys(index)
    path.write_bytes(content[:-512])
    with pytest.raises(InputError, match="but the index says"):
        keys(index)


def test_the_cache_saves_requests_and_keeps_its_size(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    index = ShardIndex.load(server.url + "/", Remote(str(cache)))
    assert keys(index) == keys(index) == EVERY
    assert len([path for path, _ in server.requests if path.endswith(".tar")]) == 4
    size = index.shards[0].bytes
    small = ShardIndex.load(
        server.url + "/", Remote(str(tmp_path / "small"), cache_gib=2.5 * size / 2**30)
    )
    assert keys(small) == keys(small) == EVERY
    assert sum(p.stat().st_size for p in (tmp_path / "small").iterdir()) <= 2.5 * size
    next(iter(cache.glob("*x-000000.tar"))).write_bytes(b"cut")
    assert keys(index) == EVERY


def test_workers_stream_from_elsewhere(server: Server, tmp_path: Path) -> None:
    data = ShardDataModule(
        server.url + "/",
        preprocessing=SMALL,
        batch_size=4,
        num_workers=2,
        remote=Remote(str(tmp_path / "cache")),
    )
    data.setup("fit")
    seen = [k for batch in data.train_dataloader() for k in batch["key"] if k]
    assert sorted(seen) == EVERY


def test_commands_run_only_when_allowed(server: Server) -> None:
    source = f"pipe:cat {server.folder}/x-{{000000..000003}}.tar"
    with pytest.raises(InputError, match=r"allow_pipe"):
        ShardIndex.load(source)
    assert keys(ShardIndex.load(source, Remote(allow_pipe=True))) == EVERY
    with pytest.raises(InputError, match=r"ended with status \d+ \(.*No such file"):
        ShardIndex.load("pipe:cat /nowhere/x.tar", Remote(allow_pipe=True))
