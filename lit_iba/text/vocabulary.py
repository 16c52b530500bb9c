"""From a text to words, and from words to numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lit_iba.errors import InputError
from lit_iba.files import read_text, write_text

PAD, UNKNOWN = "<pad>", "<unk>"
_BREAKS = re.compile(r"<br\s*/?>")
_SPACES = re.compile(r"[;:]")  # they separate and vanish
_ALONE = re.compile(r"(['.,()!?])")  # words of their own


def tokenize(text: str) -> list[str]:
    """Lower-case words and punctuation, as torchtext's ``basic_english`` has them; HTML line breaks
    vanish.
    """
    text = _SPACES.sub(" ", _BREAKS.sub(" ", text.lower())).replace('"', "")
    return _ALONE.sub(r" \1 ", text).split()


class Vocabulary:
    """Words and their numbers; 0 is padding, 1 every word that is not in it, ``<pad>`` and
    ``<unk>`` themselves among them where a text has them as words.

    Args:
        words: All of them in the order of their numbers, beginning with ``<pad>`` and ``<unk>``.

    Raises:
        InputError: A word is there twice, or the first two are others.

    Example:
        >>> from lit_iba.text import Vocabulary
        >>> vocabulary = Vocabulary.build(["A great film.", "A boring film."])
        >>> len(vocabulary), "great" in vocabulary
        (7, True)
        >>> vocabulary.numbers(["film", "<pad>", "xylophone"])  # what it does not know is <unk>
        [4, 1, 1]
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        # Padding stands in no text: a text that has the word <pad> has a word like any other.
        self._numbers = {word: number for number, word in enumerate(self.words) if number > 1}
        twice = len({*self.words}) < len(self.words)
        if self.words[:2] != [PAD, UNKNOWN] or twice:
            raise InputError(
                f"a vocabulary begins with {PAD} and {UNKNOWN} and has each word once; build it"
                " again"
            )

    @classmethod
    def build(cls, texts: Iterable[str], size: int = 25_000, min_count: int = 1) -> Vocabulary:
        """The most frequent words of texts, equally frequent ones in alphabetical order.

        Args:
            texts: The training texts.
            size: At most so many words, beside padding and unknown.
            min_count: A word must be there so often.

        Raises:
            InputError: A setting is out of range, or no word is left.
        """
        if size < 1 or min_count < 1:
            raise InputError(
                f"vocabulary size {size} and min_count {min_count} must both be at least 1"
            )
        counts = Counter(word for text in texts for word in tokenize(text))
        for reserved in (PAD, UNKNOWN):  # their numbers mean something else
            counts.pop(reserved, None)
        frequent = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        if not frequent:
            raise InputError(
                f"no word occurs {min_count} times in the training texts; lower min_count or check"
                " the data"
            )
        return cls([PAD, UNKNOWN, *(word for _, word in frequent[:size])])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    def numbers(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of words; 1 for those that are not in the vocabulary."""
        return [self._numbers.get(token, 1) for token in tokens]

    @property
    def sha256(self) -> str:
        """Fingerprint of the words in their order."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def to_json(self) -> str:
        """Words and fingerprint."""
        return (
            json.dumps({"sha256": self.sha256, "words": self.words}, ensure_ascii=False, indent=0)
            + "\n"
        )

    @classmethod
    def from_json(cls, text: str, source: str) -> Vocabulary:
        """Read :meth:`to_json` back.

        Raises:
            InputError: It is no vocabulary, or its words were changed.
        """
        try:
            found = json.loads(text)
            vocabulary, sha256 = cls(found["words"]), found["sha256"]
            same = vocabulary.sha256 == sha256
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{source} holds no vocabulary ({error}); give the vocabulary.json of a training"
            ) from error
        if not same:
            raise InputError(
                f"the words in {source} were changed (their SHA-256 differs); take the original"
                " file"
            )
        return vocabulary

    def save(self, path: str | Path) -> None:
        """Write as JSON by atomic rename."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a file of :meth:`save`.

        Raises:
            InputError: The file is missing, or not as it was written.
        """
        if not Path(path).is_file():
            raise InputError(
                f"vocabulary {path} does not exist; training writes one into its run's folder"
            )
        return cls.from_json(read_text(path, "vocabulary"), str(path))

    def check(self, sha256: str, what: str) -> None:
        """Refuse something that was made with other words.

        Raises:
            InputError: The fingerprints differ.
        """
        if sha256 != self.sha256:
            raise InputError(
                f"{what} was made with another vocabulary (SHA-256 {sha256[:12]}, here"
                f" {self.sha256[:12]}); use the same training reviews and vocabulary settings, or"
                " give the run's vocabulary.json as data.vocabulary"
            )
