"""LIME for images: a linear model of what the classifier says when superpixels are hidden.

Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (KDD 2016), with the settings of the authors'
image explainer. Captum's Lime explains one image after another from the global random numbers; here
forward passes run across images and samples alike, the masks belong to the sample, and only the
regression is one per image. Superpixels are a grid or SLIC (Achanta et al., TPAMI 2012); the
authors' quickshift is not here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import drawn
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer
from lit_iba.perturbation import tile_index

SLIC_ROUNDS = 10


class LIME(Explainer):
    """LIME: each pixel gets its superpixel's coefficient in a weighted linear regression.

    An image costs ``samples`` forward passes.

    Args:
        classifier: The network to explain.
        samples: Masks per image, the first of which hides nothing; the others hide each superpixel
            with probability 1/2.
        superpixels: ``"grid"`` of squares, or ``"slic"``: compact regions of similar colour.
        side: Of the squares in pixels, or of the regions that SLIC starts from; 28 makes 64 of 224
            x 224 pixels.
        compactness: Of SLIC: distance in colour (CIELAB) that counts as much as ``side`` in
            position.
        fill: What hides a superpixel: its own ``"mean"`` colour, or ``"zero"``, the data set's mean
            colour.
        score: The target's ``"probability"`` or ``"logit"``.
        kernel_width: Of the weights sqrt(exp(-d^2 / width^2)), d the cosine distance between a mask
            and the whole image.
        regression: ``"ridge"`` or ``"lasso"``.
        penalty: Of the regression; by default 1 for ridge (LIME's code) and 0.01 for the Lasso
            (Captum's). 0 means plain weighted least squares.
        forward_batch_size: Images per forward pass.
        seed: Seeds the masks, together with each sample's key.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.baselines import LIME
        >>> heatmap = LIME(classifier, samples=40, side=16).attribute(images, targets)
        >>> len(heatmap.values[0].unique())  # one value per superpixel of 16 x 16 pixels
        16
    """

    name: ClassVar[str] = "lime"
    label: ClassVar[str] = "LIME"
    lengths: ClassVar[tuple[str, ...]] = ("side",)
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        samples: int = 1000,
        superpixels: Literal["grid", "slic"] = "grid",
        side: int = 28,
        compactness: float = 10.0,
        fill: Literal["mean", "zero"] = "mean",
        score: Literal["probability", "logit"] = "probability",
        kernel_width: float = 0.25,
        regression: Literal["ridge", "lasso"] = "ridge",
        penalty: float | None = None,
        forward_batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_counts(samples=samples, side=side, forward_batch_size=forward_batch_size)
        check_literals(LIME.__init__, locals())
        check_numbers(0, exclusive=True, compactness=compactness, kernel_width=kernel_width)
        penalty = {"ridge": 1.0, "lasso": 0.01}[regression] if penalty is None else penalty
        check_numbers(0, penalty=penalty)
        if samples < 2:
            raise InputError(f"samples is {samples}; a regression needs at least 2, usually 1000")
        self.samples, self.superpixels, self.side, self.compactness = (
            samples,
            superpixels,
            side,
            compactness,
        )
        self.fill, self.score, self.kernel_width = fill, score, kernel_width
        self.regression, self.penalty, self.forward_batch_size = (
            regression,
            penalty,
            forward_batch_size,
        )

    @torch.no_grad()
    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Coefficients of each image's own linear model, spread over its superpixels."""
        segments = self._segments(images)  # (B, H, W)
        fill = segment_means(images, segments) if self.fill == "mean" else torch.zeros_like(images)
        counts = (segments.flatten(1).amax(dim=1) + 1).tolist()
        kept = images.new_zeros(len(images), self.samples, max(counts), dtype=torch.bool)
        for i, generator in enumerate(generators):
            coins = torch.randint(
                0, 2, (self.samples, counts[i]), generator=generator, device=images.device
            )
            kept[i, :, : counts[i]] = coins.bool()
            kept[i, 0] = True
        objective = self.classifier.objective
        measure = objective.probability if self.score == "probability" else objective.score
        scores = images.new_zeros(len(images) * self.samples, dtype=torch.float32)
        for jobs in torch.arange(len(scores), device=images.device).split(self.forward_batch_size):
            picture, sample = jobs // self.samples, jobs % self.samples
            shown = (
                kept[picture, sample]
                .gather(1, segments[picture].flatten(1))
                .view(-1, 1, *images.shape[-2:])
            )
            perturbed = torch.where(shown, images[picture], fill[picture])
            scores[jobs] = measure(self.classifier(perturbed).float(), targets[picture])
        maps = torch.zeros_like(images[:, 0])
        for i, count in enumerate(counts):
            masks = kept[i, :, :count]
            coefficients = surrogate_coefficients(
                masks,
                scores[i * self.samples : (i + 1) * self.samples],
                self.kernel_width,
                self.regression,
                self.penalty,
            )
            maps[i] = coefficients.to(maps)[segments[i]]
        return Attribution(maps)

    def _segments(self, images: Tensor) -> Tensor:
        """Number of each pixel's superpixel, int64 (B, H, W), counted from 0 without gaps."""
        if self.superpixels == "grid":
            size = (images.shape[-2], images.shape[-1])
            return tile_index(size, self.side, images.device).expand(len(images), -1, -1)
        colours = _lab(drawn(self.classifier.preprocessing.denormalize(images)))
        return torch.stack([slic(colour, self.side, self.compactness) for colour in colours])


def surrogate_coefficients(
    masks: Tensor,
    scores: Tensor,
    kernel_width: float,
    regression: Literal["ridge", "lasso"],
    penalty: float,
) -> Tensor:
    """Coefficients of the weighted regression of scores on what is kept.

    Args:
        masks: What each sample keeps, bool (samples, features).
        scores: (samples,).
        kernel_width: Of the weights sqrt(exp(-d^2 / width^2)), d the cosine distance to the mask
            that hides nothing.
        regression: ``"ridge"`` or ``"lasso"``.
        penalty: Of the regression; 0 means plain weighted least squares.

    Returns:
        float64 (features,).
    """
    from sklearn.linear_model import Lasso, LinearRegression, Ridge

    distance = 1 - masks.double().mean(dim=1).sqrt()
    weights = (-(distance / kernel_width).square() / 2).exp()
    penalized = Ridge if regression == "ridge" else Lasso
    model = penalized(alpha=penalty) if penalty else LinearRegression()
    model.fit(
        masks.double().cpu().numpy(),
        scores.double().cpu().numpy(),
        sample_weight=weights.cpu().numpy(),
    )
    return torch.from_numpy(model.coef_)


def segment_means(images: Tensor, segments: Tensor) -> Tensor:
    """Each pixel replaced by the mean of its segment: (B, C, H, W) and (B, H, W) to (B, C, H,
    W).
    """
    index = segments.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    sums = images.new_zeros(*images.shape[:2], int(segments.max()) + 1)
    sizes = sums.scatter_add(2, index, torch.ones_like(images).flatten(2))
    return (
        (sums.scatter_add(2, index, images.flatten(2)) / sizes.clamp_min(1))
        .gather(2, index)
        .view_as(images)
    )


def slic(colours: Tensor, side: int, compactness: float) -> Tensor:
    """Superpixels by k-means in colour and position, each pixel choosing among the nine centres of
    its neighbourhood.

    Args:
        colours: One picture, (3, H, W), in CIELAB.
        side: Of the squares that it starts from, in pixels.
        compactness: Distance in colour that counts as much as ``side`` pixels.

    Returns:
        int64 (H, W), numbered from 0 without gaps. Regions need not be connected.
    """
    height, width = colours.shape[-2:]
    start = tile_index((height, width), side, colours.device)
    columns = -(-width // side)
    rows = -(-height // side)
    y, x = torch.meshgrid(
        torch.arange(height, device=colours.device),
        torch.arange(width, device=colours.device),
        indexing="ij",
    )
    features = (
        torch.cat([colours / compactness, torch.stack([y, x]) / side]).flatten(1).T
    )  # (pixels, 5)
    steps = torch.arange(-1, 2, device=colours.device)
    near_rows = (y.flatten()[:, None] // side + steps).clamp(0, rows - 1)  # (pixels, 3)
    near_columns = (x.flatten()[:, None] // side + steps).clamp(0, columns - 1)
    candidates = (near_rows[:, :, None] * columns + near_columns[:, None, :]).flatten(
        1
    )  # (pixels, 9)
    labels, ones = start.flatten(), features.new_ones(len(features))
    for _ in range(SLIC_ROUNDS):
        sums = features.new_zeros(rows * columns, 5).index_add_(0, labels, features)
        sizes = features.new_zeros(rows * columns).index_add_(
            0, labels, ones
        )  # bincount would make the host wait
        centres = sums / sizes.clamp_min(1)[:, None]
        distance = (centres[candidates] - features[:, None]).square().sum(dim=2)
        labels = candidates.gather(1, distance.argmin(dim=1, keepdim=True))[:, 0]
    return labels.unique(return_inverse=True)[1].view(height, width)


def _lab(pictures: Tensor) -> Tensor:
    """Pictures uint8 (B, 3, H, W) in CIELAB, float."""
    from kornia.color import rgb_to_lab

    return rgb_to_lab(pictures.float() / 255)
