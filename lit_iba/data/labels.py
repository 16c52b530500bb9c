"""Which class a sample is of, where shards that others published say it elsewhere than in a ``cls``
member: in a field of their ``json``, or in a text, as a number or by the name of a class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lit_iba.data.tar_samples import RawSample
from lit_iba.errors import InputError

USUAL = "cls"


@dataclass(frozen=True)
class LabelRule:
    """Where the class of a sample stands.

    Args:
        selector: A member such as ``cls`` or ``txt``, or a field of a JSON member such as
            ``json.label`` or ``json.meta.synset``.
        names: What a text means: its place among these; empty where labels are numbers.
    """

    selector: str = USUAL
    names: tuple[str, ...] = ()

    def value(self, sample: RawSample) -> str | int | None:
        """What the sample says, as it stands; None where it has no such member.

        Raises:
            InputError: The member is no JSON, has no such field, or holds neither a number nor a
                text.
        """
        member, _, fields = self.selector.partition(".")
        if self.selector in sample.members:
            member, fields = self.selector, ""
        if member not in sample.members:
            return None
        name = f"sample {sample.key!r} of {sample.shard}"
        data = sample.members[member]
        if not fields:
            return data.decode("utf-8", "replace").strip()
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"the {member} of {name} cannot be read ({error}); write a JSON object"
            ) from error
        for field in fields.split("."):
            if not isinstance(found, dict) or field not in found:
                has = ", ".join(map(str, found)) if isinstance(found, dict) else type(found)
                raise InputError(
                    f"the {member} of {name} has no {fields!r} for a label, only {str(has)[:200]};"
                    " correct label"
                )
            found = found[field]
        if isinstance(found, bool) or not isinstance(found, int | str):
            raise InputError(
                f"{self.selector} of {name} is {str(found)[:40]!r}; a label is a whole number or"
                " a text"
            )
        return found

    def applied(self, sample: RawSample) -> RawSample:
        """The sample with a ``cls`` member as ours have it; without one where it says nothing.

        Raises:
            InputError: As :meth:`value`; or a text names no class.
        """
        found = self.value(sample)
        members = {name: data for name, data in sample.members.items() if name != USUAL}
        if found is not None:
            members[USUAL] = str(self._number(found, sample)).encode()
        return replace(sample, members=members)

    def _number(self, found: str | int, sample: RawSample) -> int | str:
        if isinstance(found, str) and found in self._places:
            return self._places[found]
        if isinstance(found, int) or is_number(found):
            return found
        known = (
            f"none of the {len(self.names)} class names"
            if self.names
            else "a text, and nothing says which class it is"
        )
        raise InputError(
            f"{self.selector} of sample {sample.key!r} of {sample.shard} is {found[:40]!r},"
            f" {known}; give class_names in the order of the labels, or write an index with"
            " lit-iba shards --index_only true, which collects them"
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


def is_number(text: str) -> bool:
    """Whether a text is a class as a decimal number."""
    return text.isascii() and text.isdigit()


def check_same_numbers(names: Mapping[str, Sequence[str] | None], mend: str) -> None:
    """Compare the class names of sets of data that are used with each other.

    Names that only one set has say nothing: another one may call its classes otherwise.

    Args:
        names: Names of a set's classes in the order of their labels, by what to call the set; None
            where it has none.
        mend: What to do, for the error.

    Raises:
        InputError: A class has one label in one set and another label in another.

    Example:
        >>> from lit_iba.data.labels import check_same_numbers
        >>> check_same_numbers({"train": ["cat", "dog", "emu"], "val": ["cat", "dog"]}, "")
        >>> check_same_numbers({"train": ["cat", "dog", "emu"], "val": ["cat", "emu"]}, "")
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: class 'emu' has label 2 in train and 1 in val...
    """
    known: dict[str, tuple[str, list[int]]] = {}
    for place, found in names.items():
        for label, name in enumerate(found or ()):
            where, labels = known.setdefault(name, (place, []))
            if where == place:  # ImageNet has two classes called crane
                labels.append(label)
            elif label not in labels:
                raise InputError(
                    f"class {name!r} has label {labels[0]} in {where} and {label} in {place};"
                    f" {mend}"
                )
