"""A frozen network beside itself as torchvision makes it: one forward pass and the gradient of its
input.

Batch norms are folded, and the weights of convolutions, linear layers and self-attention are kept
as the processor reads them (lit_iba/classifier/packing.py). Both are asked in turn, with random
weights, both they and the images in channels_last order, or in torch's usual one.

    python benchmarks/packing.py [--networks vgg16 vit_b_16] [--batch 10] [--repeats 3]
        [--usual_order]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
import torchvision
from timing import has_native_bf16, median_seconds, report
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from lit_iba import FrozenClassifier
from lit_iba.iba.optimise import autocast

NETWORKS = ["resnet50", "vgg16", "densenet121", "convnext_tiny", "swin_t", "vit_b_16"]


def gradient(network: Callable[[Tensor], Tensor], images: Tensor, precision: str) -> Tensor:
    """Of the largest logits, with respect to the images."""
    with autocast(images.device, precision):  # type: ignore[arg-type]
        logits = network(images)
    return torch.autograd.grad(logits.float().amax(dim=1).sum(), images)[0]


def measure(
    names: list[str], batch: int, repeats: int, layout: torch.memory_format
) -> list[dict[str, object]]:
    """Rows of the table."""
    rows: list[dict[str, object]] = []
    for name in names:
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
        network.to(memory_format=layout)
        for module in network.modules():
            if isinstance(module, nn.Linear):  # some begin with a last layer of zeros
                nn.init.normal_(module.weight, std=0.02)
        packed = FrozenClassifier(network).folded()
        images = torch.randn(batch, 3, 224, 224).contiguous(memory_format=layout)
        images.requires_grad_()
        exact = gradient(network, images, "float32").flatten()
        for precision in ("float32", "bf16") if has_native_bf16() else ("float32",):
            runs = {
                form: functools.partial(gradient, run, images, precision)
                for form, run in (("torchvision", network), ("packed", packed))
            }
            seconds = median_seconds(runs, repeats)
            theirs, ours = (run().flatten() for run in runs.values())
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "torchvision, s an image": seconds["torchvision"] / batch,
                    "packed, s an image": seconds["packed"] / batch,
                    "torchvision / packed": seconds["torchvision"] / seconds["packed"],
                    "cosine of the gradients": float(cosine_similarity(theirs, ours, dim=0)),
                    "torchvision with float32": float(cosine_similarity(theirs, exact, dim=0)),
                    "packed with float32": float(cosine_similarity(ours, exact, dim=0)),
                }
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--usual_order", action="store_true", help="as a module of one's own is")
    given = parser.parse_args()
    order = torch.contiguous_format if given.usual_order else torch.channels_last
    report(
        "packing_usual_order" if given.usual_order else "packing",
        measure(given.networks, given.batch, given.repeats, order),
    )
