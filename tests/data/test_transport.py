"""Batches come out of workers as they went in, and stay what they are while others follow in the
same memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import IterableDataset

from lit_iba.data import transport
from lit_iba.data.transport import Receiver, Sender, batch_memory
from lit_iba.data.workers import WorkerWatch, end_workers, stream_loader

DTYPES = [torch.uint8, torch.bool, torch.float32, torch.bfloat16, torch.int64]


def content(number: int, layout: str) -> dict[str, Any]:
    """A batch that no other number has, its tensors made as ``layout`` says."""
    draw = torch.Generator().manual_seed(number)
    values = torch.randint(0, 2, (len(DTYPES), 3, 2, 5, 4), generator=draw) * (1 + number % 90)
    tensors = [v.to(dtype) for v, dtype in zip(values, DTYPES, strict=True)]
    if layout == "claimed":  # as BatchMaker does: all in one memory, here with one tensor outside
        memory = batch_memory(sum(t.nbytes for t in tensors[:3]) + 64)
        begin = 0
        for i, tensor in enumerate(tensors[:3]):
            there = memory[begin : begin + tensor.nbytes].view(tensor.dtype)
            # Channels innermost, as pictures are; the last one in no usual order.
            last = there.view(3, 4, 5, 2).permute(0, 3, 2, 1)
            there = last if i == 2 else there.view(3, 5, 4, 2).permute(0, 3, 1, 2)
            tensors[i] = there.copy_(tensor)
            begin += -(-tensor.nbytes // 4) * 4
    elif layout == "strided":
        tensors = [t.transpose(2, 3) for t in tensors]
    elif layout == "growing":  # every batch is larger than the one before
        tensors = [t.repeat(1 + number, 1, 1, 1) for t in tensors]
    named = {str(t.dtype): t for t in tensors}
    return {"key": [f"{number}"], **named, "weight": torch.ones(3), "one": torch.tensor(number)}


def expected(number: int, layout: str) -> dict[str, Any]:
    return content(number, "plain" if layout == "claimed" else layout)  # the same values


def same(seen: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return list(seen) == list(wanted) and all(
        torch.equal(seen[k], v) and seen[k].dtype == v.dtype
        if isinstance(v, Tensor)
        else seen[k] == v
        for k, v in wanted.items()
    )


class Numbers(IterableDataset[Any]):
    """Batches of the numbers of a worker."""

    def __init__(self, count: int, layout: str) -> None:
        self.count, self.layout = count, layout

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, self.count, stride):
            yield content(number, self.layout), [number]
        yield "the end"  # no tuple, such as a Failure


@contextmanager
def as_worker() -> Iterator[None]:
    """This process as the only worker of a loader."""
    worker = SimpleNamespace(id=0, num_workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "get_worker_info", lambda: worker)
        patch.setattr(torch.utils.data, "get_worker_info", lambda: worker)
        patch.setattr(transport, "_sender", None)
        yield


LAYOUTS = ["plain", "claimed", "strided", "growing"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_of_workers_stay_what_they_were(layout: str) -> None:
    loader = stream_loader(Numbers(24, layout), 2, None)
    watch = WorkerWatch(60)
    try:
        for stop in (5, None):  # an epoch that is broken off, and a whole one
            kept = []
            for item in watch.batches(loader):
                kept.append(item)
                if len(kept) == stop:
                    break
            batches = [item for item in kept if item != "the end"]
            assert len(batches) == (stop or 24)
            # Only now: all of them are held while others come through the same slots.
            assert all(same(batch, expected(n, layout)) for batch, (n,) in batches)
    finally:
        end_workers(watch._workers)


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    under_way=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    again=st.booleans(),
)
def test_a_slot_is_filled_again_only_when_its_batch_was_copied(
    layout: str, under_way: list[int], again: bool
) -> None:
    # In one process, with any number of parcels under way at any time.
    sender = Sender(Numbers(40, layout), 1)
    with as_worker():
        for _ in range(1 + again):
            receiver, parcels, waiting = Receiver(sender), iter(sender), []
            most = 0
            for number, many in enumerate(under_way):
                while len(waiting) <= many:
                    waiting.append(next(parcels))
                    most = max(most, len(waiting))
                batch, numbers = receiver.opened(waiting.pop(0))
                assert numbers == [number]
                assert same(batch, expected(number, layout))
            # Memory is taken for those under way at one time, and no more.
            assert len(sender._slots) <= (1 + again) * most


def test_an_iteration_shares_each_slot_once() -> None:
    sender = Sender(Numbers(20, "claimed"), 1)
    with as_worker():
        for _ in range(2):
            receiver, parcels = Receiver(sender), []
            for parcel in sender:
                parcels.append(parcel)
                receiver.opened(parcel)
            assert [p.memory is not None for p in parcels[:-1]] == [True] + [False] * 19


def test_new_workers_take_nothing_for_copied_because_old_ones_got_so_far() -> None:
    old, new = (Sender(Numbers(20, "claimed"), 1) for _ in range(2))
    new.taken = old.taken  # as of a loader whose workers are started again
    with as_worker():
        receiver = Receiver(old)
        for parcel in old:
            receiver.opened(parcel)
        receiver = Receiver(new)
        for parcel in list(islice(new, 4)):  # all of them under way at once
            batch, (number,) = receiver.opened(parcel)
            assert same(batch, expected(number, "claimed"))
