"""The classifier under explanation: loaded by name or file, frozen for good, and cut where an
explainer needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from lit_iba.classifier.frozen_network import FrozenNetwork
from lit_iba.classifier.fusing import made_fast
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.classifier.layout import Layout
from lit_iba.classifier.networks import build_network, from_module, named_classes
from lit_iba.classifier.outputs import Output, giving
from lit_iba.classifier.own_copy import floating_parameter, only_itself, unwrapped
from lit_iba.classifier.plain import hooks_of
from lit_iba.classifier.positions import Axes, find_axes
from lit_iba.classifier.preprocessing import Preprocessing, fitting
from lit_iba.classifier.proof import probe_images, proven, same_logits, takes_channels_last
from lit_iba.classifier.split import Split, differentiable
from lit_iba.classifier.traced import TracedNetwork
from lit_iba.classifier.tracing import lost_hook
from lit_iba.errors import InputError
from lit_iba.objectives import Objective, build_objective

logger = logging.getLogger(__name__)


class FrozenClassifier(FrozenNetwork):
    """A classifier that never changes: no gradients for its parameters, always in eval mode.

    Args:
        model: A torchvision name (``"resnet50"``), a timm name when timm is installed,
            ``"small_cnn"``, ``"resnet8"``, a function of your own as ``"package.module:function"``,
            or a module, which stays as it is: a copy is frozen that shares the memory of its
            tensors. Either maps images (B, C, H, W) to logits (B, K), or what ``objective`` says.
        weights: Member of torchvision's weights enum (``"IMAGENET1K_V2"``, ``"DEFAULT"``), a local
            ``.pth``, ``.safetensors`` or ``.safetensors.xz`` file, or ``"random"`` (the same random
            weights every time). For a module: None keeps its weights as they are.
        num_classes: Number of classes, where it is not the architecture's usual one.
        preprocessing: How photographs become images; by default that of the weights, with the
            channels of the first convolution.
        class_names: Names of the classes; by default those of the weights.
        layouts: Where positions and channels are, by layer, where they cannot be found: a kind such
            as ``"BHWC"``, or a :class:`Layout` for images of the classifier's own size.
        objective: What is asked of the outputs: a name such as ``"multilabel"``, ``{"name": ...}``
            with settings, or an :class:`~lit_iba.objectives.Objective`; see docs/objectives.md.
        output: Which of several outputs is explained: the key of a dict, the name of an attribute,
            or the place in a tuple.

    Attributes:
        lock: Held by an explainer while it works, so that threads can share both.
        num_classes: How many classes a target can name; 0 where targets name none.
        output_shape: Of what it gives for one image, (K,) for logits.

    Raises:
        InputError: Unknown name, weights that do not fit, or weights that cannot be had without the
            network; or a network that breaks the contract of docs/contract.md.

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
        layouts: Mapping[str, str | Layout] | None = None,
        objective: str | Mapping[str, Any] | Objective = "classification",
        output: Output | None = None,
    ) -> None:
        if isinstance(preprocessing, dict):
            preprocessing = Preprocessing.from_dict(preprocessing)
        asked = build_objective(objective)
        given = None if isinstance(model, str) else unwrapped(model)
        # What is made in inference mode cannot be differentiated through.
        with torch.inference_mode(False):
            loaded = (
                build_network(str(model), weights, num_classes)
                if given is None
                else from_module(given, weights)
            )
        network, usual, own_names = loaded
        # A scripted module says what it was scripted from.
        kind = getattr(given, "original_name", type(given).__name__)
        super().__init__(
            network if output is None else giving(network, output),
            name=model if isinstance(model, str) else str(kind),
            weights=str(weights) if weights is not None else "as given",
            original=given if weights is None else None,
        )
        self.objective, self.output = asked, output
        plain = isinstance(objective, str | dict)
        self._given_objective = objective if plain else None
        self.preprocessing: Preprocessing = fitting(preprocessing or usual, self.model)
        self.stated_layouts = dict(layouts or {})
        self._axes: dict[str, Axes | InputError] = {}
        with only_itself(self.model, given, self.name):
            proof = proven(
                self.model, self.name, self.preprocessing.size, self.channels, self.objective
            )
            ours = given is None and ":" not in str(model)
            self._any_order = ours or takes_channels_last(self.model, self._probe(), proof.logits)
        self._derived[1]["probe"] = proof.logits
        self._overwrites = proof.overwrites
        self.num_classes, self.output_shape = proof.classes, proof.logits.shape[1:]
        if len(own_names) != self.num_classes:
            own_names = []  # the network's usual names, but another number of classes was asked for
        self.class_names = named_classes(class_names or own_names, self.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), normalised, to logits (B, K), or whatever the network gives.

        Raises:
            InputError: A gradient of the images is wanted, but none reaches the logits.
        """
        self._watch.version()  # takes over what the user's module has got
        given = images if self._any_order else images.contiguous()
        given = given.clone() if self._overwrites else given
        return differentiable(self.model(given), images, self.name)

    @property
    def dtype(self) -> torch.dtype:
        """What the classifier computes in: that of its images."""
        return floating_parameter(self.model).dtype

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return self.preprocessing.channels

    def targets(self, images: Tensor, target: Any = None) -> Tensor:
        """What is asked about each image, as its objective understands it.

        Args:
            images: Normalised images (B, C, H, W).
            target: Of every image, or one for all; None for what the network says itself.

        Returns:
            (B, ...), for classification int64 (B,), on the images' device.

        Raises:
            InputError: The objective has no such target.
        """

        def outputs() -> Tensor:
            with torch.no_grad():
                return self(images)

        if target is None:
            return self.objective.predicted(outputs())
        found = self.objective.check_targets(target, len(images), self.num_classes, outputs)
        return found.to(images.device)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked of the network, as plain values, where that is not the usual."""
        asked: dict[str, Any] = {} if self.output is None else {"output": self.output}
        if self.objective.record != {"name": "classification"}:
            asked["objective"] = self.objective.record
        return asked

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that :attr:`asked` follows from; an objective that is no name is None."""
        given: dict[str, Any] = {} if self.output is None else {"output": self.output}
        return given | ({"objective": self._given_objective} if "objective" in self.asked else {})

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values that make such a classifier again, ``FrozenClassifier(**arguments)``, where
        it was made of a name and weights that are still there.
        """
        return {
            "model": self.name,
            "weights": self.weights,
            # A function of the user's own need not take it.
            "num_classes": None if ":" in self.name else self.num_classes or None,
            "preprocessing": self.preprocessing.to_dict(),
            "class_names": list(self.class_names) or None,
            **self.given,
        }

    def images(self, pictures: Tensor) -> Tensor:
        """Pictures, uint8 (B, C, H, W), to the classifier's images on its device."""
        images = self.preprocessing.normalize(pictures.to(self.device, non_blocking=True))
        return images.to(self.dtype)

    def in_fast_order(self, images: Tensor) -> Tensor:
        """Images with their channels side by side in memory, if the network takes them so."""
        layout = torch.channels_last if self._any_order else torch.contiguous_format
        return images.contiguous(memory_format=layout)

    def empty_images(self, count: int = 2, size: tuple[int, int] | None = None) -> Tensor:
        """Zeros (count, C, H, W), by default of the network's own size, to learn shapes from."""
        shape = (count, self.channels, *(size or self.preprocessing.size))
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def _probe(self) -> Tensor:
        return probe_images(self.preprocessing.size, floating_parameter(self.model), self.channels)

    def _probe_logits(self) -> Tensor:
        return self.of_weights("probe", lambda: self.model(self._probe()))

    def _trace(self) -> TracedNetwork | Exception:
        try:
            if (lost := lost_hook(self.model)) is not None:
                raise InputError(f"{lost!r} has a backward hook, which a graph does not keep")
            network = TracedNetwork(self.model, self.name, self._overwrites)
            if not same_logits(network.whole()(self._probe()), self._probe_logits()):
                raise InputError("its graph computes something else")
            return network
        except Exception as error:
            return error

    @property
    def _traced(self) -> TracedNetwork | Exception:
        return self.of_weights("traced", self._trace)

    @property
    def cuttable(self) -> TracedNetwork | HookedNetwork:
        """The network as something that can be cut behind a layer: traced, or with hooks where it
        cannot be.
        """
        traced = self._traced
        if isinstance(traced, TracedNetwork):
            return traced
        if not self._warned:
            self._warned = True
            reason = str(traced).splitlines()[0] if str(traced) else type(traced).__name__
            logger.warning(
                "%s cannot be traced (%s); cutting it with hooks instead, which runs the whole "
                "network each time",
                self.name,
                reason,
            )
        return self.of_weights("hooked", self._hooked)

    def _hooked(self) -> HookedNetwork:
        return HookedNetwork(
            self.model, self.name, self._probe(), self._overwrites, self._any_order
        )

    def folded(self) -> Callable[[Tensor], Tensor]:
        """The same function, images to logits, made fast for many passes: equal to this module to
        float rounding.

        Batch norms are folded into copies of the convolutions, images come in the memory format of
        the weights, and weights are kept as they are read: in the precision of the arithmetic, and
        on the CPU in the processor's order (:mod:`lit_iba.classifier.packing`). Networks that
        cannot be traced, and such as have hooks, are run as they are.
        """
        if hooks_of(self.modules()):
            return self
        return self.of_weights("folded", self._fold)

    def _fold(self) -> Callable[[Tensor], Tensor]:
        traced = self._traced
        if not any(isinstance(m, nn.Conv2d | nn.Linear) for m in self.modules()) or not isinstance(
            traced, TracedNetwork
        ):
            return self
        network, name = made_fast(traced.whole()), self.name
        weights = [p for p in self.parameters() if p.ndim == 4]
        channels_last = any(
            p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
            for p in weights
        )
        # On a CPU weights are packed for that order, whichever they have.
        packed = self._any_order and self.device.type == "cpu"
        layout = torch.channels_last if channels_last or packed else torch.contiguous_format
        return lambda images: differentiable(
            network(images.contiguous(memory_format=layout)), images, name
        )

    def folded_with_taps(
        self, layers: Iterable[str]
    ) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        """Images to logits and a dict of the named layers' outputs: :meth:`folded`, whose one pass
        also gives these.

        Raises:
            InputError: No such layer; the nearest names are listed.
        """
        names, fast = tuple(layers), self.folded() is not self

        def made() -> Any:
            network = self.cuttable.logits_and_taps(names)
            return made_fast(network) if fast and isinstance(network, fx.GraphModule) else network

        return self.of_weights(("tapped", fast, names), made)

    def layers(self) -> list[str]:
        """Names of all the layers that can be cut or tapped, in order of execution."""
        return self.cuttable.layers()

    def split(self, layer: str, taps: Iterable[str] = ()) -> Split:
        """Cut behind a layer. Every cut is tried once on two images.

        Args:
            layer: Name of a layer; a block's name means its output.
            taps: Further layers that ``Split.observe`` returns from the same pass.

        Returns:
            ``head(images) -> (R, carried)`` and ``tail(R, carried) -> logits``, which follow the
            weights.

        Raises:
            InputError: No such layer, of which the nearest names are listed; or its output is no
                tensor that the logits can be computed from.
        """
        key = (layer, *taps)
        if key not in self._splits:
            with self.undisturbed(), torch.no_grad():
                split = self.cuttable.split(layer, key[1:])
                split.prove(self._probe(), self._probe_logits(), self.name)
                split.follow(self, key[1:])
                self._splits[key] = split
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
        return self.split(layer).head(self.empty_images(2, image_size))[0].shape[1:]

    def layout(self, layer: str, image_size: tuple[int, int] | None = None) -> Layout:
        """Where positions and channels of a layer's output are.

        Raises:
            InputError: They cannot be told from what the network does; state them with the argument
                ``layouts``.
        """
        shape = torch.Size([2, *self.feature_shape(layer, image_size)])
        return self.layout_of(layer, shape, image_size or self.preprocessing.size)

    def layout_of(
        self, layer: str | fx.Node, shape: torch.Size, image_size: tuple[int, int]
    ) -> Layout:
        """Layout of a layer's output of this shape (batch included), for images of this (H, W)."""
        name = layer if isinstance(layer, str) else f"node {layer.name}"
        if name not in self._axes:
            with self.undisturbed(), torch.no_grad():
                known = [axes for axes in self._axes.values() if isinstance(axes, Axes)]
                stated, image = self.stated_layouts.get(name), self._probe()[:1]
                try:
                    self._axes[name] = find_axes(
                        self.cuttable,
                        layer,
                        shape,
                        image,
                        shape_of=image_size,
                        stated=stated,
                        known=known,
                    )
                except InputError as error:
                    self._axes[name] = error
        found = self._axes[name]
        if isinstance(found, InputError):
            raise found
        return found.layout(shape, image_size)

    def layouts_of(
        self, taps: Mapping[str, Tensor], image_size: tuple[int, int]
    ) -> dict[str, Layout]:
        """The layout of every tap, by the name of its layer, for images of this (H, W)."""
        return {name: self.layout_of(name, tap.shape, image_size) for name, tap in taps.items()}
