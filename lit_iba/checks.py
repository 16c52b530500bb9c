"""What is checked before anything is computed: settings, images and targets, each refused with one
sentence.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from lit_iba.errors import InputError, unknown_name


def check_counts(at_least: int = 1, /, **settings: int) -> None:
    """Refuse settings that are not whole numbers of at least this."""
    for setting, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise InputError(
                f"{setting} is {value!r}; it must be a whole number of at least {at_least}"
            )


def check_literals(owner: Any, given: Mapping[str, object] | None = None) -> None:
    """Refuse settings that are none of the values that their type hints name.

    Args:
        owner: A dataclass's instance, or a function, such as a constructor.
        given: The function's arguments by name, as ``locals()`` has them in its first line.
    """
    hinted: Any = type(owner) if given is None else owner
    for setting, allowed in literals_of(hinted).items():
        value = getattr(owner, setting) if given is None else given[setting]
        if value not in allowed:
            names = ", ".join(repr(name) for name in allowed if name is not None)
            raise InputError(f"{setting} is {value!r}; it must be one of {names}")


@cache
def literals_of(owner: Any) -> dict[str, tuple[Any, ...]]:
    """What the ``Literal[...]`` hints of a class's fields or of a function's arguments allow, by
    name.

    ``None`` is among it where the hint is ``Literal[...] | None``; hints of any other form are left
    out.
    """
    found = {}
    for name, hint in get_type_hints(owner).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if name != "return" and all(
            get_origin(part) is Literal or part is NoneType for part in parts
        ):
            found[name] = tuple(value for part in parts for value in get_args(part) or (None,))
    return {name: allowed for name, allowed in found.items() if allowed != (None,)}


def named_in(call: Callable[..., Any]) -> list[str]:
    """The arguments that a function names, such as a constructor.

    Example:
        >>> from lit_iba.checks import named_in
        >>> from lit_iba.iba import PerSampleIBA
        >>> named_in(PerSampleIBA.__init__)
        ['classifier', 'layer', 'statistics', 'seed', 'preset']
    """
    parameters = inspect.signature(call).parameters.values()
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one.name for one in parameters if one.name != "self" and one.kind not in several]


def check_taken(
    call: Callable[..., Any],
    given: Collection[str],
    of: str,
    *,
    also: Collection[str] = (),
    never: Collection[str] = (),
    keywords: Collection[str] | None = None,
) -> None:
    """Refuse settings that a function, such as a constructor, does not take.

    Args:
        call: The function; where it takes any setting, it checks them itself.
        given: Names of settings.
        of: What they are settings of.
        also: Further names that are right.
        never: Arguments of the function that are no settings.
        keywords: What "any setting" is, where that is to be checked here.
    """
    parameters = inspect.signature(call).parameters.values()
    if keywords is None and any(one.kind is one.VAR_KEYWORD for one in parameters):
        return
    known = [name for name in [*named_in(call), *also, *(keywords or ())] if name not in never]
    for name in given:
        if name not in known:
            if not known:
                raise InputError(f"{of} has no settings; leave {name!r} out")
            raise unknown_name(f"setting of {of}", name, known)


def check_kinds(hinted: Any, given: Mapping[str, object]) -> None:
    """Refuse settings that are no number where a number is hinted, or no whole one.

    Args:
        hinted: A dataclass, or a function, such as a constructor.
        given: Settings by name; those without a hint are only refused where they are NaN.
    """
    hints = get_type_hints(hinted)
    for setting, value in given.items():
        hint = hints.get(setting, Any)
        kinds = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))
        if isinstance(value, float) and math.isnan(value):
            raise InputError(f"{setting} is nan; it must be a number")
        if not kinds <= {int, float, NoneType} or value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (float not in kinds and not isinstance(value, int)):
            kind = "a number" if float in kinds else "a whole number"
            raise InputError(f"{setting} is {value!r}; it must be {kind}")


def check_numbers(at_least: float, *, exclusive: bool = False, **settings: float) -> None:
    """Refuse settings that are not finite numbers of at least (``exclusive``: above) this."""
    for setting, value in settings.items():
        number = (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
        if not number or value < at_least or (exclusive and value == at_least):
            raise InputError(
                f"{setting} is {value!r}; it must be a number {'above' if exclusive else '>='}"
                f" {at_least:g}"
            )


def check_images(images: Tensor, channels: int = 3) -> Tensor:
    """The images (B, channels, H, W) as a detached float tensor, or an error that says what is
    wrong with them.
    """
    if (
        not isinstance(images, Tensor)
        or images.ndim != 4
        or images.shape[1] != channels
        or not images.is_floating_point()
        or images.layout != torch.strided
        or 0 in images.shape[2:]
    ):
        given = (
            f"{images.dtype} of shape {tuple(images.shape)}, {images.layout}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise InputError(
            f"images must be a dense float tensor (B, {channels}, H, W), normalised (see "
            f"classifier.images); got {given}"
        )
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"image {bad} of the batch contains NaN or infinity; check how it was decoded and"
            " normalised"
        )
    return images.detach()


def check_finite(values: Tensor, names: Sequence[str], who: str, where: str = "") -> None:
    """Refuse heatmaps (B, H, W) of which one holds NaN or infinity; it is named.

    Args:
        values: The heatmaps.
        names: Of the images, one each.
        who: Gave them.
        where: What the images are of, such as ``" of val.tar"``.
    """
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if bad := [name for name, good in zip(names, finite.tolist(), strict=True) if not good]:
        raise InputError(
            f"{who} gave NaN or infinity for {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}"
            f"{where}; check its settings, statistics or checkpoint"
        )


def check_maps(result: Any, names: Sequence[str], size: Sequence[int], who: str) -> None:
    """Check what the ``explain`` of an explainer, perhaps of a user's own, gives.

    Args:
        result: An ``Attribution`` of one map for each name, (B, H, W).
        names: What the user calls each image.
        size: (H, W) of the images.
        who: The explainer.

    Raises:
        InputError: It is something else, of another shape, complex, or contains NaN or infinity.
    """
    values = getattr(result, "values", None)
    if not isinstance(values, Tensor):
        kind = type(result if values is None or callable(values) else values).__name__
        raise InputError(
            f"explain of {who} gives a {kind}; it must give an Attribution of a tensor (B, H, W)"
        )
    wanted = (len(names), *size)
    if tuple(values.shape) != wanted or values.is_complex():
        raise InputError(
            f"explain of {who} gives {values.dtype} {tuple(values.shape)}; it must give one real"
            f" map an image, {wanted}"
        )
    check_finite(values, names, who)


def check_rows(
    rows: Any, scalars: Sequence[str], curves: Sequence[str], count: int, who: str
) -> None:
    """Check what the ``score_rows`` of a metric, perhaps of a user's own, gives.

    Args:
        rows: A tensor by name.
        scalars: Names of those with one number an image, (B,).
        curves: Names of those with several, (B, K).
        count: Number of images, B.
        who: The metric.

    Raises:
        InputError: One is missing, no tensor, or not of so many images.
    """
    for row in (*scalars, *curves):
        values = rows.get(row) if isinstance(rows, Mapping) else None
        shape = tuple(values.shape) if isinstance(values, Tensor) else ()
        if shape[:1] != (count,) or (row in scalars and math.prod(shape) != count):
            found = shape if isinstance(values, Tensor) else type(values).__name__
            wanted = f"({count},)" if row in scalars else f"({count}, K)"
            raise InputError(
                f"score_rows of {who} gives {row!r} as {found}; it must give a tensor of one row"
                f" an image, {wanted}"
            )


def check_labels(
    labels: Tensor, names: Sequence[str], classes: int, where: str = "", mend: str = ""
) -> None:
    """Refuse data of which a sample has no label, or one that the classifier does not know.

    Ask before the labels are on a device, where the host would wait for the answer.

    Args:
        labels: Whole numbers (N,); a negative one is none.
        names: Of the samples, one each.
        classes: How many the classifier knows; 0 where it knows no classes, but numbers.
        where: What the samples are of, such as ``" of val.tar"``.
        mend: What else than other data would help, such as ``", or use target: predicted"``.

    Raises:
        InputError: There is such a sample.

    Example:
        >>> import torch
        >>> from lit_iba.checks import check_labels
        >>> check_labels(torch.tensor([2, -1]), ["dog", "cat"], classes=3)
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: sample 'cat' has no label; give data with labels...
    """
    for name, label in zip(names, labels.tolist(), strict=True):
        if label < 0:
            raise InputError(
                f"sample {name!r}{where} has no label; give data with labels, such as .cls"
                f" members{mend}"
            )
        if classes and label >= classes:
            raise InputError(
                f"sample {name!r}{where} has label {label}, but the classifier knows"
                f" 0..{classes - 1}; give data with its classes{mend}"
            )


def check_targets(target: Tensor | int | Sequence[int], count: int, num_classes: int) -> Tensor:
    """Targets as int64 (count,), or an error that names the class that is out of range.

    They may be one-hot, (count, num_classes), of numbers or truth values.
    """
    try:
        given = torch.as_tensor(target).detach()
        hot = given.shape == (count, num_classes) and num_classes > 1
        if hot and bool(((given == 1).sum(dim=1) == 1).all() and (given != 0).sum() == count):
            given = given.int().argmax(dim=1)
        given = given.flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"target is {target!r}; it must be the number of a class") from error
    targets = given.to(torch.int64)
    if given.is_complex() or given.dtype == torch.bool or bool((given != targets).any()):
        raise InputError(
            f"target is {target if given.numel() < 5 else given.dtype}; it must be a whole number, "
            "that of a class"
        )
    targets = targets.expand(count) if targets.numel() == 1 else targets
    if len(targets) != count:
        raise InputError(
            f"{len(targets)} targets were given for {count} images; give one target per image"
        )
    outside = targets[(targets < 0) | (targets >= num_classes)]
    if len(outside):
        raise InputError(
            f"target class {int(outside[0])} is out of range; the classifier has classes"
            f" 0..{num_classes - 1}"
        )
    return targets
