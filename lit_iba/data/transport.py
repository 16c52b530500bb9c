"""How batches come out of a loader's workers: in shared memory that is filled again and again.

New shared memory costs a page fault for every 4 kB that are written, which can be a third of the
time that decoding takes. A worker therefore keeps a few slots. The main process copies a batch out
of its slot, says so, and the slot is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

_ALIGNED = 64  # bytes; where a tensor may begin, whatever its type


@dataclass(frozen=True)
class _Piece:
    """A tensor in a slot: its first byte and the one behind its last, and how to read them."""

    begin: int
    end: int
    shape: torch.Size
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, tensor: Tensor, begin: int) -> _Piece:
        """The place of a dense tensor that begins at a byte."""
        last = _has_channels_last(tensor)
        shape = tensor.permute(0, 2, 3, 1).shape if last else tensor.shape
        return cls(begin, begin + tensor.nbytes, shape, tensor.dtype, last)

    def copied(self, memory: np.ndarray, pinned: bool) -> Tensor:
        """The tensor, in memory of its own."""
        copy = torch.empty(self.end - self.begin, dtype=torch.uint8, pin_memory=pinned)
        # By numpy, with one thread: those of torch take the time that the workers need.
        copy.numpy()[:] = memory[self.begin : self.end]
        tensor = copy.view(self.dtype).view(self.shape)
        return tensor.permute(0, 3, 1, 2) if self.channels_last else tensor


@dataclass(frozen=True)
class Parcel:
    """A batch on its way: what the queue carries instead of it.

    Args:
        worker: Who sends it.
        number: Of the worker's parcels, from 1.
        slot: Which of the worker's slots its large tensors are in.
        memory: That slot, where the receiver does not know it yet.
        batch: The batch; large tensors as their places, small ones as arrays.
        beside: Whatever the stream yielded beside the batch.
    """

    worker: int
    number: int
    slot: int
    memory: Tensor | None
    batch: dict[str, Any]
    beside: tuple[Any, ...]


@dataclass
class _Slot:
    memory: Tensor
    number: int = 0  # of the parcel that was put here last
    known: bool = False  # to the receiver, in this iteration


class Sender(IterableDataset[Any]):
    """A stream of (batch, ...), as its workers send it: each batch as a :class:`Parcel`.

    Args:
        stream: What to send; whatever is no tuple goes as it is.
        num_workers: Number of workers.
    """

    def __init__(self, stream: IterableDataset[Any], num_workers: int) -> None:
        self.stream = stream
        # The number of the last parcel of each worker that was copied; shared with the workers.
        self.taken = torch.zeros(num_workers, dtype=torch.int64).share_memory_()
        self._slots: list[_Slot] = []
        self._sent = 0  # parcels
        self._claimed: int | None = None  # the place of the slot that is being filled
        self._worker = -1

    def __iter__(self) -> Iterator[Any]:
        global _sender
        worker = get_worker_info()
        assert worker is not None  # in the main process there is nothing to send
        self._worker, _sender = worker.id, self
        for slot in self._slots:  # whoever broke off an epoch has dropped what was under way
            slot.number, slot.known = 0, False
        self._claimed = None
        for item in self.stream:
            yield self._packed(item) if isinstance(item, tuple) else item

    def claim(self, size: int) -> Tensor:
        """Memory of the batch that is sent next: a slot whose last parcel was copied, or a new
        one.
        """
        taken = int(self.taken[self._worker])
        place = next((i for i, s in enumerate(self._slots) if s.number <= taken), len(self._slots))
        if place == len(self._slots):
            self._slots.append(_Slot(_shared(size)))
        slot = self._slots[place]
        if slot.memory.numel() < size:
            slot.memory, slot.known = _shared(size), False
        slot.number, self._claimed = self._sent + 1, place
        return slot.memory[:size]

    def _packed(self, item: tuple[Any, ...]) -> Parcel:
        batch: dict[str, Any] = dict(item[0])
        large = {k: v for k, v in batch.items() if isinstance(v, Tensor) and v.ndim > 1}
        if self._claimed is None and large:
            large = self._moved(large)
        place = -1 if self._claimed is None else self._claimed
        slot = self._slots[place] if large else None
        for name, value in large.items():
            if slot is not None and _within(value, slot.memory):
                batch[name] = _Piece.of(value, value.data_ptr() - slot.memory.data_ptr())
            else:  # in torch's own way, which shares the storage: not that of the slot
                batch[name] = value.clone()
        for name, value in batch.items():
            if isinstance(value, Tensor) and value.ndim < 2:
                batch[name] = value.numpy()  # goes through the queue
        news = None if slot is None or slot.known else slot.memory
        if slot is not None:
            slot.known = True
        self._sent, self._claimed = self._sent + 1, None
        return Parcel(self._worker, self._sent, place, news, batch, item[1:])

    def _moved(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors in a slot, for those who made them elsewhere."""
        begins = [0]
        for tensor in tensors.values():
            begins.append(begins[-1] + -(-tensor.nbytes // _ALIGNED) * _ALIGNED)
        memory = self.claim(begins[-1])
        moved = {}
        for (name, tensor), begin in zip(tensors.items(), begins, strict=False):
            last = _has_channels_last(tensor)
            stored = tensor.permute(0, 2, 3, 1) if last else tensor
            there = memory[begin : begin + tensor.nbytes].view(tensor.dtype).view(stored.shape)
            there.copy_(stored)
            moved[name] = there.permute(0, 3, 1, 2) if last else there
        return moved


_sender: Sender | None = None  # of this process, in a worker


def batch_memory(size: int) -> Tensor:
    """Memory for the large tensors of a batch, uint8 (size,), unset; in a worker that in which the
    batch is sent.
    """
    return torch.empty(size, dtype=torch.uint8) if _sender is None else _sender.claim(size)


def _has_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _within(tensor: Tensor, memory: Tensor) -> bool:
    """Whether a tensor lies in the memory, dense."""
    same = tensor.untyped_storage().data_ptr() == memory.untyped_storage().data_ptr()
    return same and (tensor.is_contiguous() or _has_channels_last(tensor))


def _shared(size: int) -> Tensor:
    storage = torch.UntypedStorage._new_shared(max(size, 1))
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (len(storage),))  # type: ignore[call-overload]


class Receiver:
    """The other side, for one iteration over a loader of a :class:`Sender`.

    Args:
        sender: Whose parcels come.
        pinned: Whether batches lie in page-locked memory, which a GPU copies from directly.
    """

    def __init__(self, sender: Sender, pinned: bool = False) -> None:
        self._taken, self._pinned = sender.taken.zero_(), pinned  # new workers count from 1 again
        self._memory: dict[tuple[int, int], np.ndarray] = {}

    def opened(self, item: Any) -> Any:
        """What the stream yielded; whatever is no parcel stays as it is."""
        if not isinstance(item, Parcel):
            return item
        place = item.worker, item.slot
        if item.memory is not None:
            self._memory[place] = item.memory.numpy()
        memory = self._memory.get(place)
        batch = {name: self._unpacked(value, memory) for name, value in item.batch.items()}
        # After the copies: Python's lock is let go in each, which keeps the order of memory on
        # processors that have none of their own.
        self._taken[item.worker] = item.number
        return batch, *item.beside

    def _unpacked(self, value: Any, memory: np.ndarray | None) -> Any:
        if isinstance(value, np.ndarray):
            small = torch.from_numpy(value)
            return small.pin_memory() if self._pinned else small
        if not isinstance(value, _Piece):
            return value
        assert memory is not None  # it came with the slot's first parcel
        return value.copied(memory, self._pinned)
