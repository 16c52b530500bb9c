"""Real-time image saliency: a small decoder reads the classifier's own features and predicts the
mask in one pass.

Dabkowski and Gal, "Real Time Image Saliency for Black Box Classifiers" (NIPS 2017), section 4. A
U-Net whose encoder is the frozen classifier; an embedding a class gates the deepest features, so
that the mask belongs to the class asked for. How it is trained stands in masking_training.py, what
it is trained for in masking_objective.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.checks import check_counts, check_taken
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution
from lit_iba.objectives.classes import needs_classes
from lit_iba.training.checkpoint import entries_of
from lit_iba.training.trained_explainer import Output, TrainedExplainer, load_trained, single

STAGES = [
    "layer1",
    "layer2",
    "layer3",
    "layer4",
]  # at 224 pixels 56, 28, 14 and 7 positions across, as in the authors' code
DEFAULT_TAPS = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), STAGES),
    "small_cnn": ["layer1", "layer2", "layer3"],
}
LAST_WIDTH = 64  # channels of the last block; twice as many in each deeper one
SMALLEST = 1e-5  # keeps quotients finite; 1e-8 would be lost in ONNX


@dataclass(frozen=True)
class MaskingSettings:
    """Shape of a masking network.

    Args:
        widths: Channels behind each upsampling block, from the deepest on; None takes 64 for the
            last and twice as many for each one before (256, 128, 64 for three).
        confidence: Subtracted from the class evidence before the gate's sigmoid; larger ones close
            the gate more often. May be changed after training.

    Example:
        >>> from lit_iba.baselines import MaskingSettings
        >>> MaskingSettings(widths=(32, 16))
        MaskingSettings(widths=(32, 16), confidence=0.0)
    """

    widths: tuple[int, ...] | None = None
    confidence: float = 0.0


def class_evidence(features: Tensor, embedding: Tensor) -> Tensor:
    """Inner product of each position's features (B, C, h, w) with its class embedding (B, C): (B,
    h, w).
    """
    return torch.einsum("bchw,bc->bhw", features, embedding)


def mask_from_pair(a: Tensor, b: Tensor) -> Tensor:
    """|a| / (|a| + |b|), in [0, 1]; 0 where both are zero."""
    return a.abs() / (a.abs() + b.abs()).clamp_min(SMALLEST)


def unit_scale(features: Tensor) -> Tensor:
    """Features (B, C, h, w) divided by their root mean square over channels and positions, image by
    image.
    """
    square = features.float().square().mean(dim=(1, 2, 3), keepdim=True)
    return features * (square + SMALLEST).rsqrt().to(features.dtype)


class UpsamplingBlock(nn.Module):
    """Sub-pixel upsampling, concatenation with the encoder's features of that size, and a residual
    bottleneck.

    Without batch norm, which would make an image's mask depend on its batch during training.

    Args:
        inputs: Channels that come from below.
        skip: Channels of the encoder's features.
        width: Channels of the result.
        factor: How many times as large the result is; 1 where both have the same size.
    """

    def __init__(self, inputs: int, skip: int, width: int, factor: int) -> None:
        super().__init__()
        self.factor, inner = factor, max(width // 2, 1)
        self.enlarge = nn.Conv2d(inputs, width * factor**2, 3, padding=1)
        self.join = nn.Conv2d(width + skip, width, 1)
        self.residual = nn.Sequential(
            nn.Conv2d(width, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, width, 1),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, inputs, h, w) and (B, skip, H, W) to (B, width, H, W)."""
        x = F.relu(F.pixel_shuffle(self.enlarge(x), self.factor))
        if x.shape[-2:] != skip.shape[-2:]:  # sizes that are no multiples, such as 7 under 13
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = F.relu(self.join(torch.cat([x, skip], dim=1)))
        return F.relu(x + self.residual(x))


class MaskingNetwork(nn.Module):
    """Class embedding, gate and decoder: from the classifier's features and a class to a mask.

    Args:
        taps: Names of the layers read, from the first to the deepest.
        shapes: Shape of their outputs for one image, by name.
        layouts: Layout of the same.
        num_classes: Number of classes.
        settings: The network's shape.

    Raises:
        InputError: The taps are no pyramid, or the widths do not fit them.

    Example:
        >>> from lit_iba.baselines import MaskingNetwork, RealTimeSaliency
        >>> explainer = RealTimeSaliency(classifier, taps=["layer1", "layer2", "layer3"])
        >>> isinstance(explainer.trained, MaskingNetwork)
        True
    """

    def __init__(
        self,
        taps: Sequence[str],
        shapes: dict[str, torch.Size],
        layouts: dict[str, Layout],
        num_classes: int,
        settings: MaskingSettings,
    ) -> None:
        super().__init__()
        self.taps, self.settings = tuple(taps), settings
        _check_pyramid(self.taps, layouts)
        blocks = len(self.taps) - 1
        widths = settings.widths or tuple(LAST_WIDTH * 2**i for i in reversed(range(blocks)))
        if len(widths) != blocks:
            raise InputError(
                f"widths are {widths}; {len(taps)} taps need {blocks}, one for each but the deepest"
            )
        check_counts(**{f"widths[{i}]": width for i, width in enumerate(widths)})
        channels = {
            name: shapes[name][0 if layouts[name].kind == "BCHW" else -1] for name in self.taps
        }
        deepest = channels[self.taps[-1]]
        self.embedding = nn.Embedding(num_classes, deepest)
        nn.init.normal_(self.embedding.weight, std=1 / deepest)
        self.blocks = nn.ModuleList()
        inputs, below = deepest, self.taps[-1]
        for name, width in zip(reversed(self.taps[:-1]), widths, strict=True):
            factor = max(round(layouts[name].height / layouts[below].height), 1)
            self.blocks.append(UpsamplingBlock(inputs, channels[name], width, factor))
            inputs, below = width, name
        self.write = nn.Conv2d(inputs, 2, 1)

    def evidence(
        self, taps: dict[str, Tensor], layouts: dict[str, Layout], classes: Tensor
    ) -> Tensor:
        """Evidence for each image's class (B,) at each position of the deepest tap: (B, h, w)."""
        deepest = self.taps[-1]
        return class_evidence(layouts[deepest].grid(taps[deepest]), self.embedding(classes))

    def forward(
        self, taps: dict[str, Tensor], layouts: dict[str, Layout], classes: Tensor
    ) -> Tensor:
        """Mask (B, h, w) in [0, 1] at the size of the first tap, from the taps' outputs and classes
        (B,).
        """
        deepest = self.taps[-1]
        gate = torch.sigmoid(self.evidence(taps, layouts, classes) - self.settings.confidence)
        x = unit_scale(layouts[deepest].grid(taps[deepest])) * gate[:, None]
        for name, block in zip(reversed(self.taps[:-1]), self.blocks, strict=True):
            x = block(x, unit_scale(layouts[name].grid(taps[name])))
        a, b = self.write(x).float().unbind(dim=1)
        return mask_from_pair(a, b)


def class_weights(classifier: FrozenClassifier, channels: int) -> Tensor:
    """The classifier's own class embedding, (classes, channels): the weights of its last linear
    layer, where that reads as many channels as the deepest tap has.

    With average pooling in between, the evidence of a position is then its part of the class's
    logit (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016).

    Raises:
        InputError: There is no such layer.
    """
    heads = [
        module.weight
        for module in classifier.model.modules()
        if isinstance(module, nn.Linear)
        and (module.out_features, module.in_features) == (classifier.num_classes, channels)
    ]
    if not heads:
        raise InputError(
            f"{classifier.name} has no linear layer from the deepest tap's {channels} channels to"
            f" its {classifier.num_classes} classes; set embedding to trained"
        )
    return heads[-1].detach().float()


def _check_pyramid(taps: Sequence[str], layouts: dict[str, Layout]) -> None:
    if len(taps) < 2 or len(set(taps)) < len(taps):
        raise InputError(
            f"taps are {list(taps)}; a masking network reads at least 2 different layers"
        )
    for name in taps:
        if layouts[name].kind == "BC":
            raise InputError(
                f"the output of layer {name!r} has no positions; choose taps before the pooling"
            )
    for before, after in pairwise(taps):
        if (
            layouts[before].height < layouts[after].height
            or layouts[before].width < layouts[after].width
        ):
            raise InputError(
                f"tap {before!r} is smaller than {after!r}; name the taps from the first to the "
                "deepest"
            )


class RealTimeSaliency(TrainedExplainer):
    """Masks of a trained masking network: how much of each pixel must be kept for the class to be
    seen.

    Args:
        classifier: The network to explain.
        taps: Layers that are read, from the first to the deepest; the mask has the size of the
            first one's output before it is resized. By default layer1 to layer4 of ResNet-50, as in
            the authors' code.
        seed: Unused; nothing here is random.
        settings: Any of :class:`MaskingSettings`.

    Raises:
        InputError: Unknown layers or settings, or layers that are no pyramid.

    Example:
        >>> from lit_iba.baselines import RealTimeSaliency
        >>> explainer = RealTimeSaliency(classifier, ["layer1", "layer2", "layer3"], widths=(16, 8))
        >>> values = explainer.attribute(images, targets).values
        >>> values.shape, bool(((0 <= values) & (values <= 1)).all())
        (torch.Size([2, 64, 64]), True)
    """

    name: ClassVar[str] = "real_time_saliency"
    label: ClassVar[str] = "Real-time saliency"
    training = "MaskingTraining"
    config = "configs/train/real_time_saliency_resnet18.yaml"
    outputs = (
        Output(
            "heatmap",
            "1",
            "Share of each pixel, 0 to 1, that must be kept for the class predicted for the image "
            "to be seen.",
        ),
    )

    def __init__(
        self,
        classifier: FrozenClassifier,
        taps: Sequence[str] | None = None,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(classifier, seed=seed)
        needs_classes(classifier.objective, "real_time_saliency", "per_sample_iba or readout_iba")
        if not taps and classifier.name not in DEFAULT_TAPS:
            raise InputError(
                f"real_time_saliency knows no taps for {classifier.name}; name two or more of its "
                "layers as taps, from the first to the deepest"
            )
        check_taken(MaskingSettings, settings, "real_time_saliency")
        chosen = MaskingSettings(**settings)
        self.taps = list(taps or DEFAULT_TAPS[classifier.name])
        self.split = classifier.split(self.taps[-1], self.taps)
        size = classifier.preprocessing.size
        with torch.no_grad():
            _, _, tapped = self.split.observe(classifier.empty_images())
        shapes = {name: tap.shape[1:] for name, tap in tapped.items()}
        self.network = MaskingNetwork(
            self.taps, shapes, classifier.layouts_of(tapped, size), classifier.num_classes, chosen
        )
        self.network.to(classifier.device, torch.float32)

    def masks(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1] of images (B, 3, H, W) for classes (B,), in one pass."""
        size = (images.shape[-2], images.shape[-1])
        _, _, taps = self.split.observe(images)
        return self._masks(taps, classes, size)

    def masks_of_predictions(self, images: Tensor) -> Tensor:
        """Masks (B, H, W) for the predicted classes in one pass; this is what is exported."""
        size = (images.shape[-2], images.shape[-1])
        deepest, carried, taps = self.split.observe(images)
        classes = self.split.tail(deepest, carried).argmax(dim=1)
        return self._masks(taps, classes, size)

    def _masks(self, taps: dict[str, Tensor], classes: Tensor, size: tuple[int, int]) -> Tensor:
        layouts = self.classifier.layouts_of(taps, size)
        read = {name: single(tap) for name, tap in taps.items()}
        return at_size(self.network(read, layouts, classes), size)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """One pass."""
        with torch.no_grad():
            return Attribution(self.masks(images, targets))

    @property
    def trained(self) -> nn.Module:
        """The masking network."""
        return self.network

    @property
    def record(self) -> dict[str, Any]:
        """Layers, seed and the masking network's settings."""
        return {
            "taps": list(self.taps),
            "seed": self.seed,
            "masking": dict(vars(self.network.settings)),
        }

    @classmethod
    def from_record(cls, classifier: FrozenClassifier, record: dict[str, Any]) -> RealTimeSaliency:
        """See the base class."""
        return cls(classifier, record["taps"], seed=record["seed"], **record["masking"])

    def program_modules(self) -> dict[str, nn.Module]:
        """See the base class."""
        return {"classifier": self.classifier.model, "masking": self.network}

    def program(self, images: Tensor) -> tuple[Tensor, ...]:
        """The mask of the class that the classifier predicts in the same pass."""
        return (self.masks_of_predictions(images),)

    @classmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> RealTimeSaliency:
        """A trained masking network from a checkpoint of ``MaskingTraining``.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            settings: ``seed`` or ``confidence``, if another one is wanted.

        Raises:
            InputError: The file is missing, damaged, of another class, was trained for another
                classifier, or was written before the decoder's training began.
        """
        checkpoint, classifier = cls.read(path, classifier)
        with entries_of(path, settings):
            saved = checkpoint["hyper_parameters"]
            if checkpoint["global_step"] <= saved["embedding_steps"]:
                raise InputError(
                    f"checkpoint {path} is of step {checkpoint['global_step']}, but the decoder is "
                    f"trained after the first {saved['embedding_steps']} (embedding_steps);"
                    " train on, or give a later checkpoint"
                )
            explainer = cls(classifier, saved["taps"], **{**saved["masking"], **settings})
            load_trained(explainer.network, checkpoint["state_dict"], "network.", str(path))
            return explainer


def at_size(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (B, h, w) resized bilinearly to (B, H, W); their values stay in [0, 1], for they are no
    amounts to add up.
    """
    return F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
