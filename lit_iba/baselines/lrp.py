"""Layer-wise relevance propagation (Bach et al., PLOS ONE 2015), on networks with skip connections
too.

Relevance starts as the target's logit and is shared out, step by step, in proportion to what each
input contributed. With the alpha-beta rule, additions and averages (which have no weights of both
signs) share by their inputs' positive parts; a max pooling gives all to the winner; ReLUs, limits
and multiples pass on what arrives. IBA's comparison had no rule for additions, and left LRP out on
ResNet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_iba.baselines.canonical import canonical
from lit_iba.baselines.propagation import (
    MAX_POOLINGS,
    MEANS,
    WEIGHTED,
    ForwardPass,
    Rule,
    Step,
    quotient,
    score_start,
    to_positions,
    transpose,
    weighted_sum,
    weighted_transpose,
    winners,
)
from lit_iba.baselines.steps import Add, Affine, Ceiling
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, completeness_error
from lit_iba.objectives import Objective


def alpha_beta_shares(
    module: nn.Module, x: Tensor, r: Tensor, alpha: float, beta: float, epsilon: float
) -> Tensor:
    """The alpha-beta rule of a convolution or linear layer.

    R_i = sum_j (alpha z+_ij / z+_j - beta z-_ij / z-_j) R_j, where z+_j sums the positive
    contributions (x+ w+ and x- w-, so that inputs may have either sign), z-_j the negative ones,
    and epsilon is added to the size of both. Biases take no share. A neuron with contributions of
    one sign only gives all to that sign, unless its weight (alpha or beta) is zero.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)  # for the type checker: module is one of WEIGHTED
    up, down = weight.clamp_min(0), weight.clamp_max(0)
    # Which weights make which inputs count for the neuron, and which against it.
    pairs = {"for": [(x, up)], "against": [(x, down)]}
    if bool((x < 0).any()):
        high, low = x.clamp_min(0), x.clamp_max(0)
        pairs = {"for": [(high, up), (low, down)], "against": [(high, down), (low, up)]}

    def summed(sign: str) -> Tensor:
        return _total(weighted_sum(module, part, w) for part, w in pairs[sign])

    def shares(sign: str, z: Tensor, relevance: Tensor) -> Tensor:
        s = quotient(relevance, z, epsilon)
        return _total(part * weighted_transpose(module, x, s, w) for part, w in pairs[sign])

    if not alpha or not beta:  # then beta is -1 or alpha is 1
        sign = "for" if alpha else "against"
        return shares(sign, summed(sign), r)
    z_for, z_against = summed("for"), summed("against")
    r_for, r_against = (
        torch.where(z_against == 0, r, alpha * r),
        torch.where(z_for == 0, r, -beta * r),
    )
    return shares("for", z_for, r_for) + shares("against", z_against, r_against)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def epsilon_shares(step: Step, r: Tensor, epsilon: float) -> tuple[Tensor, ...]:
    """The epsilon rule of a linear step: R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j, z_j the
    output with its bias.
    """
    back = transpose(step.module, step.inputs, quotient(r, step.output, epsilon))
    return tuple(x * received for x, received in zip(step.inputs, back, strict=True))


def step_without_weights(step: Step, r: Tensor) -> tuple[Tensor, ...]:
    """How the alpha-beta rule goes on through the other steps; see the head of this file."""
    if isinstance(step.module, Add):
        first, second = (x.clamp_min(0) for x in step.inputs)
        s = quotient(r, first + second)
        return first * s, second * s
    x, *_ = step.inputs
    if isinstance(step.module, MEANS):
        positive = x.clamp_min(0)
        return (positive * transpose(step.module, (x,), quotient(r, step.module(positive)))[0],)
    if isinstance(step.module, MAX_POOLINGS):
        return (to_positions(r, winners(step.module, x)[1], x.shape),)
    if isinstance(step.module, nn.ReLU | Ceiling | Affine):
        return (r,)
    return transpose(step.module, step.inputs, r)


class LRP(Explainer):
    """The alpha-beta rule in every convolution and linear layer; relevance summed over channels,
    signed.

    Starts from the target's logit. With epsilon 0 the total is that logit, except for what reaches
    a neuron without contributions to give it to: with alpha 1 and beta 0, one that is active by its
    bias alone, or a negative logit that nothing speaks for. ``completeness`` measures what is
    missing. An epsilon swallows relevance by design.

    Args:
        classifier: The network to explain.
        alpha: Weight of the positive contributions.
        beta: Weight of the negative ones; alpha - beta must be 1.
        epsilon: Added to the size of the contributions' sums, in the unit of the layers' outputs.
        seed: Unused; nothing here is random.

    Raises:
        InputError: A setting is out of range, or the network has an operation without a rule, which
            is named.
    """

    name: ClassVar[str] = "lrp"
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        epsilon: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_epsilon(epsilon)
        if not abs(alpha - beta - 1) < 1e-6:
            raise InputError(
                f"alpha is {alpha} and beta {beta}; alpha - beta must be 1, or relevance is not"
                " conserved"
            )
        self.alpha, self.beta, self.epsilon = alpha, beta, epsilon
        self.network = canonical(classifier)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Relevance of each pixel, (B, H, W), and how far its total is from the logit."""
        forward = ForwardPass(self.network.to(images), images)
        return propagated_relevance(self.classifier.objective, forward, targets, self._rule)

    def _rule(self, step: Step, r: Tensor) -> tuple[Tensor, ...]:
        if isinstance(step.module, WEIGHTED):
            return (
                alpha_beta_shares(
                    step.module, step.inputs[0], r, self.alpha, self.beta, self.epsilon
                ),
            )
        return step_without_weights(step, r)


class LRPAlpha1Beta0(LRP):
    """Only positive contributions count (alpha 1, beta 0).

    Example:
        >>> from lit_iba.baselines import LRPAlpha1Beta0
        >>> LRPAlpha1Beta0(classifier).attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "lrp_alpha1_beta0"
    label: ClassVar[str] = "LRP α1 β0"


class LRPAlpha0Beta1(LRP):
    """Only negative contributions count, stabilised by 5 (IBA: "alpha = 0, beta = 1, epsilon = 5";
    Bach's beta is -1).

    Example:
        >>> from lit_iba.baselines import LRPAlpha0Beta1
        >>> LRPAlpha0Beta1(classifier).attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "lrp_alpha0_beta1"
    label: ClassVar[str] = "LRP α0 β1"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        alpha: float = 0.0,
        beta: float = -1.0,
        epsilon: float = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, alpha=alpha, beta=beta, epsilon=epsilon, seed=seed)


class LRPEpsilon(Explainer):
    """The epsilon rule in every linear step, additions and averages included; relevance summed over
    channels, signed.

    Without biases and with epsilon 0 this is input x gradient. Biases take their share with them;
    ``completeness`` measures it.

    Args:
        classifier: The network to explain.
        epsilon: Added to the size of each output, in its unit.
        seed: Unused; nothing here is random.

    Raises:
        InputError: epsilon is negative, or the network has an operation without a rule, which is
            named.

    Example:
        >>> from lit_iba.baselines import LRPEpsilon
        >>> heatmap = LRPEpsilon(classifier).attribute(images, targets)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> heatmap.completeness.shape  # how far the relevance is from the logit
        torch.Size([2])
    """

    name: ClassVar[str] = "lrp_epsilon"
    label: ClassVar[str] = "LRP ε"
    signed = True

    def __init__(
        self, classifier: FrozenClassifier, *, epsilon: float = 1e-6, seed: int = 0
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_epsilon(epsilon)
        self.epsilon = epsilon
        self.network = canonical(classifier)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Relevance of each pixel, (B, H, W), and how far its total is from the logit."""
        forward = ForwardPass(self.network.to(images), images)
        return propagated_relevance(self.classifier.objective, forward, targets, self._rule)

    def _rule(self, step: Step, r: Tensor) -> tuple[Tensor, ...]:
        if isinstance(step.module, (*WEIGHTED, *MEANS, Add)):
            return epsilon_shares(step, r, self.epsilon)
        return step_without_weights(step, r)


def propagated_relevance(
    objective: Objective, forward: ForwardPass, targets: Tensor, rule: Rule
) -> Attribution:
    """Relevance of the target's logit after a pass back by ``rule``, summed over channels."""
    start = score_start(objective, forward.logits, targets)
    values = forward.back(start, rule).sum(dim=1)
    return Attribution(
        values,
        completeness=completeness_error(
            values.sum(dim=(1, 2)), start.view(len(start), -1).sum(dim=1)
        ),
    )


def check_epsilon(epsilon: float) -> None:
    """Refuse an epsilon that is negative or no number."""
    if not epsilon >= 0:
        raise InputError(f"epsilon is {epsilon}; it stabilises a division, give 0 or more")
