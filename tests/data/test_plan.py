"""The order of samples: exactly once, equal steps, and a pure function of where one is."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_iba.data.plan import EpochOrder, SamplePlan, left_of_epoch
from lit_iba.errors import InputError

shard_counts = st.lists(st.integers(1, 23), min_size=1, max_size=6).map(torch.tensor)
shapes = st.tuples(
    st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)
)  # batch, world, lanes, block


def planned(
    counts: torch.Tensor, shape: tuple[int, int, int, int], training: bool, seed: int = 0
) -> SamplePlan:
    batch_size, world, lanes, block = shape
    return SamplePlan(counts, batch_size, world, lanes, seed, training, block)


def epoch_samples(plan: SamplePlan, epoch: int, rank: int) -> list[list[tuple[int, int]]]:
    """The (shard, slot) of each sample of each batch of one process."""
    order = EpochOrder(plan, epoch)
    located = [order.locate(order.positions(rank, step)) for step in range(plan.steps)]
    return [list(zip(shards.tolist(), slots.tolist(), strict=True)) for shards, slots in located]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(counts=shard_counts, shape=shapes, epoch=st.integers(0, 3), training=st.booleans())
def test_every_sample_comes_exactly_once_in_equal_steps(
    counts: torch.Tensor, shape: tuple[int, int, int, int], epoch: int, training: bool
) -> None:
    plan = planned(counts, shape, training)
    batches = [epoch_samples(plan, epoch, rank) for rank in range(plan.world)]
    taken = [s for process in batches for batch in process for s in batch]
    every = [(shard, slot) for shard, count in enumerate(counts.tolist()) for slot in range(count)]
    assert sorted(s for s in taken if s != (-1, -1)) == every
    assert {len(process) for process in batches} == {plan.steps}
    assert plan.total <= len(taken) < plan.total + plan.batch_size * plan.world
    for rank, process in enumerate(batches):
        real = [sum(s != (-1, -1) for s in batch) for batch in process]
        order = EpochOrder(plan, epoch)
        assert [order.samples(rank, first) for first in range(len(real))] == [
            sum(real[i:]) for i in range(len(real))
        ]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(counts=shard_counts, arrangements=st.lists(shapes, min_size=2, max_size=4), data=st.data())
def test_an_epoch_shared_out_anew_in_its_middle_repeats_and_loses_nothing(
    counts: torch.Tensor, arrangements: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    every = [(shard, slot) for shard, count in enumerate(counts.tolist()) for slot in range(count)]
    whole, parts, taken = SamplePlan(counts, 1, training=True, seed=4), [], []
    for number, shape in enumerate(arrangements):
        left = left_of_epoch(whole, 2, parts)
        if left is not None and len(left) == 0:
            break
        size = None if left is None else len(left)
        plan = replace(planned(counts, shape, training=True, seed=4), size=size)
        order, last = EpochOrder(plan, 2, left), number == len(arrangements) - 1
        steps = plan.steps if last else data.draw(st.integers(0, plan.steps))
        for rank in range(plan.world):
            for step in range(steps):
                shards, slots = order.locate(order.positions(rank, step))
                taken += [
                    s for s in zip(shards.tolist(), slots.tolist(), strict=True) if s != (-1, -1)
                ]
        parts.append({**plan.arrangement(), "batches": steps})
    assert sorted(taken) == every


@settings(max_examples=80, deadline=None)
@given(counts=shard_counts, shape=shapes, data=st.data())
def test_a_batch_does_not_depend_on_the_batches_asked_before(
    counts: torch.Tensor, shape: tuple[int, int, int, int], data: st.DataObject
) -> None:
    plan = planned(counts, shape, training=True)
    step = data.draw(st.integers(0, plan.steps - 1))
    asked_alone = EpochOrder(plan, 2).positions(0, step)
    assert torch.equal(asked_alone, asked_in_turn(plan, step))


def asked_in_turn(plan: SamplePlan, step: int) -> torch.Tensor:
    order = EpochOrder(plan, 2)
    return [order.positions(0, s) for s in range(step + 1)][-1]


def test_order_changes_with_epoch_and_seed_and_nothing_else() -> None:
    counts = torch.tensor([20, 30, 10, 40])
    order = epoch_samples(SamplePlan(counts, 5, training=True, seed=1, block=4), 0, 0)
    assert order == epoch_samples(SamplePlan(counts, 5, training=True, seed=1, block=4), 0, 0)
    assert order != epoch_samples(SamplePlan(counts, 5, training=True, seed=1, block=4), 1, 0)
    assert order != epoch_samples(SamplePlan(counts, 5, training=True, seed=2, block=4), 0, 0)


def test_shuffling_stays_inside_blocks() -> None:
    plan = SamplePlan(torch.tensor([64]), 4, training=True, block=4)
    order = EpochOrder(plan, 0)
    positions = torch.cat([order.positions(0, step) for step in range(plan.steps)]).view(-1, 16)
    assert torch.equal(positions.sort(dim=1).values, torch.arange(64).view(-1, 16))
    assert not torch.equal(positions, torch.arange(64).view(-1, 16))


def test_lanes_read_each_shard_from_front_to_back() -> None:
    plan = SamplePlan(torch.tensor([13, 8, 21, 5]), 3, world=2, lanes=2, training=True, block=2)
    order = EpochOrder(plan, 0)
    for rank in range(2):
        for lane in range(2):
            steps = range(lane, plan.steps, 2)
            blocks: dict[int, list[int]] = {}
            for step in steps:
                blocks.setdefault(plan.block_of(step)[1], []).extend(
                    order.positions(rank, step).tolist()
                )
            assert all(max(a) < min(b) for a, b in pairwise(blocks.values()))


def test_every_process_has_a_batch_even_of_one_sample() -> None:
    plan = SamplePlan(torch.tensor([1]), 4, world=3)
    assert plan.steps == 1
    assert [EpochOrder(plan, 0).samples(rank) for rank in range(3)] == [0, 0, 1]


def test_imagenet_is_planned_in_well_under_a_second() -> None:
    counts = torch.full((1282,), 1000)
    start = time.perf_counter()
    plan = SamplePlan(counts, 256, world=8, lanes=8, training=True)
    order = EpochOrder(plan, 5)
    for step in (0, 300, plan.steps - 1):
        order.locate(order.positions(7, step))
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("setting", ["batch_size", "world", "lanes", "block"])
def test_settings_must_be_positive(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} is 0"):
        SamplePlan(torch.tensor([9]), **{"batch_size": 2, setting: 0})
