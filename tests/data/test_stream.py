"""The real loader: exactly once, seekable, and honest about what it could not read."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_toys import cut_in_half, damage_member, flip
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_iba.classifier.photograph import Photograph
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import SampleLoader, SamplePlan, ShardIndex, shard_batches, write_shards
from lit_iba.data.batch import BatchMaker
from lit_iba.data.sources import ShardSource
from lit_iba.data.stream import BatchStream
from lit_iba.data.view import View, box_mask, central_centres, pixel_mask, random_view
from lit_iba.errors import InputError

MakeShards = Callable[..., ShardIndex]
SMALL = Preprocessing(resize=24, crop=20)


def loader(
    index: ShardIndex,
    *,
    batch_size: int = 4,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    lanes: int | None = None,
    training: bool = True,
    augment: bool = False,
    num_classes: int | None = None,
    context: str | None = None,
    max_corrupt_fraction: float | None = None,
) -> SampleLoader:
    source = ShardSource(index.shards)
    plan = SamplePlan(
        source.counts(), batch_size, world, lanes or max(1, workers), 3, training, block=2
    )
    make = BatchMaker(SMALL, num_classes, augment, seed=3)
    return SampleLoader(
        BatchStream(source, plan, make, rank), workers, max_corrupt_fraction, context
    )


def keys(batches: Any) -> list[list[str]]:
    return [batch["key"] for batch in batches]


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (3, 2), (1, 2)])
def test_evaluation_reads_every_sample_exactly_once(
    make_shards: MakeShards, world: int, workers: int
) -> None:
    index = make_shards(45, 7)
    batches = [
        b
        for rank in range(world)
        for b in loader(index, rank=rank, world=world, workers=workers, training=False)
    ]
    read = [k for b in batches for k, w in zip(b["key"], b["weight"].tolist(), strict=True) if w]
    assert sorted(read) == [f"s{n:04d}" for n in range(45)]
    assert all(len(b["key"]) == 4 and b["picture"].shape == (4, 3, 20, 20) for b in batches)


def test_samples_come_with_their_own_label_and_picture(make_shards: MakeShards) -> None:
    index = make_shards(30, 7)
    plain = {
        k: p
        for s in index.shards
        for b in shard_batches(s, SMALL)
        for k, p in zip(b["key"], b["picture"], strict=True)
    }
    for batch in loader(index):
        full = batch["weight"] > 0
        keys = [key for key in batch["key"] if key]
        assert batch["label"][full].tolist() == [int(key[1:]) % 10 for key in keys]
        assert torch.equal(batch["picture"][full], torch.stack([plain[key] for key in keys]))


@pytest.mark.parametrize(
    "context",
    [
        "fork",
        pytest.param("spawn", marks=pytest.mark.slow),
        pytest.param("forkserver", marks=pytest.mark.slow),
    ],
)
def test_workers_of_every_kind_yield_the_same_epochs(make_shards: MakeShards, context: str) -> None:
    index = make_shards(45, 7)
    alone, shared = (
        loader(index, lanes=2, augment=True),
        loader(index, workers=2, augment=True, context=context),
    )
    for _ in range(2):
        for a, b in zip(alone, shared, strict=True):
            assert a["key"] == b["key"]
            assert torch.equal(a["picture"], b["picture"])
    assert shared.epoch == 1


def test_order_depends_on_lanes_and_not_on_workers(make_shards: MakeShards) -> None:
    index = make_shards(45, 7)
    orders = [keys(loader(index, lanes=3, workers=workers)) for workers in (0, 1, 2)]
    assert all(order == orders[0] for order in orders)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "world", "workers"), [(0, 1, 0), (1, 2, 0), (0, 1, 2)])
def test_a_resumed_epoch_is_the_rest_of_it_at_every_step(
    make_shards: MakeShards, rank: int, world: int, workers: int
) -> None:
    index = make_shards(45, 7)
    uninterrupted = loader(index, rank=rank, world=world, workers=workers, augment=True)
    epochs = [list(uninterrupted), list(uninterrupted)]
    resumed = loader(index, rank=rank, world=world, workers=workers, augment=True)
    for done in range(len(resumed) + 1):
        resumed.seek(0, done)
        rest = list(resumed)
        expected = epochs[0][done:] or epochs[1]  # a finished epoch means the next one
        assert keys(rest) == keys(expected)
        assert all(
            torch.equal(a["picture"], b["picture"]) for a, b in zip(rest, expected, strict=True)
        )


def test_seeking_opens_no_shard_that_comes_before(make_shards: MakeShards) -> None:
    index = make_shards(42, 7)
    opened: list[int] = []

    class WatchedSource(ShardSource):
        def open(self, number: int) -> Any:
            opened.append(number)
            return super().open(number)

    source = WatchedSource(index.shards)
    plan = SamplePlan(source.counts(), 7, seed=3, training=True, block=2)
    watched = SampleLoader(BatchStream(source, plan, BatchMaker(SMALL)))
    list(watched)
    order = list(opened)
    assert sorted(order) == list(range(6))  # each shard once
    opened.clear()
    watched.seek(0, 4)  # batches are as long as shards: the last block is the last two
    list(watched)
    assert opened == order[4:]


def test_an_epoch_left_early_is_followed_by_the_next(make_shards: MakeShards) -> None:
    index = make_shards(45, 7)
    whole, cut = loader(index), loader(index, workers=1)
    epochs = [keys(whole), keys(whole)]
    assert next(iter(cut))["key"] == epochs[0][0]
    assert keys(cut) == epochs[1]


def test_evaluation_always_begins_at_the_front(make_shards: MakeShards) -> None:
    evaluation = loader(make_shards(20, 7), training=False)
    first = next(iter(evaluation))["key"]
    assert keys(evaluation)[0] == first
    assert keys(evaluation)[0] == first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_picture_keeps_its_slot_and_is_reported(
    make_shards: MakeShards, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    index = make_shards(20, 10)
    damage_member(index.shards[0].path, "s0003.jpg", flip)
    with caplog.at_level(logging.WARNING):
        batches = list(loader(index, training=False, workers=workers, max_corrupt_fraction=0.1))
    rows = [
        (k, w, c, p.any().item())
        for b in batches
        for k, w, c, p in zip(
            b["key"], b["weight"].tolist(), b["corrupt"].tolist(), b["picture"], strict=True
        )
        if k
    ]
    assert sorted(rows) == [(f"s{n:04d}", float(n != 3), int(n == 3), n != 3) for n in range(20)]
    assert len(caplog.records) == 1
    assert "1 of 20 samples could not be decoded" in caplog.text
    assert "s0003" in caplog.text


@pytest.mark.parametrize(("member", "lost"), [("s0006.cls", 4), ("s0006.jpg", 5)])
def test_a_corrupt_header_leaves_counted_holes_and_no_half_sample(
    make_shards: MakeShards, caplog: pytest.LogCaptureFixture, member: str, lost: int
) -> None:
    """Whether what is behind the last whole member belonged to its sample, nobody knows."""
    index = make_shards(20, 10)
    damage_member(index.shards[0].path, member, flip, header=True)
    batches = list(loader(index, training=False, max_corrupt_fraction=0.5))
    assert sum(int(b["weight"].sum()) for b in batches) == 20 - lost
    assert sum(int(b["corrupt"].sum()) for b in batches) == lost
    assert all(int(b["label"][b["weight"] > 0].min()) >= 0 for b in batches)
    assert "x-000000[6], x-000000[7]" in caplog.text
    assert "corrupt" in caplog.text


def test_evaluation_refuses_a_partial_set_unless_asked(make_shards: MakeShards) -> None:
    index = make_shards(20, 10)
    damage_member(index.shards[0].path, "s0003.jpg", flip)
    with pytest.raises(InputError, match=r"1 of 20 samples .*s0003.*max_corrupt_fraction=0\.0"):
        list(loader(index, training=False))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_out_of_range_names_sample_and_shard(make_shards: MakeShards, workers: int) -> None:
    index = make_shards(20, 10)
    with pytest.raises(
        InputError,
        match=r"^the class of sample 's0009' of x-000000\.tar is 9, but classes are 0\.\.8",
    ):
        list(loader(index, training=False, workers=workers, num_classes=9))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_is_named(make_shards: MakeShards, workers: int) -> None:
    index = make_shards(20, 10)
    index.shards[1].path.unlink()
    with pytest.raises(InputError, match=r"^shard .*x-000001\.tar does not exist"):
        list(loader(index, training=False, workers=workers))


def test_shard_batches_hold_every_slot_in_order(
    make_shards: MakeShards, caplog: pytest.LogCaptureFixture
) -> None:
    shard = make_shards(10, 10).shards[0]
    damage_member(shard.path, "s0004.jpg", cut_in_half)
    damage_member(shard.path, "s0008.cls", flip, header=True)
    batches = list(shard_batches(shard, SMALL, 4))
    assert [len(b["key"]) for b in batches] == [4, 4, 2]
    assert [k for b in batches for k in b["key"]] == [f"s{n:04d}" for n in range(8)] + [
        "x-000000[8]",
        "x-000000[9]",
    ]
    assert torch.cat([b["weight"] for b in batches]).tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 0, 0]
    assert torch.cat([b["corrupt"] for b in batches]).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]
    assert "3 of 10 samples" in caplog.text


def test_a_sample_without_a_picture_or_label(tmp_path: Path) -> None:
    from data_toys import jpeg_bytes

    index = write_shards(
        [{"key": "a", "jpg": jpeg_bytes(1)}, {"key": "b", "jpg": jpeg_bytes(2), "cls": 5}], tmp_path
    )
    batch = next(shard_batches(index.shards[0], SMALL))
    assert batch["label"].tolist() == [-1, 5]
    assert not batch["object_mask"].any()


def test_a_stored_mask_stands_in_for_boxes_and_follows_the_picture(tmp_path: Path) -> None:
    import io

    mask = np.zeros((50, 70), dtype=np.uint8)
    mask[10:31, 22:47] = 255
    buffers = [io.BytesIO(), io.BytesIO()]
    Image.fromarray(np.repeat(mask[..., None], 3, axis=-1)).save(buffers[0], "PNG")
    Image.fromarray(mask).save(buffers[1], "PNG")
    sample = {
        "key": "a",
        "png": buffers[0].getvalue(),
        "mask.png": buffers[1].getvalue(),
    }
    boxed = {"key": "b", "png": buffers[0].getvalue(), "json": {"bbox": [[22, 10, 47, 31]]}}
    both = {
        "key": "c",
        **{k: v for k, v in sample.items() if k != "key"},
        "json": {"bbox": [[0, 0, 3, 3]]},
    }
    index = write_shards([sample, boxed, both], tmp_path)
    batch = next(shard_batches(index.shards[0], SMALL))
    # Brute force: the mask as a picture, through Pillow's nearest neighbour and the same central
    # crop.
    width, height = int(70 * 24 / 50), 24
    left, top = round((width - 20) / 2), round((height - 20) / 2)
    seen = (
        Image.fromarray(mask)
        .resize((width, height), Image.Resampling.NEAREST)
        .crop((left, top, left + 20, top + 20))
    )
    assert (batch["object_mask"][0].numpy() == (np.asarray(seen) > 0)).all()
    assert torch.equal(batch["object_mask"][0], batch["object_mask"][1])
    assert not torch.equal(batch["object_mask"][0], batch["object_mask"][2]), (
        "boxes win over a stored mask"
    )


def boxes_by_hand(
    preprocessing: Preprocessing, boxes: list[tuple[float, ...]], width: int, height: int
) -> torch.Tensor:
    """Pixel by pixel: where does its centre lie in the stored photograph, and is that in a box?"""
    size = preprocessing.scaled_size(width, height)
    left, top = preprocessing.crop_offset(size)
    mask = torch.zeros(preprocessing.size, dtype=torch.bool)
    for row in range(preprocessing.size[0]):
        for column in range(preprocessing.size[1]):
            x, y = (column + left + 0.5) * width / size[0], (row + top + 0.5) * height / size[1]
            mask[row, column] = any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes)
    return mask


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    resize=st.none() | st.integers(20, 40) | st.just((30, 50)),
    crop=st.sampled_from([20, (24, 10)]),
    corners=st.lists(st.tuples(*[st.integers(-40, 400).map(lambda n: n / 4)] * 4), max_size=3),
)
def test_boxes_are_seen_as_preprocessing_says(
    size: tuple[int, int], resize: Any, crop: Any, corners: list[tuple[float, float, float, float]]
) -> None:
    preprocessing = Preprocessing(resize=resize, crop=crop)
    mask = box_mask(corners, *central_centres(preprocessing, *size))
    assert torch.equal(torch.from_numpy(mask), boxes_by_hand(preprocessing, corners, *size))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_view_moves_mask_box_and_picture_alike(mirrored: bool) -> None:
    mask = np.zeros((60, 80), dtype=bool)
    mask[12:40, 30:61] = True
    view = View(17, 5, 48, 40, (20, 16), mirrored)  # whole pixels per pixel: 3 across, 2 down
    photograph = Image.fromarray(np.repeat(mask[..., None], 3, axis=-1).astype(np.uint8) * 255)
    picture = view.pixels(Photograph.of(photograph, 1), "bilinear")[:, :, 0]
    seen = pixel_mask(mask, *view.centres())
    assert (seen == box_mask([[30, 12, 61, 40]], *view.centres())).all()
    clear = (picture < 20) | (picture > 235)
    assert clear.mean() > 0.7
    assert ((picture > 127) == seen)[clear].all()


def test_random_views_belong_to_their_generator_and_stay_inside() -> None:
    def draw(seed: int, width: int, height: int) -> View:
        return random_view(width, height, (8, 8), torch.Generator().manual_seed(seed))

    wide = random_view(60, 40, (8, 16), torch.Generator().manual_seed(1))
    assert 1.4 <= wide.width / wide.height <= 2.9  # the picture's ratio, twice as wide as high

    for seed in range(200):
        view = draw(seed, 60, 40)
        assert view == draw(seed, 60, 40)
        assert 0 <= view.left <= view.left + view.width <= 60
        assert 0 <= view.top <= view.top + view.height <= 40
        assert 0.07 <= view.width * view.height / 2400 <= 1
        assert 0.7 <= view.width / view.height <= 1.45
    assert {draw(seed, 60, 40).mirrored for seed in range(20)} == {False, True}
    for width, height in ((1, 1), (500, 1), (1, 500)):
        view = draw(0, width, height)
        assert view.width >= 1
        assert view.height >= 1
