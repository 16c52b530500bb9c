"""Baselines that look at many changed versions of an image: occlusion, and SmoothGrad's noise.

Both run across images and versions alike, in forward passes of ``forward_batch_size``; random
numbers belong to the sample, so a heatmap does not depend on the batch it is in.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_iba.baselines.gradient import Channels, input_gradient, keeps_sign, over_channels
from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer
from lit_iba.perturbation import perturbed_scores, tile_index


class Occlusion(Explainer):
    """How much the score, the target's logit for classes, falls when a tile is covered (Zeiler and
    Fergus 2014), the same for all of its pixels.

    Args:
        classifier: The network to explain.
        tile: Side of the tiles in pixels; they do not overlap, and those at the right and bottom
            edge may be smaller.
        fill: What covers a tile: the image's ``"mean"`` colour (IBA's appendix), or ``"zero"``, the
            data set's mean colour.
        forward_batch_size: Images per forward pass.
        seed: Unused; nothing here is random.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.baselines import Occlusion
        >>> heatmap = Occlusion(classifier, tile=16).attribute(images, targets)
        >>> heatmap.values[0, ::16, ::16].shape  # one value per tile
        torch.Size([4, 4])
        >>> len(heatmap.values[0, :16, :16].unique())
        1
    """

    name: ClassVar[str] = "occlusion"
    label: ClassVar[str] = "Occlusion"
    lengths: ClassVar[tuple[str, ...]] = ("tile",)
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        tile: int = 8,
        fill: Literal["mean", "zero"] = "mean",
        forward_batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_counts(tile=tile, forward_batch_size=forward_batch_size)
        check_literals(Occlusion.__init__, locals())
        self.tile, self.fill, self.forward_batch_size = tile, fill, forward_batch_size

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Score of the whole image minus score with the tile covered."""
        index = tile_index((images.shape[-2], images.shape[-1]), self.tile, images.device)
        tiles = int(index.max()) + 1
        colour = (
            images.mean(dim=(2, 3), keepdim=True)
            if self.fill == "mean"
            else torch.zeros_like(images[:1, :, :1, :1])
        )
        objective = self.classifier.objective
        number = torch.arange(tiles, device=images.device)
        scores = perturbed_scores(
            self.classifier,
            images,
            targets,
            colour,
            # Version 0 is the image itself; version v covers tile v - 1.
            lambda jobs: (jobs % (tiles + 1) - 1)[:, None] == number,
            tiles + 1,
            tile=self.tile,
            forward_batch_size=self.forward_batch_size,
            score=lambda outputs, asked: objective.score(outputs.float(), asked),
        )
        return Attribution((scores[:, :1] - scores[:, 1:])[:, index].clone())


class Occlusion8(Occlusion):
    """Occlusion by tiles of 8 x 8 pixels.

    Example:
        >>> from lit_iba.baselines import Occlusion8
        >>> heatmap = Occlusion8(classifier).attribute(images, targets)
        >>> len(heatmap.values[0].unique())
        64
    """

    name: ClassVar[str] = "occlusion_8"
    label: ClassVar[str] = "Occlusion 8×8"


class Occlusion14(Occlusion):
    """Occlusion by tiles of 14 x 14 pixels.

    Example:
        >>> from lit_iba.baselines import Occlusion14
        >>> heatmap = Occlusion14(classifier).attribute(images, targets)
        >>> len(heatmap.values[0].unique())  # 4.6 x 4.6 tiles, rounded up
        25
    """

    name: ClassVar[str] = "occlusion_14"
    label: ClassVar[str] = "Occlusion 14×14"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        tile: int = 14,
        fill: Literal["mean", "zero"] = "mean",
        forward_batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(
            classifier, tile=tile, fill=fill, forward_batch_size=forward_batch_size, seed=seed
        )


class SmoothGrad(Explainer):
    """Mean gradient over noisy copies of the image (Smilkov et al. 2017), by default averaged over
    channels and signed.

    IBA's table 1 has it "of Saliency": ``channels="max_abs"``, the largest absolute mean gradient.

    Args:
        classifier: The network to explain.
        samples: Noisy copies of each image.
        noise: Standard deviation of the noise, as a fraction of the image's range (largest minus
            smallest value).
        channels: How the mean over the copies becomes one number per pixel, see
            :func:`~lit_iba.baselines.gradient.over_channels`.
        forward_batch_size: Images per forward pass.
        seed: Seeds the noise, together with each sample's key.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.baselines import SmoothGrad
        >>> heatmap = SmoothGrad(classifier, samples=4).attribute(images, targets)
        >>> heatmap.values.shape, heatmap.signed
        (torch.Size([2, 64, 64]), True)
    """

    name: ClassVar[str] = "smoothgrad"
    label: ClassVar[str] = "SmoothGrad"
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        samples: int = 50,
        noise: float = 0.15,
        channels: Channels = "mean",
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_counts(samples=samples, forward_batch_size=forward_batch_size)
        check_literals(SmoothGrad.__init__, locals())
        if not noise >= 0:
            raise InputError(f"noise is {noise}; it is a fraction of the image's range, 0 or more")
        self.samples, self.noise, self.forward_batch_size = samples, noise, forward_batch_size
        self.channels: Channels = channels
        self.signed = type(self).signed and keeps_sign(channels)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Mean over noise, then over channels."""
        std = self.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))
        total = torch.zeros_like(images)
        jobs = [image for image in range(len(images)) for _ in range(self.samples)]
        order = torch.arange(len(images), device=images.device).repeat_interleave(self.samples)
        for first in range(0, len(jobs), self.forward_batch_size):
            # In the order of images and, within each, of its copies: the generators are drawn from
            # in turn.
            chosen = order[first : first + self.forward_batch_size]
            unit = torch.stack(
                [
                    torch.randn(
                        images.shape[1:],
                        generator=generators[image],
                        device=images.device,
                        dtype=torch.float32,
                    )
                    for image in jobs[first : first + self.forward_batch_size]
                ]
            )
            noisy = images[chosen] + std[chosen, None, None, None] * unit
            total.index_add_(
                0, chosen, self.of_one_copy(input_gradient(self.classifier, noisy, targets[chosen]))
            )
        return Attribution(over_channels(total / self.samples, self.channels))

    def of_one_copy(self, gradient: Tensor) -> Tensor:
        """What is averaged over the copies."""
        return gradient


class SmoothGradSquared(SmoothGrad):
    """Mean squared gradient over noisy copies (Hooker et al. 2019), averaged over channels.

    Example:
        >>> from lit_iba.baselines import SmoothGradSquared
        >>> heatmap = SmoothGradSquared(classifier, samples=4).attribute(images, targets)
        >>> bool((heatmap.values >= 0).all())
        True
    """

    name: ClassVar[str] = "smoothgrad_squared"
    label: ClassVar[str] = "SmoothGrad²"
    signed = False

    def of_one_copy(self, gradient: Tensor) -> Tensor:
        """The square, elementwise."""
        return gradient.square()
