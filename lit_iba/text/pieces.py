"""Reading texts with a tokenizer of ``tokenizers``: pieces, the words that they spell, and where
these stand in the text.

A word is what the tokenizer's own pre-tokenizer splits off before it looks for pieces: for BERT a
run of letters or a punctuation mark, for RoBERTa also a clitic such as ``'s``. A tokenizer without
one has its words between spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lit_iba.errors import InputError
from lit_iba.files import read_text
from lit_iba.text.words import ReadText

NAMES = {"unk": ("[UNK]", "<unk>"), "mask": ("[MASK]", "<mask>")}
NEEDED = (
    "transformers are not installed, which text classifiers of that library need; pip install"
    ' "lit_iba[transformers]"'
)


class PieceReader:
    """From texts to pieces.

    Args:
        tokenizer: A ``tokenizer.json``, a ``tokenizers.Tokenizer``, or a fast tokenizer of
            transformers. It stays as it is: what it cuts and pads itself does not matter here.
        max_length: Pieces kept of a text, special tokens included.

    Raises:
        InputError: The file is missing or holds no tokenizer, or it is of another kind.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = own_tokenizer(tokenizer), max_length
        self.sha256 = hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()  # of all of it
        self.special = self.tokenizer.num_special_tokens_to_add(False)
        if max_length <= self.special:
            raise InputError(
                f"max_length is {max_length}, but {self.special} special tokens stand in every"
                f" text; give at least {self.special + 1}"
            )
        self.tokenizer.enable_truncation(max_length)

    @property
    def largest(self) -> int:
        """The largest number of a piece."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def number_of(self, token: Literal["unk", "mask"]) -> int | None:
        """Number of the token for unknown words, or of the mask token; None where there is none."""
        named = getattr(self.tokenizer.model, "unk_token", None) if token == "unk" else None
        names = [name for name in (named, *NAMES[token]) if name is not None]
        found = (self.tokenizer.token_to_id(name) for name in names)
        return next((number for number in found if number is not None), None)

    def read(self, text: str, place: int) -> tuple[ReadText, list[int]]:
        """A text and the numbers of its pieces, cut to the maximal length as transformers cut it:
        behind the last piece for which there is room.

        Args:
            text: The text.
            place: Its place among others from 0, for messages.

        Raises:
            InputError: It has no pieces.
        """
        encoding = self.tokenizer.encode(text)
        if len(encoding.ids) <= self.special:
            raise InputError(f"text {place + 1} has no words; give letters, digits or punctuation")
        cut = sum(len(rest.ids) - self.special for rest in encoding.overflowing)
        word_of = self._words_of(encoding, text)
        pieces_of: dict[int, list[int]] = {}
        for position, word in enumerate(word_of):
            if word >= 0:
                pieces_of.setdefault(word, []).append(position)
        spans = [_span(text, [encoding.offsets[p] for p in pieces_of[w]]) for w in pieces_of]
        unknown = self.number_of("unk")
        known = [all(encoding.ids[p] != unknown for p in pieces_of[w]) for w in pieces_of]
        words = [text[begin:end] for begin, end in spans]
        read = ReadText(text, words, encoding.tokens, word_of, known, spans, cut)
        return read, list(encoding.ids)

    def _words_of(self, encoding: Any, text: str) -> list[int]:
        """For each piece the number of its word, counted from 0 without gaps; -1 for what the
        tokenizer itself has put in.
        """
        # What has no word, such as a special token that is written out in the text, is its own.
        given = [(i, word) if word is None else word for i, word in enumerate(encoding.word_ids)]
        if self.tokenizer.pre_tokenizer is None:
            given = [_spaces_before(text, *offsets) for offsets in encoding.offsets]
        inserted = encoding.special_tokens_mask
        found: dict[Any, int] = {}
        return [
            -1 if put_in else found.setdefault(word, len(found))
            for word, put_in in zip(given, inserted, strict=True)
        ]


def own_tokenizer(tokenizer: Any) -> Any:
    """A copy of a tokenizer that neither cuts nor pads.

    Raises:
        InputError: The file is missing or damaged, or this is no fast tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError(NEEDED) from error
    if isinstance(tokenizer, str | Path):
        path = Path(tokenizer)
        if not path.is_file():
            raise InputError(
                f"tokenizer {path} does not exist; give a tokenizer.json, as save_pretrained of a"
                " fast tokenizer writes it"
            )
        content, name = read_text(path, "tokenizer"), str(path)
    else:
        # a tokenizer of transformers has that of tokenizers inside
        inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(inner, Tokenizer):
            raise InputError(
                f"the tokenizer is a {type(tokenizer).__name__}; give the path of a tokenizer.json,"
                " a tokenizers.Tokenizer or a PreTrainedTokenizerFast, which know where in the text"
                " a piece stands"
            )
        content, name = inner.to_str(), type(tokenizer).__name__
    try:
        made = Tokenizer.from_str(content)
    except Exception as error:  # of tokenizers' own, which is a plain Exception
        raise InputError(
            f"{name} holds no tokenizer ({error}); give a tokenizer.json, as save_pretrained of a"
            " fast tokenizer writes it"
        ) from error
    made.no_truncation()
    made.no_padding()
    return made


def _span(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Where a word's pieces begin and end, without spaces around."""
    begin, end = min(a for a, _ in offsets), max(b for _, b in offsets)
    inner = text[begin:end]
    if not inner.strip():
        return begin, end
    return begin + len(inner) - len(inner.lstrip()), begin + len(inner.rstrip())


def _spaces_before(text: str, begin: int, end: int) -> int:
    """How many words between spaces begin in a text before a piece is over."""
    piece = text[begin:end]
    first = begin + len(piece) - len(piece.lstrip())
    return len(text[: first + 1].split())
