"""Shards in the exact layouts of those who publish them, made by hand, and indices beside them."""

import gzip
import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from data_toys import jpeg_bytes
from PIL import Image

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.cli.main import main
from lit_iba.data import ShardDataModule, ShardIndex, index_shards
from lit_iba.data.remote import Remote
from lit_iba.data.stream import shard_batches
from lit_iba.errors import InputError

SMALL = Preprocessing(resize=24, crop=20)
SYNSETS = ["n02504458", "n01440764", "n02123045"]  # not in their order


def webp_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg_bytes(number))).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def timm(number: int) -> dict[str, bytes]:
    """timm's imagenet-1k-wds: the key is the file's name in ImageNet."""
    synset = SYNSETS[number % 3]
    name, label = f"{synset}_{100 + number}", sorted(SYNSETS).index(synset)
    said = {"filename": f"{name}.JPEG", "height": 32, "label": label, "width": 40, "synset": synset}
    return {
        f"{name}.cls": str(label).encode(),
        f"{name}.jpg": jpeg_bytes(number),
        f"{name}.json": json.dumps(said).encode(),
    }


def img2dataset(number: int) -> dict[str, bytes]:
    """OpenCLIP's: the key is five digits of the shard and four of the sample."""
    key = f"{number // 3:05d}{number % 3:04d}"
    said = {
        "caption": f"a picture {number}",
        "url": f"https://host/{number}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 40,
        "height": 32,
        "exif": "{}",
        "sha256": "0" * 64,
    }
    return {
        f"{key}.jpg": jpeg_bytes(number),
        f"{key}.json": json.dumps(said).encode(),
        f"{key}.txt": f"a picture {number}".encode(),
    }


def clip_benchmark(number: int) -> dict[str, bytes]:
    return {
        f"s{number:07d}.cls": str(number % 3).encode(),
        f"s{number:07d}.webp": webp_bytes(number),
    }


LAYOUTS = {
    "timm": (timm, "imagenet1k-train-{0000..0001}.tar"),
    "img2dataset": (img2dataset, "{00000..00001}.tar"),
    "clip_benchmark": (clip_benchmark, "{0..1}.tar"),
}


def publish(folder: Path, layout: str) -> str:
    """Two shards of three samples; returns their pattern."""
    make, pattern = LAYOUTS[layout]
    folder.mkdir(exist_ok=True)
    head, _, tail = pattern.partition("{")
    width = len(tail.partition("..")[0])
    for shard in range(2):
        with tarfile.open(folder / f"{head}{shard:0{width}d}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                for name, data in make(number).items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (folder / "_info.json").write_text("{}")  # others lie beside them
    return str(folder / pattern)


def read(index: ShardIndex) -> tuple[list[str], list[int], float]:
    """Keys, labels, and the sum of all pixels."""
    batches = [b for shard in index.shards for b in shard_batches(shard, SMALL, 2)]
    assert all(b["weight"].min() == 1 for b in batches)
    return (
        [key for b in batches for key in b["key"]],
        [label for b in batches for label in b["label"].tolist()],
        float(sum(b["picture"].double().sum() for b in batches)),
    )


@pytest.mark.parametrize(
    ("layout", "labels"),
    [("timm", [2, 0, 1] * 2), ("img2dataset", [-1] * 6), ("clip_benchmark", [0, 1, 2] * 2)],
)
def test_published_layouts_are_read_as_they_are(
    tmp_path: Path, layout: str, labels: list[int]
) -> None:
    pattern = publish(tmp_path / "there", layout)
    keys, found, pixels = read(ShardIndex.load(pattern))
    names = [next(iter(LAYOUTS[layout][0](n))).partition(".")[0] for n in range(6)]
    assert (keys, found) == (names, labels)
    publish(tmp_path / "jpg", "img2dataset")
    expected = read(ShardIndex.load(tmp_path / "jpg"))[2]
    assert pixels == expected  # a lossless WebP shows the same picture as its JPEG


@pytest.mark.parametrize("label", ["cls", "json.label", "json.synset"])
def test_a_label_stands_where_it_is_said_to(tmp_path: Path, label: str) -> None:
    pattern = publish(tmp_path / "there", "timm")
    names = sorted(SYNSETS)
    data = ShardDataModule(
        test=pattern, preprocessing=SMALL, batch_size=6, label=label, class_names=names
    )
    data.setup("test")
    assert next(iter(data.test_dataloader()))["label"].tolist() == [2, 0, 1] * 2


@pytest.mark.parametrize(
    ("label", "names", "message"),
    [
        ("json.class", None, "has no 'class' for a label, only filename, height, label"),
        ("json.synset", None, "'n02504458', a text, and nothing says which class it is; give"),
        ("json.synset", ["a", "b"], "'n02504458', none of the 2 class names; give"),
        ("cls.number", None, "the cls of sample .* has no 'number'"),
    ],
)
def test_labels_that_are_not_there_are_said(
    tmp_path: Path, label: str, names: list[str] | None, message: str
) -> None:
    index = ShardIndex.load(publish(tmp_path / "there", "timm")).labelled(label, names)
    with pytest.raises(InputError, match=message):
        read(index)


def test_an_index_beside_published_shards_says_it_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "there"
    publish(folder, "timm")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    plain = ShardIndex.load(folder)
    command = ["shards", str(folder), "--index_only", "true", "--label", "json.synset"]
    assert main(command) == 0
    assert "6 samples in 2 shards, 3 classes" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    index = ShardIndex.load(folder)
    assert (index.class_names, index.label) == (sorted(SYNSETS), "json.synset")
    assert read(index) == read(plain)  # whose labels are numbers
    index.verify(hashes=True)
    named = index.labelled("cls")
    assert len({plain.identity(), named.identity(), index.identity()}) == 3
    assert ShardIndex.load(index.save(folder)) == index


def test_a_shard_that_an_index_leaves_out_is_labelled_as_those_in_it(
    tmp_path: Path, bucket: str
) -> None:
    """In a folder here and in a bucket; their ``cls`` members have another order of classes."""
    system: Any = fsspec.filesystem("memory")
    folder = str(tmp_path / "there")
    index = index_shards(folder, None, "json.synset", SYNSETS, progress=False)
    whole = read(index)
    index = replace(index, shards=index.shards[:1])
    index.save(folder)
    system.pipe_file(f"{bucket.removeprefix('memory:/')}/index.json", index.text().encode())
    for source in (folder, bucket):
        assert read(ShardIndex.load(f"{source}/imagenet1k-train-{{0000..0001}}.tar")) == whole


def test_where_the_classes_of_some_shards_stand_is_in_the_identity(tmp_path: Path) -> None:
    """Two folders, of which one has an index that says it: the whole has no common label."""
    plain = publish(tmp_path / "a", "timm"), publish(tmp_path / "b", "clip_benchmark")
    before = ShardIndex.load(list(plain))
    index_shards(plain[0], label="json.label", progress=False)
    after = ShardIndex.load(list(plain))
    assert (before.label, after.label) == ("cls", "cls")
    known = [replace(s, sha256=None) for s in after.shards]
    assert replace(after, shards=tuple(known)).identity() != before.identity()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    publish(tmp_path / "there", "timm")
    name = f"/{uuid.uuid4()}/train"
    system: Any = fsspec.filesystem("memory")
    for path in (tmp_path / "there").iterdir():
        system.pipe_file(f"{name}/{path.name}", path.read_bytes())
    yield f"memory:/{name}"
    system.rm(name.removesuffix("/train"), recursive=True)


@pytest.mark.parametrize(
    "words", ["", "/imagenet1k-train-*.tar", "/imagenet1k-train-{0000..0001}.tar"]
)
def test_an_index_of_a_bucket_lies_in_it_or_here(tmp_path: Path, bucket: str, words: str) -> None:
    local = read(ShardIndex.load(tmp_path / "there"))
    elsewhere = index_shards(bucket + words, tmp_path / "indices", progress=False)
    found = ShardIndex.load(tmp_path / "indices", Remote(str(tmp_path / "cache")))
    assert found.identity() == elsewhere.identity()
    assert {shard.url for shard in found.shards} == {s.url for s in elsewhere.shards}
    assert read(found) == local
    index_shards(bucket + words, progress=False)
    beside = ShardIndex.load(bucket)
    assert beside.identity() == found.identity()
    assert read(beside) == local


def test_a_fetched_index_leads_nowhere_else(tmp_path: Path, bucket: str) -> None:
    index = index_shards(bucket, progress=False)
    system: Any = fsspec.filesystem("memory")
    system.pipe_file(
        f"{bucket.removeprefix('memory:/')}/index.json", index.text(at="pipe:rm -rf /").encode()
    )
    assert [s.url for s in ShardIndex.load(bucket).shards] == [
        f"{bucket}/{s.name}" for s in index.shards
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://host/folder/", "nobody can list http://host/folder/; give a pattern"),
        ("memory://nothing/here", "it is not there; correct the address"),
        ("memory://{a,b}/x.tar", "the shards lie in 2 folders"),
    ],
)
def test_sources_that_cannot_be_indexed_are_said(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index_shards(source, progress=False)


def test_a_packed_shard_is_read_slowly_and_so_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path / "plain", "timm")
    (tmp_path / "packed").mkdir()
    for path in (tmp_path / "plain").glob("*.tar"):
        (tmp_path / "packed" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    index = ShardIndex.load(tmp_path / "packed")
    assert "and 1 more: a packed shard is unpacked whole each time it is read" in caplog.text
    assert read(index) == read(ShardIndex.load(tmp_path / "plain"))
    assert [s.stem for s in index.shards] == [f"imagenet1k-train-000{n}" for n in range(2)]
    index.save(tmp_path / "packed")
    assert ShardIndex.load(tmp_path / "packed").total == 6


def test_a_packed_shard_is_damaged_or_a_bomb(tmp_path: Path) -> None:
    publish(tmp_path, "timm")
    plain = (tmp_path / "imagenet1k-train-0000.tar").read_bytes()
    path, whole = tmp_path / "x.tar.gz", gzip.compress(plain)
    padded = gzip.compress(plain + bytes(1 << 19))  # whole as a tar, but not as a gzip
    for data in (whole[: len(whole) // 2], whole[:-6], padded[:-8] + bytes(8)):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"x\.tar\.gz is damaged"):
            ShardIndex.load(path)
    path.write_bytes(gzip.compress(bytes(70 << 20), 1))
    with pytest.raises(InputError, match=r"x\.tar\.gz holds more than .* LIT_IBA_MAX_EXPANSION"):
        ShardIndex.load(path)
