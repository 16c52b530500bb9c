"""Shards in buckets: in memory, in one that fails on purpose, and behind a real S3 server."""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec.asyn
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardDataModule, ShardIndex
from lit_iba.data.remote import Remote
from lit_iba.data.stream import shard_batches
from lit_iba.errors import InputError

SMALL = Preprocessing(resize=24, crop=20)
EVERY = [f"s{n:04d}" for n in range(22)]


def keys(index: ShardIndex) -> list[str]:
    return [k for shard in index.shards for b in shard_batches(shard, SMALL, 5) for k in b["key"]]


class CutFile(MemoryFile):
    """Breaks off in its middle."""

    def read(self, size: int = -1) -> bytes:
        middle = self.size // 2
        if self.tell() >= middle:
            raise ConnectionResetError("cut")
        return bytes(super().read(middle - self.tell()))


class Faulty(MemoryFileSystem):
    """``faults[name]`` is a list of what goes wrong at the next openings of that file."""

    protocol = "faulty"
    cachable = False
    faults: ClassVar[dict[str, list[Any]]] = {}
    opened: ClassVar[list[tuple[str, int]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("faulty:/")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        name = path.rpartition("/")[2]
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        if isinstance(fault, Exception):
            raise fault
        found = super()._open(path, mode, **options)
        if mode != "rb":
            return found
        made = (CutFile if fault == "cut" else MemoryFile)(self, path, found.getvalue())
        seek = made.seek
        made.seek = lambda at, *rest: (self.opened.append((name, at)), seek(at, *rest))[1]
        return made


@pytest.fixture
def bucket(tmp_path: Path, make_shards: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    make_shards(22, 7)
    pause = time.sleep
    monkeypatch.setattr("lit_iba.data.remote.time.sleep", lambda seconds: pause(min(seconds, 0.01)))
    monkeypatch.setattr(Faulty, "faults", {})
    monkeypatch.setattr(Faulty, "opened", [])
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    name = f"/{uuid.uuid4()}"
    put(tmp_path / "shards", f"memory:/{name}")
    yield f"faulty:/{name}"
    fsspec.filesystem("memory").rm(name, recursive=True)


def put(folder: Path, url: str, **options: Any) -> None:
    system, place = fsspec.core.url_to_fs(url, **options)
    for path in folder.iterdir():
        system.pipe_file(f"{place}/{path.name}", path.read_bytes())


@pytest.mark.parametrize("source", ["", "/", "/index.json", "/x-{000000..000003}.tar"])
def test_an_index_in_a_bucket_is_read_like_one_here(
    bucket: str, source: str, tmp_path: Path
) -> None:
    index = ShardIndex.load(bucket.replace("faulty", "memory") + source)
    assert keys(index) == EVERY
    assert index.identity() == ShardIndex.load(tmp_path / "shards").identity()


def test_what_breaks_goes_on_where_it_broke(bucket: str) -> None:
    index = ShardIndex.load(bucket)
    Faulty.opened.clear()
    Faulty.faults = {
        "x-000000.tar": [OSError("503 slow down"), RuntimeError("a driver's own")],
        "x-000001.tar": ["cut"],
    }
    assert keys(index) == EVERY
    assert Faulty.opened == [("x-000001.tar", index.shards[1].bytes // 2)]


def test_a_file_that_changed_in_between_is_fetched_from_its_start(bucket: str) -> None:
    index, place = ShardIndex.load(bucket), bucket.partition(":/")[2]
    system = fsspec.filesystem("memory")

    class Replaced(ConnectionError):
        def __str__(self) -> str:
            whole = system.cat_file(f"{place}/x-000001.tar")
            system.pipe_file(f"{place}/x-000001.tar", whole)
            return "replaced"

    Faulty.opened.clear()
    Faulty.faults = {"x-000001.tar": ["cut", Replaced()]}
    assert keys(index) == EVERY
    assert Faulty.opened == []


def test_what_will_not_come_is_said_at_once(bucket: str, tmp_path: Path) -> None:
    index, name = ShardIndex.load(bucket), "x-000002.tar"
    cases = {
        "it is not there": FileNotFoundError(name),
        r"access is refused \(403 Forbidden\); give credentials": PermissionError("403 Forbidden"),
        "Unable to locate credentials.*storage_options": type(
            "NoCredentialsError", (Exception,), {}
        )("Unable to locate credentials"),
        "refuses it .*bad option": TypeError("bad option"),
    }
    for message, error in cases.items():
        Faulty.faults = {name: [error]}
        with pytest.raises(InputError, match=f"{name} cannot be had: .*{message}"):
            keys(index)
        assert Faulty.faults == {name: []}
    Faulty.faults = {name: [OSError("503")] * 9}
    with pytest.raises(InputError, match=r"cannot be had after 5 attempts \(503\)"):
        keys(index)
    assert len(Faulty.faults[name]) == 4
    with pytest.raises(InputError, match="begin with nowhere://"):
        ShardIndex.load("nowhere://x/val")
    with pytest.raises(InputError, match="needs a driver that is not installed"):
        ShardIndex.load("gs://bucket/val")


def test_another_file_than_indexed_is_refused(bucket: str) -> None:
    index, place = ShardIndex.load(bucket), bucket.partition(":/")[2]
    system = fsspec.filesystem("memory")
    content = bytearray(system.cat_file(f"{place}/x-000001.tar"))
    content[700] ^= 1
    system.pipe_file(f"{place}/x-000001.tar", bytes(content))
    with pytest.raises(InputError, match="not what was indexed"):
        keys(index)
    system.pipe_file(f"{place}/x-000001.tar", bytes(content) + b"0")
    with pytest.raises(InputError, match=r"more than the .* bytes"):
        keys(index)


def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    fsspec.asyn.get_loop()
    with fsspec.asyn.get_lock():
        child = os.fork()
        if not child:
            inherited = fsspec.asyn.get_lock().locked() or fsspec.asyn.iothread[0] is not None
            os._exit(int(inherited))
    assert os.waitpid(child, 0)[1] == 0


def test_workers_train_from_s3_and_share_a_cache(
    s3: dict[str, Any], tmp_path: Path, make_shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(22, 7)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    fsspec.filesystem("s3", **s3).mkdir("pictures")
    put(tmp_path / "shards", "s3://pictures/val", **s3)
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        remote = Remote(cache, storage_options=s3)
        data = ShardDataModule(
            "s3://pictures/val", preprocessing=SMALL, batch_size=4, num_workers=2, remote=remote
        )
        data.setup("fit")
        seen = [k for batch in data.train_dataloader() for k in batch["key"] if k]
        assert sorted(seen) == EVERY
        data.teardown("fit")
    with pytest.raises(InputError, match="it is not there"):
        ShardIndex.load("s3://pictures/train", Remote(storage_options=s3))
    once = {"retries": {"max_attempts": 0}}
    away = s3 | {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": once}
    with pytest.raises(InputError, match="after 1 attempts"):
        ShardIndex.load("s3://pictures/val", Remote(attempts=1, storage_options=away))
