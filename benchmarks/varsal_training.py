"""A training step of VarSal's encoder against its floor: what any form of it must run, without what
lies between.

The floor is the encoder forward and backward, one forward pass of the classifier (the image's), and
one forward and backward with respect to its input (the perturbed image's), at the same batch and
widths. The step has sampling, top-k, baselines, both divergences and the optimiser besides.

python benchmarks/varsal_training.py [--network resnet18] [--side 112] [--batch 4] [--divide 1]
[--repeats 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import flops, median_seconds, report

from lit_iba.varsal.encoder import PAPER_CHANNELS
from lit_iba.varsal.varsal_training import VarSalTraining


def parts_of_varsal_step(
    network: str, side: int, batch_size: int, device: torch.device, divide: int = 1
) -> dict[str, Callable[[], None]]:
    """A whole ``step``, and its floors with the classifier as it is and with its batch norms
    folded.
    """
    record = {
        "model": network,
        "weights": "random",
        "preprocessing": {"resize": None, "crop": side},
    }
    module = (
        VarSalTraining(record, channels=[count // divide for count in PAPER_CHANNELS])
        .to(device)
        .train()
    )
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign] # outside a Trainer there is no log
    batch = {
        "picture": torch.randint(
            0, 255, (batch_size, 3, side, side), dtype=torch.uint8, device=device
        ),
        "key": [str(i) for i in range(batch_size)],
        "weight": torch.ones(batch_size, device=device),
    }
    images = module.images_of(batch)
    optimizer = module.configure_optimizers()

    def step() -> None:
        module.training_step(batch, 0).backward()
        optimizer.step()
        optimizer.zero_grad()

    def encoder_both_ways() -> None:
        mean, log_variance = module.encoder(images)
        (mean.sum() + log_variance.sum()).backward()

    def floor_with(classifier: Callable[[torch.Tensor], torch.Tensor]) -> None:
        encoder_both_ways()
        with torch.no_grad():
            classifier(images)
        classifier(images.clone().requires_grad_()).sum().backward()

    return {
        "step": step,
        "floor": lambda: floor_with(module.classifier),
        "floor, batch norms folded": lambda: floor_with(module.classifier.folded()),
    }


def main(network: str, side: int, batch_size: int, divide: int, repeats: int) -> None:
    """Measure and report."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = parts_of_varsal_step(network, side, batch_size, device, divide)
    times = median_seconds(runs, repeats)
    flop_floor = flops(runs["floor"]) / flops(runs["step"])
    report(
        "varsal_training",
        [
            {
                "network": f"{network}, {side} px, channels / {divide}",
                "part": part,
                "ms an image": 1000 * seconds / batch_size,
                "floor / this": times["floor"] / seconds,
                "folded floor / this": times["floor, batch norms folded"] / seconds,
                "FLOP floor": flop_floor if part == "step" else 1.0,
            }
            for part, seconds in times.items()
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--divide", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.network, arguments.side, arguments.batch, arguments.divide, arguments.repeats)
