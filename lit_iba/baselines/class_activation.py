"""Class activation maps of a layer: Grad-CAM (Selvaraju et al., ICCV 2017), HiResCAM (Draelos and
Carin, arXiv:2011.08891) and LayerCAM (Jiang et al., IEEE TIP 2021).

All three weight the layer's channels by gradients of the score, add them up, rectify the sum and
resize it bilinearly; they differ in what the weight of a channel at a position is.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.stages import last_feature_map, positions_matter
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer

logger = logging.getLogger(__name__)


class GradCAM(Explainer):
    """Grad-CAM (Selvaraju et al. 2017): channels weighted by their mean gradient, rectified,
    resized bilinearly.

    Args:
        classifier: The network to explain.
        layer: Layer whose output is weighted, channels first or last or tokens, of which the class
            token is left out; by default the last one with positions that the whole picture passes
            (``layer4`` of a ResNet, the last block but one of a ViT that reads its class token).
        seed: Unused; nothing here is random.

    Raises:
        InputError: No such layer, or its output has no positions.

    Example:
        >>> from lit_iba.baselines import GradCAM
        >>> heatmap = GradCAM(classifier, layer="layer2").attribute(images, targets)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> bool((heatmap.values >= 0).all())
        True
    """

    name: ClassVar[str] = "grad_cam"
    label: ClassVar[str] = "Grad-CAM"

    def __init__(
        self, classifier: FrozenClassifier, *, layer: str | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, seed=seed)
        self.layer = layer or last_feature_map(classifier)
        self.split = classifier.split(self.layer)
        layout = classifier.layout(self.layer)
        if layout.height * layout.width == 1:
            raise InputError(
                f"{self.label} needs a layer with positions, but {self.layer!r} of"
                f" {classifier.name} has none; name another layer"
            )
        if layer is not None and not positions_matter(classifier, layer):
            logger.warning(
                "%s reads nothing of %r but its class token, so that its %s is zero "
                "everywhere; leave layer out, or name an earlier one",
                classifier.name,
                layer,
                self.label,
            )

    def weights(self, gradients: Tensor) -> Tensor:
        """What each channel is multiplied by, from the gradients (B, C, h, w): the mean over
        positions, (B, C, 1, 1).
        """
        return gradients.mean(dim=(2, 3), keepdim=True)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Rectified weighted sum of the layer's channels, (B, h, w) resized to (B, H, W)."""
        size = (images.shape[-2], images.shape[-1])
        with torch.no_grad():
            r, carried = self.split.head(images)
        with torch.enable_grad():
            r = r.clone().requires_grad_()
            score = self.classifier.objective.score(self.split.tail(r, carried), targets)
            (gradient,) = torch.autograd.grad(score.sum(), r)
        layout = self.classifier.layout_of(self.layer, r.shape, size)
        features, gradients = layout.grid(r.detach()), layout.grid(gradient)  # (B, C, h, w)
        maps = (self.weights(gradients) * features).sum(dim=1, keepdim=True).relu()
        return Attribution(
            F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0]
        )


class HiResCAM(GradCAM):
    """HiResCAM (Draelos and Carin 2020): every position weighted by its own gradient.

    Where nothing but average pooling and one linear layer follow, it is Grad-CAM, and before it is
    rectified its sum over positions is the logit without the bias. Elsewhere Grad-CAM's mean of the
    gradient can mark positions that the score does not depend on, and HiResCAM cannot.

    Arguments and errors are those of :class:`GradCAM`.

    Example:
        >>> from lit_iba import FrozenClassifier
        >>> from lit_iba.baselines import GradCAM, HiResCAM
        >>> residual = FrozenClassifier("resnet8", "random")
        >>> first, second = (
        ...     method(residual, layer="layer3").attribute(images, targets).values
        ...     for method in (GradCAM, HiResCAM)
        ... )
        >>> first.allclose(second, atol=1e-6)
        True
    """

    name: ClassVar[str] = "hires_cam"
    label: ClassVar[str] = "HiResCAM"

    def weights(self, gradients: Tensor) -> Tensor:
        """The gradients as they are."""
        return gradients


class LayerCAM(GradCAM):
    """LayerCAM (Jiang et al. 2021): every position weighted by its own gradient where that is
    positive, which gives sharp maps of early layers too.

    Arguments and errors are those of :class:`GradCAM`.

    Example:
        >>> from lit_iba.baselines import LayerCAM
        >>> heatmap = LayerCAM(classifier, layer="layer1").attribute(images, targets)
        >>> bool((heatmap.values >= 0).all())
        True
    """

    name: ClassVar[str] = "layer_cam"
    label: ClassVar[str] = "LayerCAM"

    def weights(self, gradients: Tensor) -> Tensor:
        """The gradients' positive part."""
        return gradients.relu()
