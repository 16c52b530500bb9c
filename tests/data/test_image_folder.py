"""Folders of pictures: read as they are, or made into shards, with boxes from VOC files or a
table.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from data_toys import jpeg_bytes

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ImageFolderDataModule, PipelineDataModule, ShardDataModule, shard_batches
from lit_iba.data.image_folder import ImageFolder
from lit_iba.data.import_folder import shards_from_folder
from lit_iba.data.labels import check_same_numbers
from lit_iba.data.sample_module import SampleDataModule
from lit_iba.data.view import box_mask, central_centres
from lit_iba.errors import InputError

SMALL = Preprocessing(resize=24, crop=20)
VOC = """<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, five pictures of 40 x 32, one of them with an upper-case extension and two
    dots.
    """
    root = tmp_path / "pictures"
    for number, name in enumerate(
        ["cat/a.jpg", "cat/b.v2.JPEG", "cat/c.jpg", "dog/a.jpg", "dog/e.jpg"]
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg_bytes(number))
    (root / "cat/notes.txt").write_text("no picture")
    return root


def write_voc(path: Path, box: tuple[int, ...], width: int = 40, height: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(VOC.format(*box, width=width, height=height))


def test_shards_hold_the_files_byte_for_byte_with_their_boxes(tmp_path: Path, folder: Path) -> None:
    write_voc(tmp_path / "xml/cat/c.xml", (4, 6, 20, 30))
    write_voc(
        tmp_path / "xml/dog/e.xml", (8, 12, 40, 60), width=80, height=64
    )  # annotated at twice the size
    index = shards_from_folder(
        folder, tmp_path / "out", tmp_path / "xml", shard_size=3, progress=False
    )
    assert index.class_names == ["cat", "dog"]
    batches = [batch for shard in index.shards for batch in shard_batches(shard, SMALL)]
    rows = {
        k: (int(y), m)
        for b in batches
        for k, y, m in zip(b["key"], b["label"], b["object_mask"], strict=True)
    }
    assert {k: y for k, (y, _) in rows.items()} == {
        "cat/a": 0,
        "cat/b_v2": 0,
        "cat/c": 0,
        "dog/a": 1,
        "dog/e": 1,
    }
    expected = torch.from_numpy(box_mask([(4, 6, 20, 30)], *central_centres(SMALL, 40, 32)))
    assert expected.any()
    for key, (_, mask) in rows.items():
        assert torch.equal(
            mask, expected if key in ("cat/c", "dog/e") else torch.zeros_like(expected)
        )
    stored = b"".join(shard.path.read_bytes() for shard in index.shards)
    assert all(path.read_bytes() in stored for path in folder.rglob("*.[jJ]*"))


def test_a_table_of_boxes_names_files_with_or_without_their_folder(
    tmp_path: Path, folder: Path
) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(
        "filename,xmin,ymin,xmax,ymax\ndog/a.jpg,1,2,3,4\ne.jpg,5,6,7.5,8\ne.jpg,9,9,10,10\n"
    )
    found = {image.key: image.stored_boxes() for image in ImageFolder.load(folder, table).images}
    assert found["dog/a"] == [[1, 2, 3, 4]]
    assert found["dog/e"] == [[5, 6, 7.5, 8], [9, 9, 10, 10]]
    assert found["cat/a"] == []


def test_boxes_of_repeated_names_are_those_of_their_own_folder(
    tmp_path: Path, folder: Path
) -> None:
    (folder / "dog/near").mkdir()
    (folder / "dog/near/a.jpg").write_bytes(jpeg_bytes(7))
    for name, left in (("val/cat/a", 1), ("val/dog/a", 2), ("other/e", 3), ("absent/z", 4)):
        write_voc(tmp_path / f"xml/{name}.xml", (left, 2, 10, 12))
    found = {i.key: i.stored_boxes() for i in ImageFolder.load(folder, tmp_path / "xml").images}
    assert {key: boxes[0][0] for key, boxes in found.items() if boxes} == {
        "cat/a": 1,
        "dog/a": 2,
        "dog/e": 3,
    }
    write_voc(tmp_path / "xml/more/e.xml", (5, 2, 10, 12))
    with pytest.raises(InputError, match=r"more/e\.xml and .*other/e\.xml could both be of dog/e"):
        ImageFolder.load(folder, tmp_path / "xml")
    (tmp_path / "b.csv").write_text("filename,xmin,ymin,xmax,ymax\ndog/near/a.jpg,1,2,3,4\n")
    found = {i.key: i.stored_boxes() for i in ImageFolder.load(folder, tmp_path / "b.csv").images}
    assert {key for key, boxes in found.items() if boxes} == {"dog/near/a"}


def test_equal_folders_give_equal_shards_in_a_mixed_order(tmp_path: Path, folder: Path) -> None:
    first, second, other = (
        shards_from_folder(folder, tmp_path / str(n), seed=seed, progress=False)
        for n, seed in enumerate((0, 0, 3))
    )
    assert first.identity() == second.identity() != other.identity()


@pytest.mark.parametrize(
    ("boxes", "content", "message"),
    [
        ("absent.csv", None, r"absent\.csv do not exist"),
        ("b.csv", "name,xmin,ymin,xmax,ymax\n", "no column filename"),
        ("b.csv", "filename,xmin,ymin,xmax,ymax\na.jpg,1,2,x,4\n", "line 2 of .*b.csv"),
        ("b.csv", "filename,xmin,ymin,xmax,ymax\nz.jpg,1,2,3,4\n", "boxes for none of the 5"),
        ("b.csv", "filename,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n", r"cat/a\.jpg and of dog/a\.jpg"),
        ("xml", "<annotation>", "e.xml is not a Pascal VOC file"),
    ],
)
def test_boxes_that_are_missing_or_wrong_are_errors(
    tmp_path: Path, folder: Path, boxes: str, content: str | None, message: str
) -> None:
    if boxes == "xml":
        (tmp_path / "xml").mkdir()
    if content is not None:
        (tmp_path / (boxes if boxes != "xml" else "xml/e.xml")).write_text(content)
    with pytest.raises(InputError, match=message):
        shards_from_folder(folder, tmp_path / "out", tmp_path / boxes, progress=False)
    assert not (tmp_path / "out/index.json").exists()


def test_folders_without_pictures_or_with_unknown_classes_are_errors(
    tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "empty/cat").mkdir(parents=True)
    for wrong, message in (
        (tmp_path / "absent", "not a folder"),
        (tmp_path / "empty", "holds no pictures"),
    ):
        with pytest.raises(InputError, match=message):
            ImageFolder.load(wrong)
    with pytest.raises(InputError, match="dog is none of the 1 classes"):
        ImageFolder.load(folder, class_names=["cat"])
    (folder / "dog/e.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"e\.jpg cannot be read as a picture"):
        shards_from_folder(folder, tmp_path / "out", progress=False)


def test_a_folder_and_its_shards_yield_the_same_pictures(tmp_path: Path, folder: Path) -> None:
    index = shards_from_folder(folder, tmp_path / "out", progress=False)
    from_shards = {
        k: p
        for b in shard_batches(index.shards[0], SMALL)
        for k, p in zip(b["key"], b["picture"], strict=True)
    }
    data = ImageFolderDataModule(
        str(folder), str(folder), preprocessing=SMALL, batch_size=2, num_workers=1
    )
    data.setup("fit")
    batches = list(data.val_dataloader())
    assert [k for b in batches for k in b["key"]] == [
        "cat/a",
        "cat/b_v2",
        "cat/c",
        "dog/a",
        "dog/e",
        "",
    ]
    for batch in batches:
        for key, picture in zip(batch["key"], batch["picture"], strict=True):
            assert not key or torch.equal(picture, from_shards[key])
    loader = data.train_dataloader()
    epochs = [[k for b in loader for k in b["key"]] for _ in range(4)]
    assert all(
        sorted(epoch) == ["", "cat/a", "cat/b_v2", "cat/c", "dog/a", "dog/e"] for epoch in epochs
    )
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_what_is_left_out_is_counted(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat/d.bmp", "dog/f.gif", "dog/g.GIF", "dog/.hidden.bmp"):
        (folder / name).write_bytes(b"")
    for name in ("bird", "fox"):
        (folder / name).mkdir()
    assert len(ImageFolder.load(folder).images) == 5
    left_out, empty = (record.getMessage() for record in caplog.records)
    assert left_out.startswith(
        f"left out 1 .bmp, 2 .gif of {folder}: only .jpg, .jpeg, .png, .webp and .npy"
    )
    assert empty == f"2 of 4 classes of {folder} have no pictures and keep their labels: bird, fox"
    (tmp_path / "other" / "cat").mkdir(parents=True)
    (tmp_path / "other" / "cat" / "a.tif").write_bytes(b"")
    with pytest.raises(InputError, match=r"it has 1 \.tif, which must be converted"):
        ImageFolder.load(tmp_path / "other")


@pytest.mark.parametrize("kind", ["folder", "shards", "pipeline"])
def test_a_class_that_has_another_label_in_another_split_is_refused(
    tmp_path: Path, kind: str
) -> None:
    for number, name in enumerate(["train/cat", "train/dog", "train/emu", "val/cat", "val/emu"]):
        path = tmp_path / name / "a.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg_bytes(number))
    folders = {split: str(tmp_path / split) for split in ("train", "val")}

    def module(**names: Any) -> SampleDataModule:
        if kind == "folder":
            return ImageFolderDataModule(**folders, preprocessing=SMALL, **names)
        if kind == "pipeline":
            made = {split: torchvision.datasets.ImageFolder(at) for split, at in folders.items()}
            return PipelineDataModule(**made, preprocessing=SMALL)
        shards = {split: str(tmp_path / f"{split}{len(names)}") for split in folders}
        for split, out in shards.items():
            shards_from_folder(folders[split], out, progress=False, **names)
        return ShardDataModule(**shards, preprocessing=SMALL)

    with pytest.raises(
        InputError, match=r"'emu' has label 2 in the train data and 1 in the val .* class_names"
    ):
        module().setup("fit")
    if kind == "pipeline":
        return  # torchvision's numbers are its own
    whole = module(class_names=["cat", "dog", "emu"])
    whole.setup("fit")
    labels = torch.cat([batch["label"] for batch in whole.val_dataloader()])
    assert sorted(labels[labels >= 0].tolist()) == [0, 2]


def test_classes_of_one_name_and_names_that_one_split_has_alone_are_no_contradiction() -> None:
    imagenet = ["crane", "boat", "crane"]
    check_same_numbers({"train": imagenet, "val": imagenet, "test": ["n1", "n2"], "x": None}, "")
