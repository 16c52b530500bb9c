"""Where LRP's alpha-1-beta-0 rule loses relevance: the share of the logit, by kind of step.

python benchmarks/lost_relevance.py [--network efficientnet_lite0] [--weights DEFAULT]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import torch
from timing import report
from torch import Tensor, nn

from lit_iba import FrozenClassifier
from lit_iba.baselines import LRPAlpha1Beta0
from lit_iba.baselines.propagation import ForwardPass, Step, score_start
from lit_iba.cli.photographs import load_picture

PICTURES = ("chelsea", "astronaut", "coffee")


def kind(module: nn.Module) -> str:
    """The step's kind; depthwise convolutions apart."""
    depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
    return "depthwise convolution" if depthwise else type(module).__name__


def measure(network: str, weights: str) -> list[dict[str, object]]:
    """Rows of the table, of the class that is predicted."""
    classifier = FrozenClassifier(network, weights).double()
    pictures = torch.stack([load_picture(Path(name), classifier) for name in PICTURES])
    images = classifier.images(pictures).double()
    explainer = LRPAlpha1Beta0(classifier)
    forward = ForwardPass(explainer.network, images)
    start = score_start(classifier.objective, forward.logits, forward.logits.argmax(dim=1))
    total, lost, by_step = float(start.sum()), Counter[str](), {}

    def rule(step: Step, r: Tensor) -> tuple[Tensor, ...]:
        shares = explainer._rule(step, r)
        share = float(r.sum() - sum(part.sum() for part in shares)) / total
        lost[kind(step.module)] += share
        by_step[step.name] = share
        return shares

    kept = float(forward.back(start, rule).sum()) / total
    rows: list[dict[str, object]] = [{"where": "kept by the pixels", "share of the logit": kept}]
    rows += [{"where": k, "share of the logit": v} for k, v in lost.most_common(3)]
    worst = max(by_step, key=by_step.__getitem__)
    return [*rows, {"where": f"one step: {worst}", "share of the logit": by_step[worst]}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    given = parser.parse_args()
    report("lost_relevance", measure(given.network, given.weights))
