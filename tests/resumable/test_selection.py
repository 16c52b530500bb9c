"""Which images are evaluated: as many as asked, the same on every process, and only valid ones."""

import pytest
import torch
from benchmark_toys import SIDE, make_data
from hypothesis import given
from hypothesis import strategies as st

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError
from lit_iba.evaluation.results import spread
from lit_iba.resumable import Selection

PREPROCESSING = Preprocessing(resize=None, crop=SIDE)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 300))
def test_quotas_add_up_to_the_limit_and_fit_the_shards(counts, limit):
    quotas = Selection(max_images=limit).quotas(counts)
    assert sum(quotas) == min(limit, sum(counts))
    for quota, count in zip(quotas, counts, strict=True):
        assert 0 <= quota <= count
        assert abs(quota - count * min(1, limit / sum(counts))) <= 1


def test_selection_keeps_valid_images_with_small_boxes_in_order(tmp_path):
    shard = make_data(tmp_path, count=12, corrupt=(1, 2), shard_size=12).shards[0]
    everything = Selection().select(shard, 12, PREPROCESSING)
    assert everything.keys == [f"digit{i:03d}" for i in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    assert everything.corrupt == 2
    small = Selection(max_box_fraction=0.33).select(shard, 12, PREPROCESSING)
    assert small.keys == [
        f"digit{i:03d}" for i in (0, 3, 4, 6, 7, 8, 9, 10)
    ]  # 5 and 11 fill the picture
    assert small.object_mask.flatten(1).sum(dim=1).tolist() == [64] * 8


def test_draw_is_a_subset_that_follows_the_seed(tmp_path):
    shard = make_data(tmp_path, count=12, corrupt=(), shard_size=12).shards[0]
    whole = Selection().select(shard, 12, PREPROCESSING)
    draws = [
        Selection(max_images=5, seed=seed).select(shard, 5, PREPROCESSING) for seed in (0, 0, 1)
    ]
    assert draws[0].keys == draws[1].keys != draws[2].keys
    for draw in draws:
        where = [whole.keys.index(key) for key in draw.keys]
        assert where == sorted(where)
        assert len(where) == 5
        assert torch.equal(draw.pictures, whole.pictures[where])
        assert torch.equal(draw.labels, whole.labels[where])


@pytest.mark.parametrize("quota", [0, 3, 12])
def test_images_of_improbable_targets_are_left_out_and_named(tmp_path, monkeypatch, quota):
    monkeypatch.setattr("lit_iba.resumable.selection._READ", 5)
    shard = make_data(tmp_path, count=12, corrupt=(), shard_size=12).shards[0]
    chances = {f"digit{i:03d}": (0.2, 0.6, 0.9)[i % 3] for i in range(12)}
    chances["digit004"] = float("nan")
    selection = Selection(min_probability=0.6)

    found = selection.select(
        shard, quota, PREPROCESSING, lambda images: torch.tensor([chances[k] for k in images.keys])
    )

    keys = list(chances)
    drawn = [keys[i] for i in selection.ranked(keys)]
    sure = [key for key in drawn if chances[key] >= 0.6]
    last = drawn.index(sure[quota - 1]) if 0 < quota < len(sure) else len(drawn) * bool(quota)
    assert found.keys == sorted(sure[:quota])
    assert set(found.unsure) == set(drawn[:last]) - set(sure)
    assert all(not p >= 0.6 for p in found.unsure.values())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 20), st.data())
def test_gallery_rows_exist_and_are_as_many_as_there_can_be(counts, wanted, data):
    numbers = st.sets(st.integers(0, sum(counts) - 1)) if sum(counts) else st.just(set())
    also = data.draw(numbers)
    assert sum(map(len, spread(counts, wanted))) == min(wanted, sum(counts))
    rows = spread(counts, wanted, also)
    flat = {sum(counts[:s]) + row for s, part in enumerate(rows) for row in part}
    assert flat >= also
    assert len(flat) <= min(wanted, sum(counts)) + len(also)
    for part, count in zip(rows, counts, strict=True):
        assert part == sorted(set(part))
        assert all(0 <= row < count for row in part)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_images": 0},
        {"max_box_fraction": 0.0},
        {"max_box_fraction": 33},
        {"min_probability": 1.0},
        {"min_probability": 0},
    ],
)
def test_bad_limits_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Selection(**bad)
