"""A classifier cut behind a layer: images -> (R, carried values) -> logits.

``head`` computes R and whatever else the rest needs (a skip connection, say); ``tail`` runs only
what depends on R. ``traced.TracedNetwork`` makes both of the network's graph; where it cannot be
traced, ``hooked.HookedNetwork`` makes the same cuts and runs the whole network each time.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.fx as fx
from torch import Tensor

from lit_iba.classifier.fusing import made_fast
from lit_iba.classifier.plain import hooks_of
from lit_iba.classifier.proof import same_logits
from lit_iba.errors import InputError

Carried = tuple[
    Any, ...
]  # tensors whose rows belong to the images, shapes whose first entry counts them, devices, dtypes


def repeat_carried(carried: Carried, copies: int) -> Carried:
    """Carried values for ``copies`` times the batch, copy after copy: (copies * B, ...).

    Example:
        >>> from lit_iba.classifier import repeat_carried
        >>> split = classifier.split("layer2")
        >>> feature, carried = split.head(images)
        >>> split.tail(feature.repeat(5, 1, 1, 1), repeat_carried(carried, 5)).shape
        torch.Size([10, 10])
    """
    repeated: list[Any] = []
    for value in carried:
        if isinstance(value, Tensor):
            repeated.append(value.repeat(copies, *[1] * (value.ndim - 1)))
        elif isinstance(value, (tuple, list)):
            repeated.append(torch.Size([value[0] * copies, *value[1:]]))
        else:  # a count of images, or a device or dtype
            repeated.append(value * copies if isinstance(value, int) else value)
    return tuple(repeated)


class Source(Protocol):
    """What a cut is made of again: a :class:`FrozenClassifier`."""

    @property
    def cuttable(self) -> Any:
        """See :attr:`FrozenClassifier.cuttable`."""
        ...

    def weights_version(self) -> int:
        """See :meth:`FrozenClassifier.weights_version`."""
        ...


class Split:
    """A classifier cut behind a layer.

    Attributes:
        layer: Name of the layer whose output is R.
        observer: The function behind :meth:`observe`, a module where the network could be traced;
            None without taps.

    Example:
        >>> split = classifier.split("layer2")
        >>> feature, carried = split.head(images)
        >>> feature.shape
        torch.Size([2, 64, 16, 16])
        >>> split.tail(feature, carried).shape
        torch.Size([2, 10])
    """

    def __init__(self, layer: str, head: Any, tail: Any, observe: Any) -> None:
        self.layer = layer
        self._head, self._tail, self._observer = head, tail, observe
        self._overwrites = False
        self._folded: dict[str, Any] = {}
        self._source: Source | None = None
        self._taps: tuple[str, ...] = ()
        self._made_at = -1

    def follow(self, source: Source, taps: tuple[str, ...]) -> None:
        """Be made again whenever the weights of ``source``, which this cuts, have changed."""
        self._source, self._taps, self._made_at = source, taps, source.weights_version()

    def _renew(self) -> None:
        if self._source is None:
            return
        version = self._source.weights_version()
        if version != self._made_at:
            fresh = self._source.cuttable.split(self.layer, self._taps)
            self._head, self._tail, self._observer = fresh._head, fresh._tail, fresh._observer
            self._folded, self._made_at = {}, version

    def __getstate__(self) -> dict[str, Any]:
        if self._source is None:
            return self.__dict__
        # Graphs and hooks are made again where they are needed.
        made: dict[str, Any] = {
            "_head": None,
            "_tail": None,
            "_observer": None,
            "_folded": {},
            "_made_at": -1,
        }
        return self.__dict__ | made

    @property
    def observer(self) -> Any:
        """See the class."""
        self._renew()
        return self._observer

    @torch.no_grad()
    def prove(self, images: Tensor, logits: Tensor, name: str) -> None:
        """Try the cut on images whose logits are known.

        Args:
            images: (B, 3, H, W); they may be overwritten.
            logits: What the network gives for them.
            name: Of the network.

        Raises:
            InputError: The layer's output is no tensor, or the logits cannot be computed from it.
        """
        r, carried = self.head(images.clone())
        if not isinstance(r, Tensor) or not r.is_floating_point() or len(r) != len(images):
            what = tuple(r.shape) if isinstance(r, Tensor) else type(r).__name__
            raise InputError(
                f"the output of layer {self.layer!r} of {name} is {what}, where a feature map (B, "
                "...) is needed; choose another layer (see classifier.layers())"
            )
        kept = [v.clone() if isinstance(v, Tensor) else v for v in (r, *carried)]
        found = self._tail(r, *carried)
        self._overwrites = any(
            isinstance(now, Tensor) and not _equal(now, before)
            for now, before in zip((r, *carried), kept, strict=True)
        )
        if not isinstance(found, Tensor) or not same_logits(found, logits):
            raise InputError(
                f"{name} gives other logits when it is cut behind {self.layer!r} than as a whole, "
                "so that what is behind the cut does something that cannot be seen; choose "
                "another layer"
            )

    def head(self, images: Tensor) -> tuple[Tensor, Carried]:
        """Images (B, 3, H, W) to R and the values that cross the cut beside it."""
        self._renew()
        r, *carried = self._head(images)
        return r, tuple(carried)

    def tail(self, r: Tensor, carried: Carried = ()) -> Tensor:
        """R to logits (B, K). For n copies of a batch, repeat the carried values with
        :func:`repeat_carried`.

        Raises:
            InputError: A gradient of R is wanted, but none reaches the logits.
        """
        self._renew()
        return self._behind(self._tail, r, carried)

    def _behind(self, tail: Any, r: Tensor, carried: Carried) -> Tensor:
        values = (r, *carried)
        if self._overwrites:
            values = tuple(v.clone() if isinstance(v, Tensor) else v for v in values)
        return differentiable(tail(*values), r, f"what is behind {self.layer!r}")

    def folded_head(self, images: Tensor) -> tuple[Tensor, Carried]:
        """:meth:`head` with batch norms folded into copies of the convolutions: faster where it
        runs many times.
        """
        r, *carried = self._fold("head", images)(images)
        return r, tuple(carried)

    def folded_tail(self, r: Tensor, carried: Carried = ()) -> Tensor:
        """:meth:`tail`, likewise."""
        return self._behind(self._fold("tail", r), r, carried)

    def folded_observe(self, images: Tensor) -> tuple[Tensor, Carried, dict[str, Tensor]]:
        """:meth:`observe`, likewise."""
        r, carried, taps = self._fold("observe", images)(images)
        return r, tuple(carried), taps

    def _fold(self, part: str, inputs: Tensor) -> Any:
        self._renew()
        run = {"head": self._head, "tail": self._tail, "observe": self._observer}[part]
        if not isinstance(run, fx.GraphModule):
            return run
        # The copies do not follow when the classifier is moved, or gets hooks.
        made_for: tuple[Any, ...] = (inputs.device, inputs.dtype)
        if not torch.compiler.is_compiling():
            made_for = (*made_for, hooks_of(run.modules()))
        known = self._folded.get(part)
        if known is None or known[0][: len(made_for)] != made_for:
            known = self._folded[part] = made_for, made_fast(run)
        return known[1]

    def observe(self, images: Tensor) -> tuple[Tensor, Carried, dict[str, Tensor]]:
        """One forward pass that gives R, the carried values, and the feature maps of the taps asked
        for.
        """
        r, carried, taps = self.observer(images)
        return r, tuple(carried), taps


def differentiable(logits: Tensor, x: Tensor, what: str) -> Tensor:
    """The logits, which a gradient of ``x`` can reach where one is wanted.

    Raises:
        InputError: It cannot: every map would be zero.
    """
    if torch.is_grad_enabled() and x.requires_grad and not logits.requires_grad:
        raise no_gradient(what)
    return logits


def no_gradient(what: str) -> InputError:
    """What is said where gradients are needed and there are none."""
    return InputError(
        f"{what} gives outputs without a gradient (it detaches, decides, or is quantised); leave "
        "that out, or use a method that needs none, such as occlusion or lime"
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one != one)).all())
