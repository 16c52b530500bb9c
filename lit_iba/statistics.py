"""Mean and standard deviation of every element of a feature map over a stream of images.

One pass, float64, mergeable across batches and processes (Chan et al.'s update of Welford's
method); saved with what they were measured on. IBA (Schulz et al., ICLR 2020), section 3.1: the
noise replacing a feature has that feature's own statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_iba.checks import check_counts, check_images
from lit_iba.classifier import FrozenClassifier, Layout
from lit_iba.errors import InputError
from lit_iba.files import whole_file

INPUT = "input"  # what the images themselves are called where layers are named


class FeatureStatistics:
    """Running statistics of one layer's output R, per element.

    Args:
        shape: Shape of R for one image, such as (C, h, w).
        identity: What they are measured on: classifier, layer, data.

    Example:
        >>> from lit_iba import FeatureStatistics
        >>> statistics = FeatureStatistics.estimate(classifier, "layer2", images)
        >>> statistics.count, statistics.std.shape
        (2, torch.Size([64, 16, 16]))
        >>> statistics.save("layer2.safetensors")
        >>> FeatureStatistics.load("layer2.safetensors").mean.equal(statistics.mean)
        True
    """

    def __init__(self, shape: Iterable[int], identity: dict[str, Any] | None = None) -> None:
        self.shape = torch.Size(shape)
        self.identity: dict[str, Any] = identity or {}
        self.count = 0
        self.mean = torch.zeros(self.shape, dtype=torch.float64)
        self.sum_of_squares = torch.zeros(
            self.shape, dtype=torch.float64
        )  # of the deviations from the mean
        self.nonzero = torch.zeros(self.shape, dtype=torch.int64)

    @classmethod
    @torch.no_grad()
    def estimate(
        cls,
        classifier: FrozenClassifier,
        layer: str,
        images: Tensor | Iterable[Tensor],
        *,
        data: str = "",
        batch_size: int = 32,
        pooled: bool = False,
    ) -> FeatureStatistics:
        """Measure a layer over images, running the classifier only up to it.

        Args:
            classifier: The frozen classifier.
            layer: Layer whose output is measured; ``"input"`` means the images themselves.
            images: Normalised images, one tensor (N, 3, H, W) or an iterable of batches.
            data: What the images are, for the record.
            batch_size: Images per pass, where one tensor is given.
            pooled: Whether each channel has one mean and one deviation, over all its positions;
                a single photograph is then enough.

        Raises:
            InputError: No images at all, values that are not finite, or batches of something else
                than normalised images.

        Example:
            >>> from lit_iba import FeatureStatistics
            >>> one = FeatureStatistics.estimate(classifier, "layer2", images[:1], pooled=True)
            >>> one.std.shape, bool((one.std == one.std[:, :1, :1]).all())
            (torch.Size([64, 16, 16]), True)
        """
        found = estimate_layers(classifier, [layer], images, data=data, batch_size=batch_size)
        if not pooled:
            return found[layer]
        if layer == INPUT:
            return found[layer].pooled(Layout("BCHW", *found[layer].shape[-2:]))
        first = images if isinstance(images, Tensor) else None
        size = None if first is None else (first.shape[-2], first.shape[-1])
        return found[layer].pooled(classifier.layout(layer, size))

    def pooled(self, layout: Layout) -> FeatureStatistics:
        """The same with one mean and one deviation per channel, over all positions and images.

        Where a single photograph must do, its positions take the place of other images. Tokens
        without a position, such as the class token, get what the others have: one value says
        nothing about how much it varies.

        Args:
            layout: Where channels and positions of the layer are.
        """
        weight = self.count * layout.grid(self.mean)[0].numel()
        mean = layout.grid(self.mean)  # (C, h, w)
        middle = mean.mean(dim=(-2, -1), keepdim=True)
        squares = layout.grid(self.sum_of_squares) + self.count * (mean - middle).square()

        def everywhere(channels: Tensor) -> Tensor:
            grid = channels.expand_as(mean)
            prefix = channels.flatten().expand(layout.prefix, -1) if layout.prefix else None
            return layout.ungrid(grid, prefix).contiguous()

        found = FeatureStatistics(self.shape, self.identity | {"pooled": True})
        found.count = weight
        found.mean = everywhere(middle)
        found.sum_of_squares = everywhere(squares.sum(dim=(-2, -1), keepdim=True))
        found.nonzero = everywhere(layout.grid(self.nonzero).sum(dim=(-2, -1), keepdim=True))
        return found

    @torch.no_grad()
    def update(self, r: Tensor) -> None:
        """Add a batch of feature maps (B, *shape)."""
        self._check_shape(r.shape[1:], "feature maps")
        if not len(r):
            return
        # float64 only for the sums: a batch is small against the stream, and the device may be slow
        # at double.
        r64 = r.detach().double()
        mean = r64.mean(dim=0)
        part = FeatureStatistics(self.shape)
        part.count = len(r)
        part.mean, part.sum_of_squares = mean.cpu(), (r64 - mean).square_().sum(dim=0).cpu()
        part.nonzero = (r != 0).sum(dim=0).cpu()
        self.merge(part)

    def merge(self, other: FeatureStatistics) -> None:
        """Add another stream's statistics; the order of merging does not matter (to float64
        rounding).
        """
        self._check_shape(other.shape, "statistics")
        total = self.count + other.count
        if not other.count:
            return
        delta = other.mean - self.mean
        self.mean += delta * (other.count / total)
        self.sum_of_squares += other.sum_of_squares + delta.square() * (
            self.count * other.count / total
        )
        self.nonzero += other.nonzero
        self.count = total

    def _check_shape(self, shape: torch.Size, what: str) -> None:
        if shape != self.shape:
            raise InputError(
                f"{what} of shape {tuple(shape)} do not fit statistics of {tuple(self.shape)}; give"
                " images of one size"
            )

    def reduce_across_processes(self) -> None:
        """Merge the statistics of all processes, so that each has those of the whole stream."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        device = (
            torch.device("cuda")
            if torch.distributed.get_backend() == "nccl"
            else torch.device("cpu")
        )
        world = torch.distributed.get_world_size()
        packed = torch.stack(
            [
                self.mean,
                self.sum_of_squares,
                self.nonzero.double(),
                torch.full_like(self.mean, self.count),
            ]
        )
        gathered = [torch.empty_like(packed, device=device) for _ in range(world)]
        torch.distributed.all_gather(gathered, packed.to(device))
        merged = FeatureStatistics(self.shape)
        for mean, squares, nonzero, count in (g.cpu().unbind() for g in gathered):
            part = FeatureStatistics(self.shape)
            part.mean, part.sum_of_squares, part.nonzero = mean, squares, nonzero.long()
            part.count = int(count.flatten()[0])
            merged.merge(part)
        self.mean, self.sum_of_squares, self.nonzero, self.count = (
            merged.mean,
            merged.sum_of_squares,
            merged.nonzero,
            merged.count,
        )

    @property
    def std(self) -> Tensor:
        """Unbiased standard deviation per element, float64; zero for elements that never change."""
        return (self.sum_of_squares / max(self.count - 1, 1)).sqrt()

    @property
    def rms_of_nonzero(self) -> Tensor:
        """Root mean square of the non-zero values, which the authors' published code takes as the
        scale behind a ReLU.
        """
        squares = self.sum_of_squares + self.count * self.mean.square()
        return (squares / self.nonzero.clamp_min(1)).sqrt()

    @property
    def active(self) -> Tensor:
        """Share of images, in [0, 1], for which the element was not zero."""
        return self.nonzero.double() / max(self.count, 1)

    def save(self, path: str | Path) -> None:
        """Write as safetensors, with the identity in its metadata, by atomic rename."""
        tensors = {
            "mean": self.mean,
            "sum_of_squares": self.sum_of_squares,
            "nonzero": self.nonzero,
        }
        metadata = {
            "kind": "lit_iba.FeatureStatistics",
            "count": str(self.count),
            "identity": json.dumps(self.identity),
        }
        with whole_file(path) as part:
            save_file(tensors, part, metadata=metadata)

    @classmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, layer: str | None = None
    ) -> FeatureStatistics:
        """Read statistics back and check that they belong to this classifier and layer.

        Raises:
            InputError: The file is missing, damaged, or of another classifier or layer.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"statistics file {path} does not exist; make it with"
                " FeatureStatistics.estimate(...).save(path)"
            )
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if metadata.get("kind") != "lit_iba.FeatureStatistics":
                raise InputError(
                    f"{path} is a safetensors file, but holds no feature statistics; give another"
                    " file"
                )
            loaded = cls(tensors["mean"].shape, json.loads(metadata["identity"]))
            loaded.count = int(metadata["count"])
            loaded.mean, loaded.sum_of_squares = tensors["mean"], tensors["sum_of_squares"]
            loaded.nonzero = tensors["nonzero"]
            if any(t.shape != loaded.shape or not t.isfinite().all() for t in tensors.values()):
                raise ValueError("its numbers differ in shape, or are not finite")
            if loaded.count < 1 or not isinstance(loaded.identity, dict):
                raise ValueError(f"it was measured on {loaded.count} images")
        except InputError:
            raise
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"statistics file {path} is damaged or cut short ({error}); estimate it again"
            ) from error
        loaded.check(classifier, layer, str(path))
        return loaded

    def check(
        self, classifier: FrozenClassifier | None, layer: str | None, source: str = "the statistics"
    ) -> None:
        """Refuse statistics of another classifier or layer."""
        if layer is not None and self.identity.get("layer", layer) != layer:
            raise InputError(
                f"{source}: measured behind layer {self.identity['layer']!r}, but {layer!r} is"
                " asked for; estimate them for this layer"
            )
        if classifier is not None and "classifier" in self.identity:
            classifier.check_identity(self.identity["classifier"], source)


@torch.no_grad()
def estimate_layers(
    classifier: FrozenClassifier,
    layers: Iterable[str],
    images: Tensor | Iterable[Tensor],
    *,
    data: str = "",
    batch_size: int = 32,
) -> dict[str, FeatureStatistics]:
    """Statistics of several layers from one pass over the images; see
    :meth:`FeatureStatistics.estimate`.
    """
    check_counts(batch_size=batch_size)
    layers = list(layers)
    inside = [layer for layer in layers if layer != INPUT]
    batches: Iterable[Tensor] = images.split(batch_size) if isinstance(images, Tensor) else images
    taps = classifier.taps(inside) if inside else None
    found: dict[str, FeatureStatistics] = {}
    for batch in batches:
        if isinstance(batch, tuple | list | dict):
            raise InputError(
                f"a batch of images is a {type(batch).__name__}; give the images alone, such as"
                " (images for images, labels in loader)"
            )
        images = check_images(batch, classifier.channels)
        images = images.to(classifier.device, classifier.dtype)
        with classifier.undisturbed():
            outputs = {} if taps is None else taps(images)
        for layer, r in (outputs | {INPUT: images} if INPUT in layers else outputs).items():
            if layer not in found:
                found[layer] = FeatureStatistics(r.shape[1:], identity_of(classifier, layer, data))
            found[layer].update(r)
    for layer in layers:
        if layer not in found or not found[layer].count:
            raise InputError(
                f"no images were given to estimate the statistics of {layer!r}; check the data"
            )
        if not torch.isfinite(found[layer].mean).all():
            raise InputError(
                f"the output of {layer!r} is not finite for some image; check images and weights"
            )
    return found


def identity_of(classifier: FrozenClassifier, layer: str, data: str) -> dict[str, Any]:
    """What statistics were measured on."""
    return {"classifier": classifier.identity, "layer": layer, "data": data}
