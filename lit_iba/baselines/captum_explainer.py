"""Any attribution method of Captum under our interface, so that it stands in the same tables.

Captum computes, unchanged; here its settings are passed on, its channels are reduced by a named
rule, layer attributions are resized to the image, and what is random is drawn from the sample's own
generator. That a method runs does not make it right
on every network: Captum's LRP and DeepLIFT are not on residual ones (use the registered names).
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar

import captum.attr
import torch
import torch.nn.functional as F
from captum.attr import Attribution as CaptumAttribution
from torch import Tensor, nn

from lit_iba.baselines.gradient import Channels, Scored, keeps_sign, over_channels
from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError, unknown_name
from lit_iba.explainer import Attribution, Explainer
from lit_iba.objectives import Classification
from lit_iba.registry import class_named

# Methods that draw no random numbers may run on a batch; all others run one image at a time, each
# with its own numbers.
DETERMINISTIC = {
    "IntegratedGradients",
    "Saliency",
    "InputXGradient",
    "Deconvolution",
    "GuidedBackprop",
    "GuidedGradCam",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "Occlusion",
    "LRP",
    "LayerGradCam",
    "LayerActivation",
    "LayerConductance",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LayerDeepLift",
    "InternalInfluence",
    "LayerLRP",
}
OF_DISTRIBUTIONS = (captum.attr.GradientShap, captum.attr.DeepLiftShap)
OURS = {
    "inputs",
    "target",
    "additional_forward_args",
    "return_convergence_delta",
    "self",
    "device_ids",
    "layer",
}


class CaptumExplainer(Explainer):
    """One of Captum's attribution methods.

    Args:
        classifier: The network to explain.
        method: Name in ``captum.attr`` (``"IntegratedGradients"``,
            ``"captum.attr.IntegratedGradients"``), or the class path of an own subclass of
            ``captum.attr.Attribution``.
        channels: How the attribution's channels become one value per pixel: ``"sum"``, ``"mean"``
            (both signed), ``"sum_abs"`` or ``"max_abs"``.
        layer: Module of the classifier, for the methods that need one.
        forward_batch_size: Images per forward pass, for the methods that take
            ``internal_batch_size`` or ``perturbations_per_eval`` and were not given it.
        seed: Together with the sample's key, seeds the methods that are random.
        settings: Whatever else the method's constructor or its ``attribute`` takes, such as
            ``n_steps``. Lists become tuples, and a number as ``baselines`` of a method that wants a
            distribution becomes images of that value.

    Raises:
        InputError: No such method, layer or setting, or a missing one.

    Example:
        >>> from lit_iba.baselines import CaptumExplainer
        >>> explainer = CaptumExplainer(classifier, method="IntegratedGradients", n_steps=8)
        >>> explainer.attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "captum"
    label: ClassVar[str] = "Captum"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        method: str,
        channels: Channels = "sum",
        layer: str | None = None,
        forward_batch_size: int = 16,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_counts(forward_batch_size=forward_batch_size)
        check_literals(CaptumExplainer.__init__, locals())
        path = method if "." in method else f"captum.attr.{method}"
        self.method = class_named(path, "Captum method", {}, CaptumAttribution)
        self.channels, self.layer, self.forward_batch_size = channels, layer, forward_batch_size
        self.signed = keeps_sign(channels)
        _, network, *rest = inspect.signature(self.method.__init__).parameters.items()
        # Methods that hook or rewrite the network call it "model" and not "forward_func".
        self.changes_network = network[0] == "model"
        self.of_constructor = dict(rest)
        self.of_attribute = dict(inspect.signature(self.method.attribute).parameters)
        self.settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        self._check_settings()

    def _check_settings(self) -> None:
        name = self.method.__name__
        known = (set(self.of_constructor) | set(self.of_attribute)) - OURS - {"kwargs"}
        for setting in self.settings:
            if setting not in known:
                raise unknown_name(f"setting of Captum's {name}", setting, sorted(known))
        needed = [
            k for k, p in self.of_constructor.items() if p.default is p.empty and k not in OURS
        ]
        needed += [
            k
            for k, p in self.of_attribute.items()
            if p.default is p.empty and p.kind != p.VAR_KEYWORD and k not in OURS
        ]
        missing = [setting for setting in needed if setting not in self.settings]
        if missing:
            raise InputError(
                f"Captum's {name} needs the setting {missing[0]!r}; give it beside 'method'"
            )
        if ("layer" in self.of_constructor) != (self.layer is not None):
            needs = (
                "needs a layer; name a module of"
                if self.layer is None
                else f"takes no layer ({self.layer!r});"
            )
            raise InputError(f"Captum's {name} {needs} {self.classifier.name}")
        modules = dict(self.classifier.model.named_modules())
        if self.layer is not None and self.layer not in modules:
            raise unknown_name(f"module of {self.classifier.name}", self.layer, modules)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Captum's attribution, (B, C, h, w), reduced over channels and resized to (B, H, W)."""
        if self.method.__name__ in DETERMINISTIC and self.method.__module__.startswith("captum."):
            values = self._attribute(images, targets)
        else:
            devices = [images.device] if images.device.type == "cuda" else []
            parts = []
            for i, generator in enumerate(generators):
                with torch.random.fork_rng(devices):
                    torch.manual_seed(
                        int(torch.randint(2**31, (), generator=generator, device=generator.device))
                    )
                    parts.append(self._attribute(images[i : i + 1], targets[i : i + 1]))
            values = torch.cat(parts)
        maps = over_channels(values, self.channels)
        if maps.shape[-2:] != images.shape[-2:]:
            maps = F.interpolate(
                maps[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False
            )[:, 0]
        return Attribution(maps.to(images.dtype))

    def _attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        # What a method changes, and what an error leaves behind, is in a copy.
        classifier = copy.deepcopy(self.classifier) if self.changes_network else self.classifier
        given = {k: v for k, v in self.settings.items() if k in self.of_constructor}
        if self.layer is not None:
            given["layer"] = dict(classifier.model.named_modules())[self.layer]
        call = {k: v for k, v in self.settings.items() if k not in self.of_constructor}
        sizes = {
            "internal_batch_size": max(self.forward_batch_size, len(images)),
            "perturbations_per_eval": max(1, self.forward_batch_size // len(images)),
        }
        call = {k: v for k, v in sizes.items() if k in self.of_attribute} | call
        level = call.get("baselines")
        if isinstance(level, int | float) and self.method in OF_DISTRIBUTIONS:
            call["baselines"] = images.new_full((2, *images.shape[1:]), level)
        network: nn.Module = classifier
        if "target" in self.of_attribute:
            if isinstance(classifier.objective, Classification):
                call["target"] = targets
            else:
                network = Scored(classifier, classifier.objective)
                call["additional_forward_args"] = targets
        try:
            values = self.method(network, **given).attribute(
                images.clone().requires_grad_(), **call
            )
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, TypeError) as error:
            raise InputError(
                f"Captum's {self.method.__name__} failed on {classifier.name}: {error}"
            ) from error
        if not isinstance(values, Tensor) or values.ndim != 4 or len(values) != len(images):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"Captum's {self.method.__name__} gave {shape} where (B, C, h, w) is needed; use"
                " another layer"
            )
        return values.detach()
