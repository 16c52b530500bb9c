"""PatternAttribution (Kindermans et al., "Learning how to explain neural networks", ICLR 2018),
with patterns from data.

A weight filters the signal out of its input; the pattern is the direction in which that signal
lies. Patterns are estimated from one pass over images: with the linear estimator, cov[x, y] /
var[y], where a step's output is used as it is, and with the two-component one where a ReLU follows.
That one divides by something which vanishes where a bias, not the input, opens the ReLU; folded
batch norms have such biases (in ResNet-50, |weight * pattern| then sums to 28,000 in one neuron),
and so the linear estimator is the default where there are any.

On the canonical copy an addition is a neuron with two weights of one, whose patterns are estimated
like any other's; so the method, which the paper states for VGG, runs on networks with skip
connections.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
import torch.fx as fx
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_iba.baselines.canonical import canonical
from lit_iba.baselines.propagation import (
    WEIGHTED,
    ForwardPass,
    Step,
    convolution_gradients,
    quotient,
)
from lit_iba.baselines.steps import Add
from lit_iba.checks import check_images, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.files import whole_file

Estimator = Literal["two_component", "linear"]


@dataclass
class PatternSums:
    """Sums over the images and positions of a stream for one step, float64; x is the input that a
    weight sees.

    ``x`` and ``xy`` (K, ...), of the weight's shape, and ``count`` (K,) are over those where the
    output y is part of the signal: y > 0 where a ReLU follows, all elsewhere. ``y`` (K,) is over
    all, of which there are ``total``.
    """

    total: float
    y: Tensor
    count: Tensor
    x: Tensor
    xy: Tensor

    def merge(self, other: PatternSums) -> PatternSums:
        """Those of both streams."""
        return PatternSums(
            self.total + other.total,
            self.y + other.y,
            self.count + other.count,
            self.x + other.x,
            self.xy + other.xy,
        )

    def pattern(self, weight: Tensor) -> Tensor:
        """The pattern of a weight (K, ...), of its shape and scaled so that their product sums to
        one (eqs. 6 and 9).
        """
        count = self.count.clamp_min(1).view(-1, *[1] * (weight.ndim - 1))
        mean_y = (self.y / max(self.total, 1)).view_as(count)
        direction = (self.xy - self.x * mean_y) / count
        size = (direction * weight).flatten(1).sum(dim=1).view_as(count)
        return torch.where(size == 0, direction, quotient(direction, size))


def pattern_sums(step: Step, rectified: bool) -> PatternSums:
    """The sums of one batch."""
    y = step.output
    signal = (y > 0).to(y) if rectified else torch.ones_like(y)
    positions = [d for d in range(y.ndim) if d != 1]
    return PatternSums(
        float(y.numel() / y.shape[1]),
        *(
            sums.double()
            for sums in (
                y.sum(dim=positions, dtype=torch.float64),
                signal.sum(dim=positions, dtype=torch.float64),
                _weight_sums(step, signal),
                _weight_sums(step, signal * y),
            )
        ),
    )


def _weight_sums(step: Step, factor: Tensor) -> Tensor:
    """Sum of factor * x over images and positions, of the weight's shape: what a weight's gradient
    is.
    """
    module, (x, *others) = step.module, step.inputs
    if isinstance(module, nn.Conv2d):
        return convolution_gradients(module, x, module.weight, factor, "weight")
    if isinstance(module, nn.Linear):
        return factor.flatten(0, -2).T @ x.flatten(0, -2)
    return torch.stack(
        [(factor * part).transpose(0, 1).flatten(1).sum(dim=1) for part in (x, *others)], dim=1
    )


def weight_of(module: nn.Module, like: Tensor) -> Tensor:
    """The weight of a convolution or linear layer, or the ones (C, 2) of an addition, as a tensor
    like another.
    """
    return (
        module.weight.to(like)
        if isinstance(module, nn.Conv2d | nn.Linear)
        else torch.ones_like(like)
    )


class Patterns:
    """A pattern for every weight of a classifier's canonical copy.

    Args:
        tensors: By the step's name: of its weight's shape, or (C, 2) for an addition.
        identity: What they are measured on: classifier, data.

    Example:
        >>> from lit_iba.baselines import Patterns
        >>> patterns = Patterns.estimate(classifier, [images])
        >>> patterns.save("patterns.safetensors")
        >>> again = Patterns.load("patterns.safetensors", classifier)
        >>> again.tensors.keys() == patterns.tensors.keys()
        True
    """

    def __init__(self, tensors: dict[str, Tensor], identity: dict[str, Any]) -> None:
        self.tensors, self.identity = tensors, identity

    @classmethod
    def estimate(
        cls,
        classifier: FrozenClassifier,
        images: Tensor | Iterable[Tensor],
        *,
        data: str = "",
        batch_size: int = 32,
        estimator: Estimator | None = None,
    ) -> Patterns:
        """Measure the patterns on images, in one pass.

        Args:
            classifier: The frozen classifier.
            images: Normalised images, one tensor (N, 3, H, W) or an iterable of batches.
            data: What the images are, for the record.
            batch_size: Images per pass, where one tensor is given.
            estimator: ``"two_component"`` or ``"linear"``; by default the first where there is no
                batch norm.

        Raises:
            InputError: No images at all, no such estimator, a network with an operation without a
                rule, or values that are not finite.
        """
        stream = PatternStream(classifier, estimator)
        for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
            stream.update(batch)
        return stream.patterns(data)

    def save(self, path: str | Path) -> None:
        """Write as safetensors, with the identity in its metadata, by atomic rename."""
        metadata = {"kind": "lit_iba.Patterns", "identity": json.dumps(self.identity)}
        with whole_file(path) as part:
            save_file(
                {name: t.cpu().contiguous() for name, t in self.tensors.items()},
                part,
                metadata=metadata,
            )

    @classmethod
    def load(cls, path: str | Path, classifier: FrozenClassifier | None = None) -> Patterns:
        """Read patterns back and check that they belong to this classifier.

        Raises:
            InputError: The file is missing, damaged, or of another classifier.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"pattern file {path} does not exist; make it with"
                " Patterns.estimate(...).save(path)"
            )
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") != "lit_iba.Patterns":
                    raise InputError(
                        f"{path} is a safetensors file, but holds no patterns; give another file"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            loaded = cls(tensors, json.loads(metadata["identity"]))
        except (safetensors.SafetensorError, KeyError, OSError) as error:
            raise InputError(
                f"pattern file {path} is damaged or cut short ({error}); estimate it again"
            ) from error
        if classifier is not None:
            loaded.check(classifier, str(path))
        return loaded

    def check(self, classifier: FrozenClassifier, source: str = "the patterns") -> None:
        """Refuse patterns of another classifier."""
        classifier.check_identity(self.identity["classifier"], source)


class PatternStream:
    """Sums over a stream of images, from which patterns follow; streams can be merged.

    Args:
        classifier: The frozen classifier.
        estimator: As for :meth:`Patterns.estimate`.

    Raises:
        InputError: No such estimator, or the network has an operation without a rule, which is
            named.
    """

    def __init__(self, classifier: FrozenClassifier, estimator: Estimator | None = None) -> None:
        check_literals(PatternStream.__init__, locals())
        self.estimator = estimator or usual_estimator(classifier)
        self.classifier, self.network = classifier, canonical(classifier)
        two = self.estimator == "two_component"
        self.rectified = {
            name: two and followed for name, followed in _rectified(self.network).items()
        }
        self.sums: dict[str, PatternSums] = {}

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Add a batch of normalised images (B, 3, H, W)."""
        # Patterns are differences of large sums, for which a GPU's 10-bit TF32 convolutions are too
        # coarse.
        with (
            self.classifier.undisturbed(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            images = check_images(images, self.classifier.channels)
            images = images.to(self.classifier.device, self.classifier.dtype)
            forward = ForwardPass(self.network, images)
            for name, rectified in self.rectified.items():
                self._add(name, pattern_sums(forward.steps[name], rectified))

    def merge(self, other: PatternStream) -> None:
        """Add another stream of the same classifier; the order does not matter (to float64
        rounding).
        """
        for name, sums in other.sums.items():
            self._add(name, sums)

    def _add(self, name: str, sums: PatternSums) -> None:
        self.sums[name] = self.sums[name].merge(sums) if name in self.sums else sums

    def patterns(self, data: str = "") -> Patterns:
        """The patterns of the images so far, of the weights' dtype.

        Raises:
            InputError: There were no images, or some value is not finite.
        """
        if not self.sums:
            raise InputError("no images were given to estimate the patterns from; check the data")
        identity = {
            "classifier": self.classifier.identity,
            "data": data,
            "estimator": self.estimator,
        }
        tensors, dtype = {}, next(self.network.parameters()).dtype
        for name, sums in self.sums.items():
            module = self.network.get_submodule(name)
            pattern = sums.pattern(weight_of(module, sums.x))
            if not torch.isfinite(pattern).all():
                raise InputError(
                    f"the patterns of {name!r} are not finite; check images and weights"
                )
            tensors[name] = pattern.to(dtype)
        return Patterns(tensors, identity)


def usual_estimator(classifier: FrozenClassifier) -> Estimator:
    """The paper's where it is sound: see the head of this file."""
    norms = any(
        isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in classifier.model.modules()
    )
    return "linear" if norms else "two_component"


def _rectified(network: fx.GraphModule) -> dict[str, bool]:
    """The steps that have patterns, and whether their output goes through a ReLU and nowhere
    else.
    """
    return {
        node.name: all(
            user.op == "call_module"
            and isinstance(network.get_submodule(str(user.target)), nn.ReLU)
            for user in node.users
        )
        for node in network.graph.nodes
        if node.op == "call_module"
        and isinstance(network.get_submodule(node.target), (*WEIGHTED, Add))
    }
