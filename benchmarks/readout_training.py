"""A training step of the Readout bottleneck against its floor: one frozen forward, and the tail forward and backward.

The floor leaves out the readout network itself; the FLOP floor says what the ratio would be if a step cost just its
floating-point operations.

python benchmarks/readout_training.py [--network resnet50] [--batch 4] [--repeats 5]
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from timing import flops, median_seconds, report

from lit_iba.iba.readout_training import ReadoutTraining


def main(network: str, batch_size: int, repeats: int) -> None:
    """Measure and report."""
    module = ReadoutTraining({"model": network, "weights": "random"})
    module.network.images_measured.fill_(1)
    side = module.classifier.preprocessing.crop
    batch = {
        "picture": torch.randint(0, 255, (batch_size, 3, side, side), dtype=torch.uint8),
        "label": torch.zeros(batch_size, dtype=torch.int64),
        "key": [str(i) for i in range(batch_size)],
        "weight": torch.ones(batch_size),
    }
    optimizer = module.configure_optimizers()
    split = module.explainer.split

    def step() -> None:
        parts = module._step(batch, 0)
        (parts["cross_entropy"] + module.beta * parts["information_nats_per_element"]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def frozen_forward() -> None:
        with torch.no_grad():
            split.observe(module.images_of(batch))

    with torch.no_grad():
        r, carried = split.head(module.images_of(batch))

    def tail_both_ways() -> None:
        z = r.clone().requires_grad_()
        F.cross_entropy(split.tail(z, carried), batch["label"]).backward()

    times = median_seconds({"step": step, "frozen forward": frozen_forward, "tail both ways": tail_both_ways}, repeats)
    floor = times["frozen forward"] + times["tail both ways"]
    flop_floor = (flops(frozen_forward) + flops(tail_both_ways)) / flops(step)
    report(
        "readout_training",
        [
            {
                "network": network,
                "part": part,
                "ms an image": 1000 * seconds / batch_size,
                "floor / this": floor / seconds,
                "FLOP floor": flop_floor if part == "step" else 1.0,
            }
            for part, seconds in [("step", times["step"]), ("floor: frozen forward + tail both ways", floor)]
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.network, arguments.batch, arguments.repeats)
