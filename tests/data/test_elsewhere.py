"""Order, resume and holes are the same wherever shards lie: on this machine, behind HTTP, in a
bucket of S3, or packed.
"""

import gzip
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from data_toys import cut_in_half, damage_member, flip
from file_server import Server
from recorder import Recorder, SaveAt, trainer

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardDataModule, ShardIndex, index_shards
from lit_iba.data.remote import Remote
from lit_iba.files import sha256_of

MakeShards = Callable[..., ShardIndex]
Place = Callable[[Path], tuple[str, Remote | None]]
# Lightning 2.6 under torch 2.15: its own use of a deprecated class.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(params=["local", "http", "s3", "packed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Puts a folder of shards there; gives its address, and how it is fetched."""
    with ExitStack() as stack:

        def put(folder: Path) -> tuple[str, Remote | None]:
            if request.param == "local":
                return str(folder), None
            if request.param == "http":
                server = Server(folder)
                stack.callback(server.http.server_close)
                stack.callback(server.http.shutdown)
                return f"{server.url}/", Remote()
            if request.param == "packed":
                packed = tmp_path / "packed"
                packed.mkdir()
                for path in folder.glob("*.tar"):
                    (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                counted = ShardIndex.load(folder).shards
                ShardIndex(
                    tuple(
                        replace(s, path=path, bytes=path.stat().st_size, sha256=sha256_of(path))
                        for s, path in zip(counted, sorted(packed.iterdir()), strict=True)
                    )
                ).save(packed)
                return str(packed), None
            options = request.getfixturevalue("s3")
            system: Any = fsspec.filesystem("s3", **options)
            bucket = f"b{uuid.uuid4()}"
            system.mkdir(bucket)
            for path in folder.iterdir():
                system.pipe_file(f"{bucket}/{path.name}", path.read_bytes())
            return f"s3://{bucket}", Remote(str(tmp_path / "cache"), storage_options=options)

        yield put


def module(address: str, remote: Remote | None = None, **settings: Any) -> ShardDataModule:
    return ShardDataModule(
        address,
        preprocessing=Preprocessing(resize=24, crop=20),
        remote=remote,
        **{"batch_size": 4, "block": 2, **settings},
    )


def test_order_and_resume_are_the_same_everywhere(
    tmp_path: Path, make_shards: MakeShards, place: Place
) -> None:
    make_shards(22, 7)
    local, there = str(tmp_path / "shards"), place(tmp_path / "shards")
    reference, whole = Recorder(), Recorder()
    trainer(tmp_path).fit(reference, module(local))
    trainer(tmp_path).fit(whole, module(*there))
    assert whole.trained == reference.trained
    for stop in (2, 7):
        saver = trainer(tmp_path, callbacks=[SaveAt(stop, tmp_path / "c.ckpt")])
        saver.fit(Recorder(), module(*there))
        rest = Recorder()
        trainer(tmp_path).fit(
            rest, module(*there), ckpt_path=tmp_path / "c.ckpt", weights_only=True
        )
        assert rest.trained == reference.trained[stop:], stop


def test_holes_are_the_same_everywhere(
    tmp_path: Path, make_shards: MakeShards, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A picture that is cut; and a header that hides the two samples behind it, and perhaps a part
    of the one before it.
    """
    index = make_shards(22, 7)
    damage_member(index.shards[0].path, "s0003.jpg", cut_in_half)
    damage_member(index.shards[1].path, "s0012.jpg", flip, header=True)
    damaged = (replace(s, sha256=sha256_of(s.path)) for s in index.shards)
    replace(index, shards=tuple(damaged)).save(tmp_path / "shards")
    found = []
    for given in ((str(tmp_path / "shards"),), place(tmp_path / "shards")):
        caplog.clear()
        data = module(*given, max_corrupt_fraction=0.2)
        data.setup("fit")
        with caplog.at_level(logging.WARNING):
            found.append(list(data.train_dataloader()))
        assert "4 of 22 samples could not be decoded" in caplog.text
    for ours, theirs in zip(*found, strict=True):
        assert theirs["key"] == ours["key"]
        for name in ("picture", "label", "object_mask", "weight", "corrupt"):
            assert torch.equal(ours[name], theirs[name]), name


def test_an_index_is_written_for_shards_everywhere(
    tmp_path: Path, make_shards: MakeShards, place: Place
) -> None:
    make_shards(22, 7)
    address, remote = place(tmp_path / "shards")
    source = f"{address}x-{{000000..000003}}.tar" if address.startswith("http") else address
    index = index_shards(source, tmp_path / "index", remote=remote, progress=False)
    found = ShardIndex.load(tmp_path / "index", remote)
    assert [shard.count for shard in found.shards] == [7, 7, 7, 1]
    assert (
        found.identity()
        == index.identity()
        == replace(ShardIndex.load(address, remote), class_names=None).identity()
    )
