"""Heatmaps of other images: never one's own, the same however they are stored, and refused where
there are too few.
"""

import pytest
import torch

from lit_iba.errors import InputError
from lit_iba.evaluation.pool import HeatmapPool
from lit_iba.resumable import ShardStore


def pool(folder, shards):
    """Each heatmap is its sample's number throughout."""
    store = ShardStore(folder)
    for name, numbers in shards.items():
        values = torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(-1, 2, 2)
        store.write(
            "random", name, {"values": values}, {}, {"keys": [f"sample{n}" for n in numbers]}
        )
    return HeatmapPool.stored(store, "random", list(shards))


def test_draw_leaves_out_the_image_itself_and_depends_on_key_and_seed_alone(tmp_path):
    one = pool(tmp_path / "a", {"s0": [0, 1, 2, 3, 4, 5, 6, 7]})
    other = pool(tmp_path / "b", {"s1": [7, 3, 1], "empty": [], "s0": [2, 0, 6, 5, 4]})
    keys = [f"sample{n}" for n in range(8)]
    drawn = one.draw(keys, 4, seed=0)
    assert drawn.shape == (8, 4, 2, 2)
    for number, maps in enumerate(drawn[:, :, 0, 0].tolist()):
        assert number not in maps
        assert len(set(maps)) == 4
    assert torch.equal(other.draw(keys, 4, seed=0), drawn)
    assert torch.equal(
        torch.cat([other.draw([key], 4, seed=0) for key in keys[::-1]]).flip(0), drawn
    )
    assert not torch.equal(one.draw(keys, 4, seed=1), drawn)
    assert sorted(one.draw(["sample3"], 7, seed=0)[0, :, 0, 0].tolist()) == [0, 1, 2, 4, 5, 6, 7]
    # A long draw is close to uniform: each of the 7 others about as often.
    counts = (
        torch.stack([one.draw(["sample3"], 1, seed=s)[0, 0, 0, 0] for s in range(700)])
        .long()
        .bincount(minlength=8)
    )
    assert counts[3] == 0
    assert (counts[[0, 1, 2, 4, 5, 6, 7]] - 100).abs().max() < 45


def test_too_few_other_images_are_refused(tmp_path):
    few = pool(tmp_path, {"s0": [0, 1], "s1": [1, 1]})
    assert (
        few.draw(["sample1"], 1, seed=0).flatten()[0] == 0
    )  # the same key in another shard is the same image
    with pytest.raises(
        InputError, match=r"2 heatmaps of other images are wanted for sample 'sample1'.* has 1"
    ):
        few.draw(["sample1"], 2, seed=0)
