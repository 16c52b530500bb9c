"""Guided backpropagation (Springenberg et al. 2015), by Captum, and its product with Grad-CAM
(Selvaraju et al. 2017).
"""

from __future__ import annotations

import copy
import warnings
from typing import ClassVar

import torch
import torch.fx as fx
import torch.nn.functional as F
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from torch import Tensor, nn

from lit_iba.baselines.class_activation import GradCAM
from lit_iba.baselines.gradient import Scored
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.folding import graph_module
from lit_iba.classifier.traced import TracedNetwork
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer

REPLACED = "relu_module_"
GRADIENTS = ("ReluBackward", "HardtanhBackward")  # of a ReLU; of a ReLU6


class GuidedReLU6(nn.ReLU):
    """ReLU6 as a kind of ReLU, which is what Captum looks for."""

    def forward(self, x: Tensor) -> Tensor:
        """min(max(x, 0), 6)."""
        return F.relu6(x, self.inplace)


FUNCTIONS = {"relu": nn.ReLU, "relu_": nn.ReLU, "relu6": GuidedReLU6}


@torch.inference_mode(False)
def with_relu_modules(classifier: FrozenClassifier) -> nn.Module:
    """A copy in which every ReLU and ReLU6 is a module that Captum finds, calls of functions too.

    Raises:
        InputError: There is no ReLU, or one that can be neither seen nor replaced because the
            network cannot be traced.
    """
    modules, functions = _relu_counts(classifier)
    if not functions:
        network = copy.deepcopy(classifier.model)
    else:
        try:
            graph = TracedNetwork(classifier.model, classifier.name).graph
        except Exception as error:
            raise InputError(
                f"{classifier.name} calls ReLU as a function and cannot be traced ({error}); use "
                "nn.ReLU modules for guided backpropagation"
            ) from error
        network = _with_calls_replaced(copy.deepcopy(graph_module(classifier.model, graph)))
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.ReLU6:
            network.set_submodule(name, GuidedReLU6(module.inplace))
    calls = any(name.startswith(REPLACED) for name, _ in network.named_children())
    if not modules and not calls:
        raise InputError(
            f"guided backpropagation changes the gradient of ReLUs, of which {classifier.name} has "
            "none"
        )
    return network


def _with_calls_replaced(network: fx.GraphModule) -> fx.GraphModule:
    for node in network.graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_function", "call_method") and name in FUNCTIONS:
            inplace = name.endswith("_") or bool(node.kwargs.get("inplace"))
            replaced = f"{REPLACED}{node.name}"
            network.add_submodule(replaced, FUNCTIONS[name](inplace))
            node.op, node.target, node.args, node.kwargs = (
                "call_module",
                replaced,
                node.all_input_nodes[:1],
                {},
            )
    network.recompile()
    return network


def _relu_counts(classifier: FrozenClassifier) -> tuple[int, int]:
    """How many ReLUs and ReLU6 one forward pass runs as modules, and how many calls of functions
    have such a gradient.
    """
    network = copy.deepcopy(classifier.model)
    run: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.Hardtanh):  # ReLU6 is one of the latter
            module.register_forward_hook(lambda module, *_: run.append(module))
    with torch.enable_grad():
        logits = network(classifier.empty_images().requires_grad_().clone())
    seen, pending = set(), [logits.grad_fn]
    while pending:
        function = pending.pop()
        if function is not None and function not in seen:
            seen.add(function)
            pending += [source for source, _ in function.next_functions]
    modules = sum(isinstance(module, nn.ReLU | nn.ReLU6) for module in run)
    return modules, sum(f.name().startswith(GRADIENTS) for f in seen) - len(run)


class GuidedBackprop(Explainer):
    """Gradient of the target's logit in which every ReLU also stops what is negative; largest
    absolute value over channels.

    The reduction is that of IBA's evaluation code.

    Args:
        classifier: The network to explain.
        seed: Unused; nothing here is random.

    Raises:
        InputError: The network has no ReLU, or ReLUs that cannot be changed.

    Example:
        >>> from lit_iba.baselines import GuidedBackprop
        >>> heatmap = GuidedBackprop(classifier).attribute(images, targets)
        >>> heatmap.values.shape, heatmap.signed
        (torch.Size([2, 64, 64]), False)
    """

    name: ClassVar[str] = "guided_backprop"
    label: ClassVar[str] = "Guided backprop"

    def __init__(self, classifier: FrozenClassifier, *, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        self.network = with_relu_modules(classifier)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Maximum over channels of the guided gradient's absolute value."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Setting backward hooks on ReLU activations"
            )  # on our copy, and removed
            method = CaptumGuidedBackprop(
                Scored(self.network.to(images), self.classifier.objective)
            )
            gradient = method.attribute(
                images.clone().requires_grad_(), additional_forward_args=targets
            )
        return Attribution(gradient.abs().amax(dim=1))


class GuidedGradCAM(Explainer):
    """Grad-CAM, resized bilinearly, times guided backpropagation.

    Args:
        classifier: The network to explain.
        layer: As for Grad-CAM.
        seed: Unused; nothing here is random.

    Raises:
        InputError: As for Grad-CAM and for guided backpropagation.

    Example:
        >>> from lit_iba.baselines import GuidedGradCAM
        >>> heatmap = GuidedGradCAM(classifier, layer="layer2").attribute(images, targets)
        >>> heatmap.values.shape, heatmap.signed
        (torch.Size([2, 64, 64]), False)
    """

    name: ClassVar[str] = "guided_grad_cam"
    label: ClassVar[str] = "Guided Grad-CAM"

    def __init__(
        self, classifier: FrozenClassifier, *, layer: str | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, seed=seed)
        self.grad_cam = GradCAM(classifier, layer=layer)
        self.guided = GuidedBackprop(classifier)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """The product at each pixel; Grad-CAM is never negative, so the reduction over channels
        commutes with it.
        """
        maps = [
            method.explain(images, targets, generators).values
            for method in (self.grad_cam, self.guided)
        ]
        return Attribution(maps[0] * maps[1])
