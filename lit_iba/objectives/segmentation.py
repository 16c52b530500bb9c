"""A class at every pixel: what of the image makes the network draw this region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_counts, check_targets
from lit_iba.errors import InputError
from lit_iba.objectives.base import Objective, as_tensor, one_per_image

OUTSIDE = -1  # pixels of a target that nothing is asked about


class Segmentation(Objective):
    """A class over a region: outputs (B, K, h, w) are logits whose softmax over K says how probable
    each class is at a pixel.

    Targets are maps, int64 (B, h, w): the class asked about at every pixel of the region, and -1
    outside. A class alone, int or (B,), stands for the region in which the network itself sees it.
    By default it is the class that the network sees at most pixels, the background left out.
    Scores and losses are means over the region, so that a region's size does not weigh.

    Args:
        background: Class that is never chosen by default, unless there is nothing else.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Segmentation
        >>> outputs = torch.zeros(1, 2, 2, 2)
        >>> outputs[0, 1, 0] = 3.0  # class 1 in the upper row
        >>> targets = Segmentation(background=0).predicted(outputs)
        >>> targets
        tensor([[[ 1,  1],
                 [-1, -1]]])
        >>> Segmentation().score(outputs, targets)
        tensor([3.])
    """

    name: ClassVar[str] = "segmentation"
    linear: ClassVar[bool] = True
    link: ClassVar[str] = "softmax"
    score_is: ClassVar[str] = "the target's logit, mean over its region"
    probability_is: ClassVar[str] = (
        "geometric mean over the target's region of its softmax probability"
    )
    divergence_is: ClassVar[str] = (
        "mean over pixels of the KL divergence in nats between the softmax outputs"
    )
    decision_is: ClassVar[str] = (
        "whether the geometric mean of the target's probability is 1/2 or more"
    )

    def __init__(self, background: int | None = None) -> None:
        if background is not None:
            check_counts(0, background=background)
        self.background = background

    @property
    def settings(self) -> dict[str, Any]:
        """The background."""
        return {"background": self.background}

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """K, of outputs (B, K, h, w)."""
        if len(shape) != 4:
            raise InputError(
                f"{network} must map images to logits (B, K, h, w) for the objective "
                f"'segmentation', but gives {tuple(shape)}; for one answer per image give "
                "objective='classification' or another"
            )
        if shape[1] == 1:
            raise InputError(
                f"{network} has one class, whose share among the classes is 1 at every pixel; wrap "
                "it, so that it gives two: torch.cat([torch.zeros_like(x), x], dim=1)"
            )
        if self.background is not None and self.background >= shape[1]:
            raise InputError(
                f"background is {self.background}, but {network} has classes 0..{shape[1] - 1}"
            )
        return shape[1]

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Maps of classes, int64 (count, h, w)."""
        what = f"a class, or a map (h, w) of classes with {OUTSIDE} outside the region"
        given = as_tensor(target, what)
        if given.ndim < 2:
            classes_given = check_targets(given, count, classes)
            return self._where_seen(outputs(), classes_given)
        given = one_per_image(given if given.ndim > 2 else given[None], count, what)
        maps = given.to(torch.int64)
        if given.ndim != 3 or bool((maps != given).any()):
            raise InputError(
                f"target is {given.dtype} of shape {tuple(given.shape)}; it must be {what}"
            )
        if bool(((maps < OUTSIDE) | (maps >= classes)).any()):
            raise InputError(
                f"a target map has a class that is out of range; the network has classes "
                f"0..{classes - 1}, and {OUTSIDE} stands for pixels outside the region"
            )
        if not bool((maps >= 0).flatten(1).any(dim=1).all()):
            raise InputError("a target map has no pixel in its region; give it one at least")
        return maps

    def _where_seen(self, outputs: Tensor, classes: Tensor) -> Tensor:
        seen, classes = outputs.argmax(dim=1), classes.to(outputs.device)
        maps = torch.where(seen == classes[:, None, None], seen, OUTSIDE)
        nothing = (~(maps >= 0).flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if nothing:
            raise InputError(
                f"the network sees class {int(classes[nothing[0]])} nowhere in image {nothing[0]} "
                f"of the batch; give the region as a map (h, w) = {tuple(seen.shape[1:])} of that "
                f"class, {OUTSIDE} outside"
            )
        return maps

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class at most pixels, where the network sees it."""
        seen = outputs.argmax(dim=1)
        counts = 2 * F.one_hot(seen.flatten(1), outputs.shape[1]).sum(dim=1)  # (B, K)
        if self.background is not None:  # counts less than one pixel of anything else
            counts[:, self.background] = 1
        return torch.where(seen == counts.argmax(dim=1)[:, None, None], seen, OUTSIDE)

    def _mean(self, values: Tensor, targets: Tensor) -> Tensor:
        """Mean over the region, (B, h, w) to (B,)."""
        inside = targets >= 0
        return (values * inside).flatten(1).sum(dim=1) / inside.flatten(1).sum(dim=1)

    def _checked(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.shape[1:] != outputs.shape[2:]:
            raise InputError(
                f"target maps are {tuple(targets.shape[1:])}, but the network's outputs are "
                f"{tuple(outputs.shape[2:])}; give maps of their size"
            )
        return targets.clamp_min(0)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The class's logit, mean over the region."""
        classes = self._checked(outputs, targets)
        return self._mean(outputs.gather(1, classes[:, None])[:, 0], targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, mean over the region."""
        classes = self._checked(outputs, targets)
        return self._mean(F.cross_entropy(outputs, classes, reduction="none"), targets)

    def reference(self, outputs: Tensor) -> Tensor:
        """Log-probabilities (B, K, h, w)."""
        return outputs.log_softmax(dim=1)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """KL divergence, mean over pixels."""
        kl = (reference.exp() * (reference - outputs.log_softmax(dim=1))).sum(dim=1)
        return kl.flatten(1).mean(dim=1)

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """The classes and how much of the picture is asked about."""
        inside = target[target >= 0]
        names = [class_names[k] for k in inside.unique().tolist()[:3]]
        return f"{', '.join(names)} over {inside.numel() / target.numel():.0%} of the picture"
