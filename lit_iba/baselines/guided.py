"""Guided backpropagation (Springenberg et al. 2015), and its product with Grad-CAM (Selvaraju et
al. 2017).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_iba.baselines.class_activation import GradCAM
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer

# Arguments of what is a ReLU, or one with a limit: nn.ReLU6 calls hardtanh.
ARGUMENTS = {
    "relu": ("input", "inplace"),
    "relu6": ("input", "inplace"),
    "hardtanh": ("input", "min_val", "max_val", "inplace"),
}
# In a graph of autograd: steps that hide what was computed in them.
HIDING = ("DifferentiableGraph", "CompiledFunction", "CheckpointFunction")


class GuidedReLU(torch.autograd.Function):
    """min(max(x, 0), limit), which passes back what is positive, where it passed x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float, inplace: bool) -> Tensor:
        """Elementwise."""
        ctx.limit = limit
        if inplace:
            ctx.mark_dirty(x)
        if limit == math.inf:
            y = x.relu_() if inplace else x.relu()
            ctx.save_for_backward(y)
            return y
        ctx.save_for_backward(x.clone() if inplace else x)
        return x.clamp_(0, limit) if inplace else x.clamp(0, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """What is positive, where x was passed."""
        (kept,), (gradient,) = ctx.saved_tensors, gradients
        if ctx.limit == math.inf:
            return torch.ops.aten.threshold_backward(gradient, kept, 0).relu_(), None, None
        passed = torch.ops.aten.hardtanh_backward(gradient, kept, 0, ctx.limit)
        return passed.relu_(), None, None


class GuidedReLUs(TorchFunctionMode):
    """Inside, every ReLU and ReLU6 is a :class:`GuidedReLU`, whichever module or function it is
    called by; values are as outside.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").split(".")[0]  # torch.ops.aten.relu.default
        plain = name.removesuffix("_")
        if plain not in ARGUMENTS:
            return func(*args, **kwargs)
        given = dict(zip(ARGUMENTS[plain], args, strict=False)) | kwargs
        limit = {"relu": math.inf, "relu6": 6.0}.get(plain, given.get("max_val", 1.0))
        if plain == "hardtanh" and given.get("min_val", -1.0) != 0:
            return func(*args, **kwargs)
        x = given["input"] if "input" in given else given["self"]
        if not given.get("inplace", False) and name == plain:
            return GuidedReLU.apply(x, limit, False)
        if x._is_view():  # of which autograd lets no function of Python write into every kind
            return x.copy_(GuidedReLU.apply(x.clone(), limit, False))
        return GuidedReLU.apply(x, limit, True)


class GuidedBackprop(Explainer):
    """Gradient of the target's logit in which every ReLU also stops what is negative; largest
    absolute value over channels.

    The reduction is that of IBA's evaluation code. A ReLU6 is a ReLU, and a clamp is none.

    Args:
        classifier: The network to explain.
        seed: Unused; nothing here is random.

    Raises:
        InputError: The network has no ReLU on the way to its outputs, or scripted or compiled parts
            that hide theirs.

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
        with torch.inference_mode(False), torch.enable_grad(), GuidedReLUs():
            self._outputs(classifier.empty_images().requires_grad_())

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Maximum over channels of the guided gradient's absolute value."""
        x, objective = images.detach().clone().requires_grad_(), self.classifier.objective
        with torch.enable_grad():
            with GuidedReLUs():
                outputs = self._outputs(x)
            (gradient,) = torch.autograd.grad(objective.score(outputs, targets).sum(), x)
        return Attribution(gradient.abs().amax(dim=1))

    def _outputs(self, images: Tensor) -> Tensor:
        """The network's outputs, with the certainty that every ReLU on the way was guided."""
        outputs: Tensor = self.classifier(images)
        name, steps = self.classifier.name, _steps(outputs)
        if any(_is_relu(step) or any(h in step.name() for h in HIDING) for step in steps):
            raise InputError(
                f"{name} has scripted, compiled or checkpointed parts, in which guided "
                "backpropagation cannot change the gradient of ReLUs; give it as plain modules"
            )
        if not any(step.name() == "GuidedReLUBackward" for step in steps):
            raise InputError(
                f"guided backpropagation changes the gradient of ReLUs, of which {name} has none"
            )
        return outputs


def _steps(outputs: Tensor) -> set[Any]:
    """What autograd has recorded on the way to the outputs."""
    steps: set[Any] = set()
    pending: list[Any] = [outputs.grad_fn]
    while pending:
        step = pending.pop()
        if step is not None and step not in steps:
            steps.add(step)
            pending += [source for source, _ in step.next_functions]
    return steps


def _is_relu(step: Any) -> bool:
    """Whether a step is a ReLU that was not guided."""
    if step.name().startswith("HardtanhBackward"):
        return bool(step._saved_min_val == 0)
    return bool(step.name().startswith("ReluBackward"))


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
