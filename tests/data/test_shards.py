"""Writing, counting and verifying shards; what is wrong with a file is said with its name."""

import importlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from data_toys import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from lit_iba.data import ShardIndex, write_shards
from lit_iba.data.patterns import expand_braces
from lit_iba.data.tar_samples import TarSamples
from lit_iba.errors import InputError

MakeShards = Callable[..., ShardIndex]


def read_all(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    reader, found = TarSamples(path), []
    while (sample := reader.next()) is not None:
        found.append((sample.key, sample.members))
    reader.close()
    assert reader.damage is None
    return found


def test_what_is_written_is_read_back(tmp_path: Path, make_shards: MakeShards) -> None:
    from data_toys import samples

    index = make_shards(17, 5)
    assert [shard.count for shard in index.shards] == [5, 5, 5, 2]
    read = [sample for shard in index.shards for sample in read_all(shard.path)]
    assert [key for key, _ in read] == [sample["key"] for sample in samples(17)]
    for (_, members), sample in zip(read, samples(17), strict=True):
        assert members["jpg"] == sample["jpg"]
        assert int(members["cls"]) == sample["cls"]
        assert json.loads(members["json"]) == sample["json"]
    assert ShardIndex.load(tmp_path / "shards") == index
    index.verify(hashes=True)


def test_webdataset_reads_the_same_samples(make_shards: MakeShards) -> None:
    index = make_shards(9, 4)
    for shard in index.shards:
        with shard.path.open("rb") as file:
            theirs = list(group_by_keys(tar_file_expander([{"url": shard.name, "stream": file}])))
        assert [(s["__key__"], s["jpg"], s["cls"]) for s in theirs] == [
            (key, members["jpg"], members["cls"]) for key, members in read_all(shard.path)
        ]


NAMES = st.text("abé/. ", min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_names_mean_what_they_mean_to_webdataset(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """Also with several dots, folders with dots, and none; but hidden files are nobody's."""
    names = [f"a{name}".rstrip("/") for name in names if "/." not in name]
    path = tmp_path_factory.getbasetemp() / "names.tar"
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            tar.addfile(tarfile.TarInfo(name + ("X" if number % 2 else "")))
    with path.open("rb") as file, suppress(ValueError):  # where a name comes twice
        theirs = list(group_by_keys(tar_file_expander([{"url": "x", "stream": file}])))
        expected = [
            (s["__key__"], sorted(e for e in s if not e.startswith("__")))
            for s in theirs
            if not s["__key__"].endswith("/")  # a hidden file
        ]
        assert [(key, sorted(members)) for key, members in read_all(path)] == expected


def test_shards_have_the_bytes_that_they_always_had(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    """Python's own writer wrote them once; equal bytes keep results that rest on them."""
    shard = make_shards(5, 5).shards[0].path
    with tarfile.open(tmp_path / "before.tar", "w") as tar:
        for key, members in read_all(shard):
            for extension in ("jpg", "cls", "json"):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(members[extension])
                tar.addfile(member, io.BytesIO(members[extension]))
    assert shard.read_bytes() == (tmp_path / "before.tar").read_bytes()


def test_equal_samples_give_equal_bytes(make_shards: MakeShards) -> None:
    first, second = make_shards(8, 4, "first"), make_shards(8, 4, "second")
    assert [s.path.read_bytes() for s in first.shards] == [
        s.path.read_bytes() for s in second.shards
    ]
    assert first.identity() == second.identity()
    assert first.identity() != make_shards(9, 4, "third").identity()


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.text("ab-_é/中", min_size=1, max_size=130).map(lambda t: "k" + t),
        min_size=1,
        unique=True,
    ),
    kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    data=st.data(),
)
def test_the_reader_agrees_with_tarfile(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("tar") / "t.tar"
    names = list(
        dict.fromkeys("/".join(part for part in name.split("/") if part) for name in names)
    )
    with tarfile.open(path, "w", format=kind) as tar:
        for name in names:
            for extension in ("jpg", "mask.png"):
                content = random.Random(name + extension).randbytes(data.draw(st.integers(0, 1200)))
                source = path.with_name("content")
                source.write_bytes(content)
                tar.add(source, f"{name}.{extension}")
            folder = tarfile.TarInfo("a" * 120)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    with tarfile.open(path) as tar:
        expected = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    assert {
        f"{k}.{e}": content for k, members in read_all(path) for e, content in members.items()
    } == expected


def test_skipped_samples_do_not_change_the_others(make_shards: MakeShards) -> None:
    path = make_shards(12, 12).shards[0].path
    every = read_all(path)
    reader = TarSamples(path)
    picked = list(reader.read([0, 3, 4, 11, 12]))
    reader.close()
    assert picked[-1] is None
    assert [(s.key, s.members) for s in picked[:-1] if s] == [every[i] for i in (0, 3, 4, 11)]


@pytest.mark.parametrize(
    "pattern",
    [
        "shards",
        "shards/index.json",
        "shards/x-{000000..000002}.tar",
        "shards/x-*.tar",
        "shards/x-00000{0,1,2}.tar",
    ],
)
def test_sources_of_every_kind_find_the_same_shards(
    tmp_path: Path, make_shards: MakeShards, pattern: str
) -> None:
    index = make_shards(12, 5)
    assert ShardIndex.load(str(tmp_path / pattern)) == index
    assert (
        ShardIndex.load([str(shard.path) for shard in index.shards]).identity() == index.identity()
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{08..10}", ["08", "09", "10"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("{b,a{1..2}}-{x,y}", ["b-x", "b-y", "a1-x", "a1-y", "a2-x", "a2-y"]),
        ("{3..1}", ["3", "2", "1"]),
        ("cat {print} my\\ file", ["cat {print} my\\ file"]),  # of a command, which is no pattern
    ],
)
def test_patterns_are_webdatasets(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("s-{0..3.tar", "a brace in .* has no partner"),
        ("{{0..999},{0..999}}{0..99}", r"stands for is 200,000, more than 100,000"),
        ("{a..z}" * 9, "more than 100,000"),
        ("{0..9}" * 9, "is 1,000,000,000, more"),
        ("{0..99999999999999999999999}", "more than 100,000"),
    ],
)
def test_patterns_that_stand_for_nothing_or_too_much_are_refused(
    pattern: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        expand_braces(pattern)


def test_shards_without_an_index_are_counted(tmp_path: Path, make_shards: MakeShards) -> None:
    index = make_shards(12, 5)
    (tmp_path / "shards/index.json").unlink()
    counted = ShardIndex.load(tmp_path / "shards")
    assert [(s.name, s.count, s.bytes) for s in counted.shards] == [
        (s.name, s.count, s.bytes) for s in index.shards
    ]
    counted.save(tmp_path / "shards")
    assert ShardIndex.load(tmp_path / "shards") == index


def test_truncation_is_seen_at_every_length(make_shards: MakeShards) -> None:
    shard = make_shards(3, 3).shards[0]
    shard.path.with_name("index.json").unlink()
    data = shard.path.read_bytes()
    for length in range(0, len(data.rstrip(b"\0")) + 1, 256):
        shard.path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"x-000000\.tar is damaged"):
            ShardIndex.load(shard.path)


def test_a_corrupt_header_is_seen_when_counting(make_shards: MakeShards) -> None:
    shard = make_shards(9, 9).shards[0]
    shard.path.with_name("index.json").unlink()
    with tarfile.open(shard.path) as tar:
        offset = tar.getmembers()[12].offset
    data = bytearray(shard.path.read_bytes())
    data[offset] ^= 0xFF
    shard.path.write_bytes(data)
    with pytest.raises(
        InputError, match=rf"x-000000\.tar is damaged: the tar header at byte {offset} is corrupt"
    ):
        ShardIndex.load(shard.path)


def test_missing_and_changed_shards_are_named(make_shards: MakeShards) -> None:
    index = make_shards(12, 5)
    path = index.shards[1].path
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    with pytest.raises(InputError, match=r"x-000001\.tar has .* bytes, but the index says"):
        index.verify()
    path.write_bytes(data.replace(b"bbox", b"b0x_"))
    index.verify()
    with pytest.raises(
        InputError, match=r"content of shard .*x-000001\.tar is not what was indexed"
    ):
        index.verify(hashes=True)
    path.unlink()
    with pytest.raises(InputError, match=r"x-000001\.tar does not exist"):
        index.verify()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "list of shards is empty"),
        ("nothing-*.tar", "nothing-.* does not exist"),
        ("absent.tar", r"absent\.tar does not exist"),
        ("absent/index.json", r"absent/index\.json does not exist"),
        (".", "no shards found"),
    ],
)
def test_sources_without_shards_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        ShardIndex.load(source)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"schema": 1}', '{"schema": 99, "shards": []}', '{"schema": 1, "shards": []}'],
)
def test_a_broken_index_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json"):
        ShardIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"key": "a.b", "jpg": b""}, "without a dot"),
        ({"key": "", "jpg": b""}, "not empty"),
        ({"key": "a", "cls": 1}, "has no picture"),
        ({"key": "a", "jpg": b"", "pyd": b""}, "member 'pyd'"),
    ],
)
def test_samples_that_cannot_be_read_back_are_not_written(
    tmp_path: Path, sample: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_shards([sample], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_unique(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a' cannot be"):
        write_shards([{"key": "a", "jpg": b"1"}, {"key": "a", "jpg": b"2"}], tmp_path, shard_size=1)
    assert not (tmp_path / "index.json").exists()


def test_shards_are_not_written_over(tmp_path: Path, make_shards: MakeShards) -> None:
    make_shards(3)
    with pytest.raises(InputError, match="holds shards already"):
        make_shards(4)
    with pytest.raises(InputError, match="no samples to write"):
        write_shards([], tmp_path / "empty")


@pytest.mark.parametrize("packer", ["gzip", "bz2", "lzma"])
def test_a_packed_shard_is_told_to_be_unpacked(make_shards: MakeShards, packer: str) -> None:
    path = make_shards(3, 3).shards[0].path
    path.write_bytes(importlib.import_module(packer).compress(path.read_bytes()))
    path.with_name("index.json").unlink()
    program = {"gzip": "gzip", "bz2": "bzip2", "lzma": "xz"}[packer]
    with pytest.raises(InputError, match=f"is packed by {program}, and .* plain tar: {program} -d"):
        ShardIndex.load(path.parent)


@pytest.mark.parametrize("folder", ["set{1,2}", "set[ab]", "plain"])
def test_a_name_with_brackets_that_exists_is_meant_as_it_stands(
    tmp_path: Path, make_shards: MakeShards, folder: str
) -> None:
    shards = [shard.path for shard in make_shards(9, 3).shards]
    (tmp_path / folder).mkdir()
    for number, shard in enumerate(shards):
        shard.rename(tmp_path / folder / f"val-{number}.tar")
    literal = tmp_path / folder / "val-{0,1}.tar"
    literal.write_bytes((tmp_path / folder / "val-2.tar").read_bytes())
    names = {
        "val-{0..2}.tar": ["val-0.tar", "val-1.tar", "val-2.tar"],
        "val-[12].tar": ["val-1.tar", "val-2.tar"],
        "val-{0,1}.tar": ["val-{0,1}.tar"],
    }
    for pattern, wanted in names.items():
        found = ShardIndex.load(str(tmp_path / folder / pattern))
        assert [shard.name for shard in found.shards] == wanted
    literal.unlink()
    assert len(ShardIndex.load(str(literal)).shards) == 2


def test_shards_whose_classes_differ_and_shards_named_twice_are_not_joined(tmp_path: Path) -> None:
    folders = {
        "one": ["cat", "zebra"],
        "same": ["cat", "zebra"],
        "more": ["cat", "zebra", "ant"],
        "other": ["ant", "cat"],
        "unnamed": None,
    }
    for name, classes in folders.items():
        write_shards(samples(2), tmp_path / name, name, 7, classes)
    tars = {name: str(tmp_path / name / f"{name}-000000.tar") for name in folders}
    assert ShardIndex.load([tars["one"], tars["same"]]).class_names == ["cat", "zebra"]
    assert ShardIndex.load([tars["one"], tars["unnamed"]]).class_names is None
    for name, said in (
        ("other", "0 is 'cat' in one and 'ant' in the other"),
        ("more", "2 is None in one and 'ant' in the other"),
    ):
        with pytest.raises(InputError, match=said):
            ShardIndex.load([tars["one"], tars["unnamed"], tars[name]])
    with pytest.raises(InputError, match=r"one-000000.tar is given twice"):
        ShardIndex.load([tars["one"], tars["unnamed"], tars["one"]])
