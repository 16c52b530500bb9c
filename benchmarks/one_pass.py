"""InputIBA in one pass: its time against that of the passes it is made of, and against the sixty
steps that it stands for.

The floor is what nobody can do without: the classifier's pass forward, or forward and back to the
picture. Weights are random, because time does not depend on them.

    python benchmarks/one_pass.py [--network resnet18] [--layer layer2] [--side 112] [--batch 8]
        [--repeats 5]
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from boxed_photographs import at_side
from timing import median_seconds, report
from torch import Tensor

from lit_iba import InputIBA
from lit_iba.classifier import FrozenClassifier
from lit_iba.input_iba import ReadoutInputIBA
from lit_iba.statistics import INPUT, estimate_layers


def there_and_back(classifier: FrozenClassifier, images: Tensor, targets: Tensor) -> None:
    """A pass forward and one back to the picture."""
    with torch.enable_grad():
        inputs = images.clone().requires_grad_()
        outputs = classifier.folded()(inputs)
        score = classifier.objective.score(outputs, targets).sum()
        torch.autograd.grad(score, inputs)


@torch.no_grad()
def forward(classifier: FrozenClassifier, images: Tensor) -> None:
    """A pass forward."""
    classifier.folded()(images)


def main() -> None:
    """Print and keep the times an image, and the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    classifier = at_side(given.network, "random", given.side)
    images = torch.randn(given.batch, 3, given.side, given.side)
    targets = torch.arange(given.batch)
    found = estimate_layers(classifier, [given.layer, INPUT], [images])
    statistics = (found[given.layer], found[INPUT])
    one_pass = {}
    for gradients in (True, False):
        made = ReadoutInputIBA(classifier, given.layer, gradients=gradients)
        made.network.set_statistics(*statistics)
        made.network.eval()
        one_pass[gradients] = partial(made.attribute, images, targets)
    taken = median_seconds(
        {
            "forward": partial(forward, classifier, images),
            "forward and back": partial(there_and_back, classifier, images, targets),
            "features": one_pass[False],
            "gradients": one_pass[True],
        },
        given.repeats,
    )
    steps = InputIBA(classifier, given.layer, *statistics, gan="none")
    sixty = median_seconds(
        {"sixty": partial(steps.attribute, images[:1], targets[:1])}, 1, warm_up=False
    )["sixty"]
    each = {name: seconds / given.batch for name, seconds in taken.items()}
    report(
        "one_pass",
        [
            {
                "form": f"{name}, {given.batch} at once",
                "ms an image": 1e3 * each[name],
                "floor": floor,
                "ms of the floor": 1e3 * each[floor],
                "floor / it": each[floor] / each[name],
                "60 steps, s": sixty,
                "60 steps / it": sixty / each[name],
            }
            for name, floor in (("features", "forward"), ("gradients", "forward and back"))
        ],
    )


if __name__ == "__main__":
    main()
