"""Baselines that need gradients with respect to the image, and the random map.

The methods are other people's, and so is much of the code that computes them (Captum); what is here
is the form in which the papers compare with them: reduced over channels, at the image's size,
batched, with the caller's tensors and modules left as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer
from lit_iba.objectives import Objective

Channels = Literal["sum", "mean", "sum_abs", "max_abs"]


def over_channels(values: Tensor, channels: Channels) -> Tensor:
    """One number per pixel from one per colour: (B, 3, H, W) to (B, H, W).

    Args:
        values: One attribution per pixel and channel.
        channels: ``"sum"`` and ``"mean"`` keep the sign; ``"sum_abs"`` adds the absolute values,
            ``"max_abs"`` takes the largest one, as :class:`Saliency` does.
    """
    if channels == "max_abs":
        return values.abs().amax(dim=1)
    if channels == "sum_abs":
        return values.abs().sum(dim=1)
    return values.sum(dim=1) if channels == "sum" else values.mean(dim=1)


def keeps_sign(channels: Channels) -> bool:
    """Whether a map reduced in this way can be negative."""
    return channels in ("sum", "mean")


class Scored(nn.Module):
    """A network with the score of an objective behind it: what Captum's methods differentiate.

    Args:
        network: From images to outputs.
        objective: What is asked of them.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Images (B, C, H, W) and targets to the score (B,)."""
        return self.objective.score(self.network(images), targets)


class RandomMap(Explainer):
    """Uniform noise in [0, 1), drawn from the sample's own generator: the floor of every metric.

    Example:
        >>> from lit_iba.baselines import RandomMap
        >>> first = RandomMap(classifier).attribute(images, keys=["a", "b"])
        >>> again = RandomMap(classifier).attribute(images[:1], keys=["a"])  # in another batch
        >>> first.values[0].equal(again.values[0])
        True
    """

    name: ClassVar[str] = "random"
    label: ClassVar[str] = "Random"
    asks = False

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """One uniform number per pixel."""
        size = images.shape[-2:]
        return Attribution(
            torch.stack(
                [
                    torch.rand(size, generator=g, device=images.device, dtype=torch.float32)
                    for g in generators
                ]
            )
        )


class Gradient(Explainer):
    """Gradient of the target's logit, averaged over channels and signed (Baehrens et al. 2010, as
    in IBA's table 1).

    Example:
        >>> from lit_iba.baselines import Gradient
        >>> heatmap = Gradient(classifier).attribute(images, targets)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> heatmap.signed
        True
    """

    name: ClassVar[str] = "gradient"
    label: ClassVar[str] = "Gradient"
    signed = True

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Mean over channels of d score / d image."""
        return Attribution(input_gradient(self.classifier, images, targets).mean(dim=1))


class Saliency(Explainer):
    """Absolute gradient, by default the largest over channels (Simonyan et al. 2014).

    Args:
        classifier: The network to explain.
        channels: How a pixel's channels become one number, see :func:`over_channels`;
            ``"sum_abs"`` is the gradient baseline of Grabska-Barwińska (supplement D.1).
        seed: Unused; nothing here is random.

    Raises:
        InputError: ``channels`` is none of the two.

    Example:
        >>> from lit_iba.baselines import Saliency
        >>> heatmap = Saliency(classifier).attribute(images, targets)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> summed = Saliency(classifier, channels="sum_abs").attribute(images, targets)
        >>> bool((summed.values >= heatmap.values).all() and (heatmap.values >= 0).all())
        True
    """

    name: ClassVar[str] = "saliency"
    label: ClassVar[str] = "Saliency"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        channels: Literal["max_abs", "sum_abs"] = "max_abs",
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_literals(Saliency.__init__, locals())
        self.channels: Literal["max_abs", "sum_abs"] = channels

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """|d score / d image|, one number a pixel."""
        gradient = input_gradient(self.classifier, images, targets)
        return Attribution(over_channels(gradient, self.channels))


class InputXGradient(Explainer):
    """Gradient times the normalised image, summed over channels: the linear model's share of each
    pixel.

    Example:
        >>> from lit_iba.baselines import Gradient, InputXGradient
        >>> InputXGradient(classifier).attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
        >>> InputXGradient(classifier).attribute(0 * images, targets).total
        tensor([0., 0.])
    """

    name: ClassVar[str] = "input_x_gradient"
    label: ClassVar[str] = "Input × gradient"
    signed = True

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Sum over channels of image * d score / d image."""
        return Attribution((images * input_gradient(self.classifier, images, targets)).sum(dim=1))


def input_gradient(classifier: FrozenClassifier, images: Tensor, targets: Tensor) -> Tensor:
    """d score / d image, (B, C, H, W); for classes the score is the target's logit."""
    # A copy, because Captum turns on requires_grad of the tensor it is given.
    return CaptumSaliency(Scored(classifier, classifier.objective)).attribute(
        images.clone().requires_grad_(), additional_forward_args=targets, abs=False
    )


class IntegratedGradients(Explainer):
    """Integrated gradients from the mean colour (Sundararajan et al. 2017), by default summed over
    channels.

    IBA's table 1 has them "of Saliency": ``multiply_by_inputs=False, channels="max_abs"``.

    Args:
        classifier: The network to explain.
        steps: Points of the path.
        forward_batch_size: Images per forward pass.
        multiply_by_inputs: False gives the mean gradient along the path.
        channels: How a pixel's channels become one number, see :func:`over_channels`; the absolute
            ones say where but not in which direction.
        seed: Unused; nothing here is random.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.baselines import IntegratedGradients
        >>> heatmap = IntegratedGradients(classifier, steps=50).attribute(images, targets)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> logits = classifier(images) - classifier(0 * images)  # what the map adds up to
        >>> heatmap.total.allclose(logits[[0, 1], targets], atol=0.05)
        True
    """

    name: ClassVar[str] = "integrated_gradients"
    label: ClassVar[str] = "Integrated gradients"
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        steps: int = 50,
        forward_batch_size: int = 16,
        multiply_by_inputs: bool = True,
        channels: Channels = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_literals(IntegratedGradients.__init__, locals())
        self.channels: Channels = channels
        self.signed = keeps_sign(channels)
        if steps < 1:
            raise InputError(f"steps is {steps}; integrated gradients need at least 1, usually 50")
        self.steps, self.forward_batch_size, self.multiply_by_inputs = (
            steps,
            forward_batch_size,
            multiply_by_inputs,
        )

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Path integral of the gradient from zero, which is the mean colour after normalisation."""
        method = CaptumIntegratedGradients(
            Scored(self.classifier.folded(), self.classifier.objective),
            multiply_by_inputs=self.multiply_by_inputs,
        )
        values = method.attribute(
            images.clone().requires_grad_(),
            additional_forward_args=targets,
            n_steps=self.steps,
            internal_batch_size=max(self.forward_batch_size, len(images)),
        )
        return Attribution(over_channels(values, self.channels).to(images.dtype))
