"""Texts as a classifier takes them: positions, each with a number, and the words that they spell.

An LSTM reads a word at each position. A transformer reads pieces: one or several spell a word, and
special tokens such as ``[CLS]`` and ``[SEP]`` belong to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_iba.errors import InputError

Join = Literal["sum", "mean"]


@dataclass(frozen=True)
class ReadText:
    """One text and what was made of it.

    Args:
        text: As it was given.
        words: Its words, as they are shown.
        pieces: What stands at each position.
        word_of: For each position, the number of its word; -1 for a special token.
        known: For each word, whether the classifier has a number for all of it.
        spans: For each word, where it begins and ends in the text, in characters; None where the
            words are not cut out of the text.
        cut: How many positions at the text's end are not read, because there is no room for them.

    Example:
        >>> from lit_iba.text import ReadText
        >>> read = ReadText(
        ...     "A  great film.", ["A", "great", "film"], ["a", "gre", "##at", "film"],
        ...     word_of=[0, 1, 1, 2], known=[True] * 3, spans=[(0, 1), (3, 8), (9, 13)],
        ... )
        >>> read.gaps()
        ['', '  ', ' ', '.']
    """

    text: str
    words: list[str]
    pieces: list[str]
    word_of: list[int]
    known: list[bool]
    spans: list[tuple[int, int]] | None = None
    cut: int = 0

    def gaps(self) -> list[str]:
        """What stands before each word, and after the last one."""
        if self.spans is None:
            return ["", *[" "] * (len(self.words) - 1), ""]
        ends, begins = [0, *[end for _, end in self.spans]], [begin for begin, _ in self.spans]
        return [self.text[a:b] for a, b in zip(ends, [*begins, len(self.text)], strict=True)]


@dataclass(frozen=True)
class Words:
    """A batch of texts.

    Args:
        read: The texts.
        numbers: int64 (B, T), padding behind a text's end.
        lengths: Positions of each text, special tokens included, int64 (B,).
        word_of: int64 (B, T), the number of the word of each position; -1 for special tokens and
            padding.

    Example:
        >>> words = text_classifier.words(["A great film.", "Great."])
        >>> words.tokens
        [['a', 'great', 'film', '.'], ['great', '.']]
        >>> words.lengths
        tensor([4, 2])
    """

    read: list[ReadText]
    numbers: Tensor
    lengths: Tensor
    word_of: Tensor

    @classmethod
    def of(
        cls,
        read: Sequence[ReadText],
        numbers: Sequence[Sequence[int]],
        padding: int,
        device: torch.device,
    ) -> Words:
        """From the numbers of each text's positions, and the number that padding gets."""
        lengths = torch.tensor([len(row) for row in numbers])
        filled = torch.full((len(read), int(lengths.max())), padding, dtype=torch.int64)
        word_of = torch.full_like(filled, -1)
        for i, row in enumerate(numbers):
            filled[i, : len(row)] = torch.tensor(row)
            word_of[i, : len(row)] = torch.tensor(read[i].word_of)
        return cls(list(read), filled.to(device), lengths.to(device), word_of.to(device))

    def __len__(self) -> int:
        return len(self.read)

    @property
    def tokens(self) -> list[list[str]]:
        """The words of each text."""
        return [text.words for text in self.read]

    @property
    def counts(self) -> list[int]:
        """Number of words of each text."""
        return [len(text.words) for text in self.read]

    @property
    def mask(self) -> Tensor:
        """Where positions are read: all but padding, bool (B, T)."""
        return positions_within(self.lengths, self.numbers.shape[1])

    @property
    def in_word(self) -> Tensor:
        """Where positions belong to words, bool (B, T)."""
        return self.word_of >= 0

    @property
    def roles(self) -> Tensor:
        """0 in words and padding, and 1, 2, ... at the special tokens of a text in their order,
        int64 (B, T).
        """
        special = self.mask & ~self.in_word
        return special.cumsum(dim=1) * special

    def rows(self, which: Tensor, width: int | None = None) -> Words:
        """Some of the texts by their numbers, again if wanted, padded to so many positions."""
        read = [self.read[i] for i in which.tolist()]
        there = which.to(self.numbers.device)
        return Words(
            read, self.numbers[there, :width], self.lengths[there], self.word_of[there, :width]
        )

    def part(self, which: slice) -> Words:
        """Some of the texts, padded to the longest among them."""
        width = int(self.lengths[which].max())
        return self.rows(torch.arange(len(self))[which], width)

    def repeat(self, copies: int) -> Words:
        """All of the texts, so many times one after the other."""
        return Words(
            self.read * copies,
            self.numbers.repeat(copies, 1),
            self.lengths.repeat(copies),
            self.word_of.repeat(copies, 1),
        )

    def to_cpu(self) -> Words:
        """The same on the CPU."""
        return Words(self.read, self.numbers.cpu(), self.lengths.cpu(), self.word_of.cpu())

    def spread(self, values: Sequence[Tensor]) -> Tensor:
        """Values of each text's words, (count,), at all positions of these words, (B, T)."""
        found = torch.zeros(self.numbers.shape, device=self.numbers.device, dtype=torch.float32)
        for row, of_words, word_of in zip(found, values, self.word_of, strict=True):
            inside = word_of >= 0
            row[inside] = of_words.to(row)[word_of[inside]]
        return found

    def join(self, values: Tensor, how: Join) -> list[Tensor]:
        """For each text the sum, or the mean, of the values (B, T) over each word's positions."""
        joined = []
        for row, word_of, count in zip(values, self.word_of, self.counts, strict=True):
            inside = word_of >= 0
            total = row.new_zeros(count).index_add_(0, word_of[inside], row[inside])
            sizes = torch.bincount(word_of[inside], minlength=count)
            joined.append(total / sizes if how == "mean" else total)
        return joined


def check_whole(text: str, what: str) -> None:
    """Refuse a text with halves of characters, which no file, nor a tokenizer, can take.

    Raises:
        InputError: There is one; a command line's bytes that are no UTF-8 become such, and so does
            a lone surrogate in JSON.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} is not Unicode (character {error.start + 1} is half of one,"
            f" {text[error.start]!r}); give it in UTF-8"
        ) from error


def positions_within(lengths: Tensor, width: int) -> Tensor:
    """Where a position lies within a text's length, bool (B, width)."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
