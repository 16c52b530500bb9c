"""A user's own data sets and pipelines: the same batches as from shards, each sample once."""

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from data_toys import Pictures, jpeg_bytes, samples
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from PIL import Image
from recorder import Recorder, SaveAt, trainer
from torch.utils.data import DataLoader, IterableDataset

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.cli.main import main
from lit_iba.data import PipelineDataModule, ShardDataModule, ShardIndex
from lit_iba.data.fields import SampleFields
from lit_iba.data.pipeline import PipelineLoader, PipelineStream, part_of
from lit_iba.errors import InputError

MakeShards = Callable[..., ShardIndex]
SMALL = Preprocessing(resize=24, crop=20)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",  # Lightning 2.6 under torch 2.15: a deprecated class
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*x-00000.*:pytest.PytestUnraisableExceptionWarning",  # webdataset leaves files open
)


def module(**settings: Any) -> PipelineDataModule:
    return PipelineDataModule(**{"preprocessing": SMALL, "batch_size": 4, "block": 2, **settings})


def labels_of(loader: Any) -> list[int]:
    return [
        label
        for batch in loader
        for label, weight in zip(batch["label"].tolist(), batch["weight"].tolist(), strict=True)
        if weight
    ]


class Forward(IterableDataset[Any]):
    """Gives every worker everything; the label counts."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __iter__(self) -> Iterator[Any]:
        return (({"img": jpeg_bytes(n), "label": n}) for n in range(self.total))


FORMS: dict[str, tuple[Callable[[dict[str, Any]], Any], dict[str, Any]]] = {
    "tuple": (lambda s: (pillow(s), s["cls"], np.array(s["json"]["bbox"])), {}),
    "tensor": (lambda s: (array(s).permute(2, 0, 1), torch.tensor(s["cls"]), boxes(s)), {}),
    "hugging_face": (
        lambda s: {"image": {"bytes": s["jpg"]}, "label": s["cls"], "objects": {"bbox": coco(s)}},
        {"names": {"boxes": "objects.bbox"}, "box_format": "xywh"},
    ),
    "webdataset": (
        lambda s: {
            "jpg": s["jpg"],
            "cls": b"%d" % s["cls"],
            "json": json.dumps(s["json"]).encode(),
        },
        {},
    ),
    "names": (
        lambda s: {"photo": array(s).numpy(), "class": s["cls"], "where": boxes(s), "label": "no"},
        {"names": {"picture": "photo", "label": "class", "boxes": "where"}},
    ),
}


def pillow(sample: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(sample["jpg"]))


def array(sample: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(pillow(sample)))


def boxes(sample: dict[str, Any]) -> list[list[int]]:
    return sample["json"]["bbox"]  # type: ignore[no-any-return]


def coco(sample: dict[str, Any]) -> list[list[int]]:
    return [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes(sample)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_sample_is_read_as_from_a_shard(make_shards: MakeShards, form: str) -> None:
    make, settings = FORMS[form]
    data = module(test=[make(sample) for sample in samples(6)], **settings)
    shards = ShardDataModule(
        test=str(make_shards(6).shards[0].path.parent), preprocessing=SMALL, batch_size=4
    )
    for given in (data, shards):
        given.setup("test")
    for ours, theirs in zip(data.test_dataloader(), shards.test_dataloader(), strict=True):
        assert all(
            torch.equal(ours[name], theirs[name])
            for name in ("picture", "label", "object_mask", "weight", "corrupt")
        )


def test_a_data_set_with_a_length_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """At every step, also on other workers; the class names are the data set's."""
    reference = Recorder()
    data = module(train=Pictures(14))
    trainer(tmp_path).fit(reference, data)
    assert data.class_names == list("abcdefghij")
    assert len({key for batch in reference.trained[:4] for key in batch}) == 14
    for stop in (1, 3, 6):
        saver = trainer(tmp_path, callbacks=[SaveAt(stop, tmp_path / "c.ckpt")])
        saver.fit(Recorder(), module(train=Pictures(14)))
        rest = Recorder()
        trainer(tmp_path).fit(
            rest, module(train=Pictures(14)), ckpt_path=tmp_path / "c.ckpt", weights_only=True
        )
        assert rest.trained == reference.trained[stop:], stop


def test_a_pipeline_begins_an_epoch_again_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = trainer(tmp_path, max_epochs=1, callbacks=[SaveAt(2, tmp_path / "c.ckpt")])
    saver.fit(Recorder(), module(train=Forward(14)))
    rest = Recorder()
    trainer(tmp_path, max_epochs=1, limit_val_batches=1.0).fit(
        rest,
        module(train=Forward(14), val=Forward(6)),
        ckpt_path=tmp_path / "c.ckpt",
        weights_only=True,
    )
    assert [key for batch in rest.trained for key in batch] == [f"0_0_{n:08d}" for n in range(14)]
    assert "stopped in the middle of an epoch, and a pipeline cannot go on there" in caplog.text
    assert rest.validated[-6:] == [f"0_0_{n:08d}" for n in range(6)]


def pipelines(folder: Path) -> dict[str, Any]:
    urls = str(folder / "x-{000000..000003}.tar")
    plain = wds.WebDataset(urls, shardshuffle=False)
    return {
        "raw": plain,
        "decoded": wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls"),
        "loader": wds.WebLoader(plain, batch_size=None, num_workers=1),
        "torch loader": DataLoader(plain, batch_size=None),
        "forward": Forward(22),
    }


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("raw", 0), ("raw", 2), ("decoded", 2), ("loader", 2), ("torch loader", 0), ("forward", 2)],
)
def test_each_sample_of_a_pipeline_comes_once_each_time(
    tmp_path: Path, make_shards: MakeShards, kind: str, workers: int
) -> None:
    make_shards(22, 7)
    pipeline = pipelines(tmp_path / "shards")[kind]
    data = module(test=pipeline, num_workers=workers)
    data.setup("test")
    loader = data.test_dataloader()
    expected = list(range(22)) if kind == "forward" else sorted(n % 10 for n in range(22))
    assert [sorted(labels_of(loader)) for _ in range(2)] == [expected, expected]
    data.teardown("test")


def test_processes_divide_a_pipeline_and_take_equally_many_steps(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    make_shards(22, 7)
    urls = str(tmp_path / "shards" / "x-{000000..000003}.tar")
    barrier, has = threading.Barrier(2, timeout=60), [False, False]
    found: list[list[Any]] = [[], []]

    def any_left(rank: int, more: bool) -> bool:
        has[rank] = more
        barrier.wait()
        answer = any(has)
        barrier.wait()
        return answer

    def run(rank: int) -> None:
        pipeline = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node)
        data = module()
        stream = PipelineStream(pipeline, data.fields, data.batch_maker(None, False), 4, rank, 2)
        loader = PipelineLoader(stream, 1, "fork", any_left=lambda more: any_left(rank, more))
        found[rank] = [(b["weight"].sum().item(), labels_of([b])) for b in loader]
        loader.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found[0]) == len(found[1]) == 4
    assert found[1][-1] == (0, [])  # 8 samples: two batches, and two of padding
    assert sorted(n for part in found for _, labels in part for n in labels) == sorted(
        n % 10 for n in range(22)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(np.zeros((8, 8, 3), np.float32), 1)], "is float32; give it as it is stored"),
        (
            [(torch.zeros(3, 8, 8, dtype=torch.bfloat16), 1)],
            r"is torch\.bfloat16; give it as it is",
        ),
        ([(torch.zeros(3, 8, 8, requires_grad=True), 1)], r"is torch\.float32; give it as it is"),
        ([(Image.fromarray(np.ones((8, 8), np.float32)), 1)], "numbers with a fraction for pixels"),
        (
            [(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([1, 2]))],
            "several numbers; give single samples",
        ),
        ([("cat.jpg", 1)], r"is a builtins\.str; give a Pillow image"),
        ([{"photo": 1, "label": 1}], "has no picture, only photo, label; say in names"),
        ([(Image.new("RGB", (8, 8)), "cat")], "is 'cat'; it must be a whole number"),
        ([(Image.new("RGB", (8, 8)), "--1")], "is '--1'; it must be a whole number"),
        ([(Image.new("RGB", (8, 8)), 1, [1, 2, 3])], "give four numbers for each"),
        ([7], r"gives a builtins\.int for a sample; it must give"),
        ([], "the data set of test is empty"),
        (iter([]), "the pipeline gives no samples"),
        (7, "a int cannot be read for test"),
        ("data/val", "shards are for ShardDataModule"),
        ({"class_path": "data_toys.Photos"}, "'data_toys.Photos', is not there"),
        ({"class_path": "data_toys.Pictures"}, "cannot be made .*count"),
        (wds.WebDataset("absent.tar", shardshuffle=False), r"absent\.tar"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(given: Any, message: str) -> None:
    def read() -> None:
        data = module(test=given)
        data.setup("test")
        list(data.test_dataloader())

    with pytest.raises((InputError, FileNotFoundError), match=message):
        read()


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_gives_its_samples_only_once_is_refused_where_they_are_read_again(split: str) -> None:
    with pytest.raises(InputError, match=f"{split} is a generator, which gives .* only once"):
        module(**{split: (sample for sample in Forward(9))}).setup("fit")
    once = module(test=iter(Forward(9)))
    once.setup("test")
    assert labels_of(once.test_dataloader()) == list(range(9))


def test_names_that_are_not_there_and_processes_that_cannot_share_are_said() -> None:
    with pytest.raises(InputError, match="names has 'mask'; a sample has picture, label"):
        module(names={"mask": "m"})
    with pytest.raises(InputError, match=r"has no 'image\.png', only img, label"):
        SampleFields({"picture": "image.png"}).sample(next(iter(Forward(1))), 0)
    with pytest.raises(InputError, match="a Forward gives every process all of its samples"):
        part_of(Forward(3), 0, 2)


def test_a_picture_that_cannot_be_decoded_is_a_hole(caplog: pytest.LogCaptureFixture) -> None:
    def given() -> Iterator[Any]:
        return ((jpeg_bytes(n)[: 300 if n == 3 else None], n) for n in range(6))

    class Again:
        __iter__ = staticmethod(lambda: given())

    for dataset in (list(given()), Again()):
        data = module(test=dataset, max_corrupt_fraction=0.2)
        data.setup("test")
        assert labels_of(data.test_dataloader()) == [0, 1, 2, 4, 5]
        assert "1 of 6 samples could not be decoded" in caplog.text
        caplog.clear()
        strict = module(test=dataset)
        strict.setup("test")
        with pytest.raises(InputError, match="more than max_corrupt_fraction=0"):
            list(strict.test_dataloader())


def test_a_config_names_the_data_set_by_its_class_path() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    said = {"class_path": "data_toys.Pictures", "init_args": {"count": 5}}
    config = parser.parse_object(
        {
            "data": {
                "class_path": "lit_iba.data.PipelineDataModule",
                "init_args": {"test": said, "batch_size": 5},
            }
        }
    )
    data = parser.instantiate(config).data
    data.setup("test")
    assert labels_of(data.test_dataloader()) == [0, 1, 2, 3, 4]


def test_a_split_is_kept_as_shards_for_a_benchmark(tmp_path: Path) -> None:
    data = module(test=Pictures(6))
    index = data.write_shards("test", tmp_path / "kept", 4)
    assert (index.total, len(index.shards), index.class_names) == (6, 2, list("abcdefghij"))
    assert module(test=Pictures(9)).write_shards("test", tmp_path / "kept") == index  # once
    kept = ShardDataModule(test=str(tmp_path / "kept"), preprocessing=SMALL, batch_size=4)
    for given in (data, kept):
        given.setup("test")
    for ours, theirs in zip(data.test_dataloader(), kept.test_dataloader(), strict=True):
        assert torch.equal(ours["picture"], theirs["picture"])
        assert ours["key"] == theirs["key"]


def test_a_benchmark_takes_a_data_set_by_its_class_path(tmp_path: Path) -> None:
    said = {
        "class_path": "lit_iba.data.PipelineDataModule",
        "init_args": {"test": {"class_path": "data_toys.Pictures", "init_args": {"count": 5}}},
    }
    config = {
        "data": said,
        "classifier": {"model": "small_cnn", "weights": "random"},
        "explainers": {"random": {}},
        "metrics": {"degradation": {"tile": 16}},
        "out": str(tmp_path / "run"),
        "accelerator": "cpu",
        "report": False,
    }
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert main(["benchmark", "--config", str(tmp_path / "c.json")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["used"] == 5
    assert ShardIndex.load(tmp_path / "run" / "data").total == 5


def test_one_of_several_processes_keeps_all_of_a_pipeline(
    tmp_path: Path, make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(22, 7)
    urls = str(tmp_path / "shards" / "x-{000000..000003}.tar")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():  # as torchrun says
        monkeypatch.setenv(name, value)
    pipeline = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node)
    index = module(test=pipeline).write_shards("test", tmp_path / "kept", 9)
    assert [shard.count for shard in index.shards] == [9, 9, 4]
    assert os.environ["WORLD_SIZE"] == "2"


def test_pictures_in_parquet_by_hugging_face_s_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and streamed from three files by two workers and by two processes."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = [{"image": {"bytes": jpeg_bytes(n), "path": None}, "label": n % 2} for n in range(9)]
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number in range(3):
        part = rows[3 * number : 3 * number + 3]
        table = arrow.Table.from_pylist(part, schema=features.arrow_schema)
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    files = {
        "path": "parquet",
        "data_files": str(tmp_path / "*.parquet"),
        "split": "train",
        "cache_dir": str(tmp_path / "cache"),
    }
    whole = module(test={"class_path": "datasets.load_dataset", "init_args": files}, num_workers=1)
    whole.setup("test")
    assert labels_of(whole.test_dataloader()) == [n % 2 for n in range(9)]
    assert whole.class_names == ["cat", "dog"]
    whole.teardown("test")
    stream = datasets.load_dataset(**files, streaming=True)
    data = module(test=stream, num_workers=2)
    data.setup("test")
    loader = data.test_dataloader()
    every = sorted(n % 2 for n in range(9))
    assert [sorted(labels_of(loader)) for _ in range(2)] == [every, every]
    assert data.class_names == ["cat", "dog"]
    data.teardown("test")
    divided = [part_of(stream, rank, 2) for rank in range(2)]
    assert part_of(divided[0], 0, 2) is divided[0]
    parts = [[row["label"] for row in part] for part in divided]
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == every
