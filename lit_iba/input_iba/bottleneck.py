"""Information of the input bottleneck, given what a prior mask lets through already.

Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features with Predictive
Information" (NeurIPS 2021), remarks 1 and 2 and proposition 3. Pure functions; symbols: I the
input, Lambda (``keep``) its mask, lambda_G the prior's mask, of which only the complement
``prior_drop`` = 1 - lambda_G is needed.
"""

from __future__ import annotations

from torch import Tensor

from lit_iba.iba.bottleneck import NATS_PER_BIT, SMALLEST_KEEP, information_nats


def beyond_prior(keep: Tensor, drop: Tensor, prior_drop: Tensor) -> tuple[Tensor, Tensor]:
    """The mask of a plain bottleneck that carries the same information as Lambda does beyond the
    prior, and its complement.

    With D = 1 - lambda_G Lambda = drop + keep * prior_drop, every term of proposition 3 is a
    function of a = (Lambda - lambda_G Lambda) / D alone, for (1 - Lambda) / D = 1 - a; logit(a) =
    logit(Lambda) + ln(1 - lambda_G).
    """
    # What is subtracted from 1 nowhere keeps its digits; the floor makes 0 / 0 of Lambda = lambda_G
    # = 1 the limit of lambda_G -> 1 at any Lambda < 1: no information.
    drop = drop.clamp_min(SMALLEST_KEEP)
    passed = keep * prior_drop
    whole = drop + passed
    return passed / whole, drop / whole


def input_information_nats(r: Tensor, keep: Tensor, drop: Tensor, prior_drop: Tensor) -> Tensor:
    """KL[P(Z_I|I) || P(Z_I)] per element (proposition 3).

    P(Z_I|I) = N(Lambda I + (1 - Lambda) mu_I, (1 - Lambda)^2 sigma_I^2), and P(Z_I) the same with
    lambda_G Lambda for Lambda. Without a prior (lambda_G = 0) this is :func:`information_nats`. It
    is 0 where Lambda = 0 and where lambda_G = 1, and grows without bound as Lambda -> 1 at lambda_G
    < 1. At Lambda = lambda_G = 1 it has no limit (it depends on which of the two gets there first);
    here it is 0. 1 - Lambda below 1e-7 counts as 1e-7, so that values and gradients stay finite.

    Args:
        r: standardised input (I - mu_I) / sigma_I.
        keep: Lambda in [0, 1], broadcastable to ``r``.
        drop: 1 - Lambda.
        prior_drop: 1 - lambda_G in [0, 1], broadcastable to ``r``.

    Returns:
        Nats per element, >= 0, the shape of ``r``.
    """
    return information_nats(r, *beyond_prior(keep, drop, prior_drop))


def input_information_bits(r: Tensor, keep: Tensor, drop: Tensor, prior_drop: Tensor) -> Tensor:
    """:func:`input_information_nats` in bits."""
    return input_information_nats(r, keep, drop, prior_drop) / NATS_PER_BIT
