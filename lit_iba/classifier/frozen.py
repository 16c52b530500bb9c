"""The classifier under explanation: loaded by name or file, frozen for good, and cut where an
explainer needs it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from lit_iba.classifier.fusing import made_fast
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.classifier.layout import Layout
from lit_iba.classifier.networks import build_network, from_module
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.split import Split, TracedNetwork
from lit_iba.classifier.weights import fingerprint
from lit_iba.errors import InputError

logger = logging.getLogger(__name__)


class FrozenClassifier(nn.Module):
    """A classifier that never changes: no gradients for its parameters, always in eval mode.

    Args:
        model: A torchvision name (``"resnet50"``), a timm name when timm is installed,
            ``"small_cnn"``, ``"resnet8"``, a function of your own as ``"package.module:function"``,
            or a module. Either maps images (B, 3, H, W) to logits (B, K).
        weights: Member of torchvision's weights enum (``"IMAGENET1K_V2"``, ``"DEFAULT"``), a local
            ``.pth``, ``.safetensors`` or ``.safetensors.xz`` file, or ``"random"`` (the same random
            weights every time). For a module: None keeps its weights as they are.
        num_classes: Number of classes, where it is not the architecture's usual one.
        preprocessing: How photographs become images; by default that of the weights.
        class_names: Names of the classes; by default those of the weights.

    Raises:
        InputError: Unknown name, weights that do not fit, or weights that cannot be had without the
            network.

    Example:
        >>> from lit_iba import FrozenClassifier
        >>> classifier = FrozenClassifier("small_cnn", "random")
        >>> classifier(images).shape
        torch.Size([2, 10])
        >>> any(parameter.requires_grad for parameter in classifier.parameters())
        False
        >>> split = classifier.split("layer2")
        >>> feature, carried = split.head(images)
        >>> split.tail(feature, carried).allclose(classifier(images), atol=1e-5)
        True
    """

    def __init__(
        self,
        model: str | nn.Module,
        weights: str | None = None,
        *,
        num_classes: int | None = None,
        preprocessing: Preprocessing | dict[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(preprocessing, dict):
            preprocessing = Preprocessing.from_dict(preprocessing)
        loaded = (
            build_network(model, weights, num_classes)
            if isinstance(model, str)
            else from_module(model, weights)
        )
        self.model, own_preprocessing, own_names = loaded
        self.name = model if isinstance(model, str) else type(model).__name__
        self.weights = str(weights) if weights is not None else "as given"
        self.preprocessing: Preprocessing = preprocessing or own_preprocessing
        self.model.requires_grad_(False)
        super().train(False)
        self.num_classes = self._count_classes()
        if len(own_names) != self.num_classes:
            own_names = []  # the network's usual names, but another number of classes was asked for
        self.class_names = _class_names(class_names or own_names, self.num_classes)

    def train(self, mode: bool = True) -> FrozenClassifier:
        """Frozen means frozen: stays in eval mode whatever is asked."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> FrozenClassifier:
        """Frozen means frozen: parameters never require gradients."""
        return super().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to logits (B, K)."""
        return self.model(images)

    @property
    def device(self) -> torch.device:
        """Where the classifier's parameters are."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def images(self, pictures: Tensor) -> Tensor:
        """Pictures, uint8 (B, 3, H, W), to the classifier's images on its device."""
        return self.preprocessing.normalize(pictures.to(self.device, non_blocking=True))

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What this classifier is: model, weights, and a hash over every parameter."""
        return {
            "model": self.name,
            "weights": Path(self.weights).name,
            "sha256": fingerprint(self.model),
        }

    def check_identity(self, other: dict[str, Any], what: str) -> None:
        """Refuse something that belongs to another classifier.

        Raises:
            InputError: ``what`` was made with a classifier whose parameters differ from this one's.
        """
        if other.get("sha256") != self.identity["sha256"]:
            raise InputError(
                f"{what} was made with {other.get('model')} ({other.get('weights')}, sha256 {str(other.get('sha256'))[:12]}), "
                f"but the classifier is {self.name} ({self.identity['weights']}, sha256 {self.identity['sha256'][:12]}); "
                "load the classifier that it was made with, or make it again"
            )

    def __getstate__(self) -> dict[str, Any]:
        # The traced graph holds a tracer, which cannot be pickled; it is made again where it is
        # needed.
        return {
            k: v
            for k, v in self.__dict__.items()
            if k not in ("_traced", "cuttable", "_splits", "_folded", "_tapped")
        }

    @functools.cached_property
    def _splits(self) -> dict[tuple[str, ...], Split]:
        return {}

    @functools.cached_property
    def _traced(self) -> TracedNetwork | Exception:
        try:
            return TracedNetwork(self.model, self.name)
        except Exception as error:
            return error

    @functools.cached_property
    def cuttable(self) -> TracedNetwork | HookedNetwork:
        """The network as something that can be cut behind a layer: traced, or with hooks where it
        cannot be.
        """
        if isinstance(self._traced, TracedNetwork):
            return self._traced
        reason = (
            str(self._traced).splitlines()[0] if str(self._traced) else type(self._traced).__name__
        )
        logger.warning(
            "%s cannot be traced (%s); cutting it with hooks instead, which runs the whole network each time",
            self.name,
            reason,
        )
        return HookedNetwork(self.model, self.name)

    def folded(self) -> Callable[[Tensor], Tensor]:
        """The same function, images to logits, made fast for many passes: equal to this module to
        float rounding.

        Batch norms are folded into copies of the convolutions, images come in the memory format of
        the weights, and on the CPU weights are kept in the order in which convolutions read them
        (:mod:`lit_iba.classifier.packing`). Networks that cannot be traced, and such as have
        forward hooks, are run as they are.
        """
        if any(
            m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self.modules()
        ):
            return self
        tensors = [*self.parameters(), *self.buffers()]
        # Weights that were moved, or changed in place, are to be folded anew.
        state = [
            (t.data_ptr(), t.device, t.dtype, 0 if t.is_inference() else t._version)
            for t in tensors
        ]
        known = self.__dict__.get("_folded")
        if known is None or known[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                known = self.__dict__["_folded"] = state, self._fold()
        return known[1]

    def _fold(self) -> Callable[[Tensor], Tensor]:
        network: nn.Module = self.model
        if any(isinstance(m, nn.Conv2d) for m in self.modules()) and isinstance(
            self._traced, TracedNetwork
        ):
            network = made_fast(self._traced.whole())
        channels_last = any(
            p.ndim == 4
            and p.is_contiguous(memory_format=torch.channels_last)
            and not p.is_contiguous()
            for p in self.parameters()
        )
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return lambda images: network(images.contiguous(memory_format=layout))

    def folded_with_taps(
        self, layers: Iterable[str]
    ) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        """Images to logits and a dict of the named layers' outputs: :meth:`folded`, whose one pass
        also gives these.

        Raises:
            InputError: No such layer; the nearest names are listed.
        """
        names, folded, known = tuple(layers), self.folded(), self.__dict__.get("_tapped")
        if known is None or known[0] is not folded or known[1] != names:
            network = self.cuttable.logits_and_taps(names)
            if folded is not self and isinstance(network, fx.GraphModule):
                network = made_fast(network)
            known = self.__dict__["_tapped"] = folded, names, network
        return known[2]

    def layers(self) -> list[str]:
        """Names of all the layers that can be cut or tapped, in order of execution."""
        return self.cuttable.layers()

    def split(self, layer: str, taps: Iterable[str] = ()) -> Split:
        """Cut behind a layer.

        Args:
            layer: Name of a layer; a block's name means its output.
            taps: Further layers that ``Split.observe`` returns from the same pass.

        Returns:
            ``head(images) -> (R, carried)`` and ``tail(R, carried) -> logits``.

        Raises:
            InputError: No such layer; the nearest names are listed.
        """
        key = (layer, *taps)
        if key not in self._splits:
            self._splits[key] = self.cuttable.split(layer, key[1:])
        return self._splits[key]

    def taps(self, layers: Iterable[str]) -> Any:
        """A function from images to a dict of the named layers' outputs, computed in one pass up to
        the last of them.
        """
        return self.cuttable.taps(list(layers))

    @torch.no_grad()
    def feature_shape(self, layer: str, image_size: tuple[int, int] | None = None) -> torch.Size:
        """Shape of a layer's output for one image, without the batch dimension; image size (H, W)
        in pixels.
        """
        size = image_size or (self.preprocessing.crop, self.preprocessing.crop)
        return self.split(layer).head(torch.zeros(2, 3, *size, device=self.device))[0].shape[1:]

    def layout(self, layer: str, image_size: tuple[int, int] | None = None) -> Layout:
        """Where positions and channels of a layer's output are."""
        size = image_size or (self.preprocessing.crop, self.preprocessing.crop)
        return Layout.of(torch.Size([2, *self.feature_shape(layer, size)]), size)

    @torch.no_grad()
    def _count_classes(self) -> int:
        size = self.preprocessing.crop
        logits = self.model(torch.zeros(2, 3, size, size, device=self.device))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"{self.name} must map images (B, 3, H, W) to logits (B, K), but gives {shape}; wrap it"
            )
        return logits.shape[1]


def _class_names(names: Sequence[str], num_classes: int) -> list[str]:
    if names and len(names) != num_classes:
        raise InputError(
            f"{len(names)} class names were given for {num_classes} classes; give one a class"
        )
    return list(names) if names else [str(i) for i in range(num_classes)]
