"""FIDO: which pixels to drop, learnt as the parameters of a Bernoulli distribution, with the
dropped ones filled in.

Chang, Creager, Goldenberg and Duvenaud, "Explaining Image Classifiers by Counterfactual Generation"
(ICLR 2019, arXiv:1807.08024), with the authors' published settings. The code is ours. The paper's
generative infills (VAE, CA-GAN) need trained networks and are not here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer
from lit_iba.iba.optimise import descend
from lit_iba.perturbation import gaussian_blur

Infill = Literal["mean", "local_mean", "blur", "random"]
GENERATIVE = ("vae", "ca_gan")
LOCAL_WINDOW = 15  # pixels
BLUR_SIGMA = 10.0  # pixels
COLOUR_NOISE = 0.2  # standard deviation, for pictures in [0, 1]
EPS = torch.finfo(torch.float32).eps


class FIDO(Explainer):
    """FIDO: the smallest region that suffices for the class (SSR), or whose loss destroys it (SDR).

    The map is the probability that a pixel belongs to the region, minus 1/2. An image costs
    ``steps`` x ``samples`` forward
    and backward passes: 2,400 with the defaults.

    Args:
        classifier: The network to explain.
        objective: ``"ssr"``: keep as few pixels as the class needs; ``"sdr"``: drop as few as
            destroy it.
        infill: What dropped pixels become: ``"mean"``, the data set's mean colour;
            ``"local_mean"``, of the kept pixels in a window of 15 x 15; ``"blur"``, of standard
            deviation 10 pixels; ``"random"``, one random colour with noise.
        steps: Adam updates.
        samples: Masks drawn per image and step.
        learning_rate: Of Adam, falling linearly to zero.
        sparsity: Weight of the number of pixels in the region.
        warm_up: Steps over which that weight rises linearly from zero.
        total_variation: Weight of the summed squared differences between neighbouring pixels'
            probabilities; the same warm-up.
        temperature: Of the concrete distribution that stands in for Bernoulli's.
        cell: Side in pixels of the cells that carry a parameter: 56 x 56 parameters for 224 x 224
            pixels.
        forward_batch_size: Images per forward pass.
        seed: Seeds the masks and colours, together with each sample's key.

    Raises:
        InputError: A setting is out of range, or the infill is one of the paper's generative
            networks.

    Example:
        >>> from lit_iba.baselines import FIDO
        >>> heatmap = FIDO(classifier, steps=2, samples=2).attribute(images, targets)
        >>> bool((heatmap.values.abs() <= 0.5).all())  # a probability minus 1/2
        True
    """

    name: ClassVar[str] = "fido"
    label: ClassVar[str] = "FIDO"
    lengths: ClassVar[tuple[str, ...]] = ("cell",)
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        objective: Literal["ssr", "sdr"] = "ssr",
        infill: Infill = "blur",
        steps: int = 300,
        samples: int = 8,
        learning_rate: float = 0.05,
        sparsity: float = 1e-3,
        warm_up: int = 30,
        total_variation: float = 0.0,
        temperature: float = 0.1,
        cell: int = 4,
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        if infill in GENERATIVE:
            raise InputError(
                f"infill {infill!r} is a generative network, for which there are no weights here; "
                f"choose one of {', '.join(map(repr, get_args(Infill)))}"
            )
        check_literals(FIDO.__init__, locals())
        check_counts(steps=steps, samples=samples, cell=cell, forward_batch_size=forward_batch_size)
        check_numbers(0, exclusive=True, learning_rate=learning_rate, temperature=temperature)
        check_numbers(0, sparsity=sparsity, warm_up=warm_up, total_variation=total_variation)
        self.objective, self.infill, self.steps, self.samples = objective, infill, steps, samples
        self.learning_rate, self.sparsity, self.warm_up = learning_rate, sparsity, warm_up
        self.total_variation, self.temperature, self.cell = total_variation, temperature, cell
        self.forward_batch_size = forward_batch_size

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Optimise the dropout probabilities of every image of the batch."""
        height, width = images.shape[-2:]
        grid = (len(images), 1, -(-height // self.cell), -(-width // self.cell))
        blurred = (
            gaussian_blur(images, BLUR_SIGMA, border="reflect") if self.infill == "blur" else None
        )

        def gradient(logits: Tensor, step: int) -> Tensor:
            uniform = torch.stack(
                [
                    torch.rand(
                        (self.samples, 1, height, width),
                        generator=g,
                        device=images.device,
                        dtype=torch.float32,
                    )
                    for g in generators
                ]
            )
            fill = self._random_fill(images, generators) if self.infill == "random" else blurred
            warmth = min(1.0, step / max(self.warm_up, 1))
            return self._gradient(logits, images, targets, uniform, fill, warmth)

        start = torch.zeros(grid, device=images.device, dtype=torch.float32)  # of dropping
        logits = descend(
            start, gradient, steps=self.steps, learning_rate=self.learning_rate, decays=True
        )
        with torch.no_grad():
            drop = self._probabilities(logits, (height, width))[:, 0]
            return Attribution((drop if self.objective == "sdr" else 1 - drop) - 0.5)

    def _probabilities(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Probability that each pixel is dropped, (c, 1, H, W)."""
        return F.interpolate(logits.sigmoid(), size=size, mode="bilinear", align_corners=False)

    def _gradient(
        self,
        logits: Tensor,
        images: Tensor,
        targets: Tensor,
        uniform: Tensor,
        fill: Tensor | None,
        warmth: float,
    ) -> Tensor:
        """Gradient of the loss, summed over images, with respect to the logits.

        Args:
            logits: Of dropping, (B, 1, h, w), requiring gradients.
            images: (B, 3, H, W).
            targets: (B,).
            uniform: Noise that makes the masks, (B, samples, 1, H, W).
            fill: (B, 3, H, W), or of each mask (B * samples, 3, H, W), or None for an infill that
                needs none.
            warmth: Factor of the penalties, in [0, 1].
        """
        size = (images.shape[-2], images.shape[-1])
        with torch.enable_grad():
            drop = self._probabilities(logits, size)
            region = (drop if self.objective == "sdr" else 1 - drop).sum()
            rough = drop.diff(dim=2).square().sum() + drop.diff(dim=3).square().sum()
            (gradient,) = torch.autograd.grad(
                warmth * (self.sparsity * region + self.total_variation * rough), logits
            )
        for jobs in torch.arange(len(images) * self.samples, device=images.device).split(
            self.forward_batch_size
        ):
            picture, sample = jobs // self.samples, jobs % self.samples
            some_fill = (
                None if fill is None else fill[picture if len(fill) == len(images) else jobs]
            )
            with torch.enable_grad():
                drop = self._probabilities(logits[picture], size)
                keep = concrete_keep(drop, uniform[picture, sample], self.temperature)
                filled = fill_in(
                    images[picture], keep, some_fill, local=self.infill == "local_mean"
                )
                score = self.classifier.objective.log_odds(
                    self.classifier(filled), targets[picture]
                )
                loss = (score if self.objective == "sdr" else -score).sum() / self.samples
                gradient += torch.autograd.grad(loss, logits)[0]
        return gradient

    def _random_fill(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        """A colour and noise for every mask of every image, (B * samples, 3, H, W), normalised."""
        mean, std = self.classifier.preprocessing.constants(images.device)
        fills = []
        for generator in generators:
            colour = torch.rand(
                (self.samples, images.shape[1], 1, 1),
                generator=generator,
                device=images.device,
                dtype=torch.float32,
            )
            noise = torch.randn(
                (self.samples, *images.shape[1:]),
                generator=generator,
                device=images.device,
                dtype=torch.float32,
            )
            fills.append(((colour + COLOUR_NOISE * noise).clamp(0, 1) - mean) / std)
        return torch.cat(fills)


def concrete_keep(drop: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """A relaxed Bernoulli mask, near 1 where a pixel is kept (section 3.3; Maddison et al. 2017).

    Args:
        drop: Probability of dropping.
        uniform: Uniform noise in [0, 1), the shape of ``drop``.
        temperature: The lower, the nearer to 0 and 1.
    """
    return 1 - ((torch.logit(drop, EPS) + torch.logit(uniform, EPS)) / temperature).sigmoid()


def fill_in(images: Tensor, keep: Tensor, fill: Tensor | None, *, local: bool = False) -> Tensor:
    """Kept pixels of the images, (c, 3, H, W), and the fill elsewhere; no gradient flows through
    the fill.

    Args:
        images: (c, 3, H, W), normalised.
        keep: Relaxed mask (c, 1, H, W).
        fill: (c, 3, H, W); None for zero, the data set's mean colour.
        local: Whether to fill with the mean of the kept pixels in the window around, zero where
            there are none.
    """
    if local:
        fill = local_mean(images, (keep.detach() > 0.5).to(images.dtype))
    return images * keep if fill is None else images * keep + fill * (1 - keep)


def local_mean(images: Tensor, kept: Tensor) -> Tensor:
    """Mean of the kept pixels (``kept`` is 0 or 1) within the window around each pixel; 0 where
    there are none.
    """
    sums = torch.cat([images * kept, kept], dim=1)
    for size in ((LOCAL_WINDOW, 1), (1, LOCAL_WINDOW)):
        padding = (size[0] // 2, size[1] // 2)
        sums = F.avg_pool2d(sums, size, stride=1, padding=padding, divisor_override=1)
    return sums[:, :-1] / sums[:, -1:].round().clamp_min(1)
