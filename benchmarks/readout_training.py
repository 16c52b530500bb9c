"""A training step of the Readout bottleneck against its floor: one frozen forward, and the tail
forward and backward.

The floor leaves out the readout network itself; the FLOP floor says what the ratio would be if a
step cost just its floating-point operations.

python benchmarks/readout_training.py [--network resnet50] [--batch 4] [--repeats 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import flops, median_seconds, report

from lit_iba.iba.readout_training import ReadoutTraining

TAPS = ("layer1", "layer2", "layer3", "layer4", "fc")  # of the ResNets


def parts_of_readout_step(
    network: str, side: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[], None]]:
    """A whole ``step``, and its floor: ``frozen forward`` and ``tail both ways``, and both as
    ``floor``.
    """
    module = ReadoutTraining(
        {"model": network, "weights": "random"}, layer="layer1", taps=[*TAPS]
    ).to(device)
    module.network.images_measured.fill_(1)
    batch = {
        "picture": torch.randint(
            0, 255, (batch_size, 3, side, side), dtype=torch.uint8, device=device
        ),
        "label": torch.zeros(batch_size, dtype=torch.int64, device=device),
        "key": [str(i) for i in range(batch_size)],
        "weight": torch.ones(batch_size, device=device),
    }
    optimizer = module.configure_optimizers()
    split = module.explainer.split

    def step() -> None:
        parts = module._step(batch, 0)
        (
            parts["cross_entropy"] + module.beta * parts["information_nats_per_element"]
        ).mean().backward()
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

    def floor() -> None:
        frozen_forward()
        tail_both_ways()

    return {
        "step": step,
        "frozen forward": frozen_forward,
        "tail both ways": tail_both_ways,
        "floor": floor,
    }


def main(network: str, batch_size: int, repeats: int) -> None:
    """Measure and report."""
    runs = parts_of_readout_step(network, 224, batch_size, torch.device("cpu"))
    times = median_seconds(
        {name: runs[name] for name in ("step", "frozen forward", "tail both ways")}, repeats
    )
    floor = times["frozen forward"] + times["tail both ways"]
    flop_floor = flops(runs["floor"]) / flops(runs["step"])
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
            for part, seconds in [
                ("step", times["step"]),
                ("floor: frozen forward + tail both ways", floor),
            ]
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.network, arguments.batch, arguments.repeats)
