"""Batches of reviews: padded word numbers with lengths, in the order that (seed, epoch) gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lit_iba.data.batch import Batch, Hole
from lit_iba.data.sample_module import SampleDataModule
from lit_iba.data.stream import SampleMaker
from lit_iba.data.tar_samples import RawSample
from lit_iba.errors import InputError
from lit_iba.randomness import generator_for
from lit_iba.text.reviews import CLASS_NAMES, Review, class_names_for, read_reviews
from lit_iba.text.vocabulary import Vocabulary, tokenize


@dataclass(frozen=True)
class ReviewSource:
    """Reviews in memory; every one counts as a shard of its own, so that all of them are
    shuffled.
    """

    reviews: tuple[Review, ...]

    def counts(self) -> torch.Tensor:
        """One for each review, int64 (N,)."""
        return torch.ones(len(self.reviews), dtype=torch.int64)

    def contents(self) -> dict[str, list[Any]]:
        """Every review's key and class."""
        return {"reviews": [[review.key, review.label] for review in self.reviews]}

    def open(self, number: int) -> ReviewReader:
        """A review."""
        return ReviewReader(self.reviews[number])


@dataclass(frozen=True)
class ReviewReader:
    """One review as the samples of a shard."""

    review: Review

    def read(self, slots: Sequence[int]) -> Iterator[RawSample | Hole]:
        """Its text and label."""
        members = {"txt": self.review.text.encode(), "cls": str(self.review.label).encode()}
        yield from [RawSample(self.review.key, members, "")] * len(slots)

    def close(self) -> None:
        """Nothing stays open."""


@dataclass(frozen=True)
class ReviewBatchMaker:
    """Tokenises, cuts and pads.

    ``words`` int64 (B, T), 0 behind the end; ``length`` int64 (B,); ``label`` int64 (B,); ``key``;
    ``weight`` float32 (B,), 0 for an empty slot.

    Args:
        vocabulary: Its words.
        max_length: Words kept of a text, from its beginning.
    """

    vocabulary: Vocabulary
    max_length: int

    def __call__(
        self, slots: Sequence[RawSample | Hole | None], epoch: int = 0
    ) -> tuple[Batch, list[Hole]]:
        """Make one batch; there are no holes, since reviews are checked when they are read."""
        samples = [slot if isinstance(slot, RawSample) else None for slot in slots]
        texts = [
            tokenize(s.members["txt"].decode())[: self.max_length] if s else [] for s in samples
        ]
        words = np.zeros((len(texts), max(1, *map(len, texts))), dtype=np.int64)
        for row, text in zip(words, texts, strict=True):
            row[: len(text)] = self.vocabulary.numbers(text)
        return {
            "words": torch.from_numpy(words),
            "length": torch.tensor([len(text) for text in texts]),
            "label": torch.tensor([int(s.members["cls"]) if s else -1 for s in samples]),
            "key": [s.key if s else "" for s in samples],
            "weight": torch.tensor([float(s is not None) for s in samples]),
        }, []


class IMDBDataModule(SampleDataModule):
    """Reviews with a sentiment.

    Args:
        train: Training reviews: a folder such as ``aclImdb/train`` or a ``.jsonl`` file (see
            :func:`read_reviews`), with as many classes as the training has.
        test: Test reviews.
        predict: Further reviews, for prediction.
        vocabulary: A ``vocabulary.json``; by default the vocabulary is built from the training
            reviews.
        vocabulary_size: Words at most, where it is built; 25,000 in the authors' code.
        min_count: How often a word must occur, where the vocabulary is built.
        val_fraction: Share of the training reviews that is held out for validation (and not in the
            vocabulary).
        max_length: Words kept of a review, from its beginning.
        batch_size: Reviews in each batch of one process.
        class_names: Name of each class in the order of the labels; by default negative and
            positive, or of more than two classes their numbers.
        loading: As in :class:`lit_iba.data.SampleDataModule`; pictures have some more settings than
            reviews.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.text import IMDBDataModule
        >>> data = IMDBDataModule(test="reviews.jsonl", batch_size=2)
        >>> [review.label for review in data.reviews("test")]
        [1, 0, 1, 0]
    """

    def __init__(
        self,
        train: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        *,
        vocabulary: str | None = None,
        vocabulary_size: int = 25_000,
        min_count: int = 2,
        val_fraction: float = 0.1,
        max_length: int = 400,
        batch_size: int = 32,
        class_names: list[str] | None = None,
        **loading: Any,
    ) -> None:
        # What only pictures have is no setting here, on the command line neither.
        super().__init__(
            preprocessing=None,
            batch_size=batch_size,
            augment=False,
            block=1,
            max_corrupt_fraction=None,
            num_classes=None,
            **loading,
        )
        if not 0 < val_fraction < 1 or max_length < 1:
            raise InputError(
                f"val_fraction {val_fraction} must lie between 0 and 1, max_length {max_length}"
                " above 0"
            )
        if class_names is not None and len(class_names) < 2:
            raise InputError(f"class_names is {class_names}; name at least two classes")
        self.paths = {"train": train, "val": train, "test": test, "predict": predict}
        self.vocabulary_path, self.vocabulary_size, self.min_count = (
            vocabulary,
            vocabulary_size,
            min_count,
        )
        self.val_fraction, self.max_length = val_fraction, max_length
        self._class_names = class_names
        self._vocabulary: Vocabulary | None = None
        self._read: dict[str, list[Review]] = {}

    def reviews(self, split: str) -> list[Review] | None:
        """Reviews of ``"train"``, ``"val"``, ``"test"`` or ``"predict"``; None where the split was
        not given.
        """
        path = self.paths[split]
        if path is None:
            return None
        if path not in self._read:
            # How many classes there are, the training may know; see check_classes.
            self._read[path] = read_reviews(path, None)
        found = self._read[path]
        if split not in ("train", "val"):
            return found
        count = round(self.val_fraction * len(found))
        if not 0 < count < len(found):
            raise InputError(
                f"{len(found)} training reviews leave {count} for validation with val_fraction"
                f" {self.val_fraction}; give more reviews or another fraction"
            )
        # By key, so that the order of the file does not matter.
        order = torch.randperm(
            len(found), generator=generator_for(self.seed, "validation")
        ).tolist()
        held_out = {sorted(review.key for review in found)[i] for i in order[:count]}
        return [review for review in found if (review.key in held_out) == (split == "val")]

    def check_classes(self, classes: int) -> list[str]:
        """The names of so many classes, after a look at the reviews read so far.

        Raises:
            InputError: A review has a label beyond them, or other names were given.
        """
        for path, reviews in self._read.items():
            for review in reviews:
                if review.label >= classes:
                    raise InputError(
                        f"review {review.key} of {path} has label {review.label}, but there are"
                        f" {classes} classes, from 0; correct it, or give all classes, as"
                        " model.num_classes (and data.class_names)"
                    )
        return class_names_for(classes, self._class_names)

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the file given, or of the training reviews.

        Raises:
            InputError: Neither is given.
        """
        if self._vocabulary is None:
            if self.vocabulary_path is not None:
                self._vocabulary = Vocabulary.load(self.vocabulary_path)
            elif (reviews := self.reviews("train")) is not None:
                texts = [review.text for review in reviews]
                self._vocabulary = Vocabulary.build(texts, self.vocabulary_size, self.min_count)
            else:
                raise InputError(
                    "the vocabulary comes from training reviews: give data.train, or"
                    " data.vocabulary"
                )
        return self._vocabulary

    def load(self, split: str) -> tuple[ReviewSource, list[str] | None] | None:
        """Read a split."""
        reviews = self.reviews(split)
        if reviews is None:
            return None
        classes = max(len(CLASS_NAMES), *(review.label + 1 for review in reviews))
        if self._class_names is not None:
            return ReviewSource(tuple(reviews)), self.check_classes(len(self._class_names))
        return ReviewSource(tuple(reviews)), class_names_for(classes)

    def batch_maker(self, class_names: list[str] | None, augment: bool) -> SampleMaker:
        """Words instead of pictures."""
        return ReviewBatchMaker(self.vocabulary, self.max_length)
