"""Per-Sample IBA against the same computation done plainly: hooks over the whole network, one image
at a time.

The plain form is what one writes first, and what the published code does: every step runs the whole
network on the noise copies through a forward hook, and the backward pass computes gradients for all
weights. The floor is the ratio of floating-point operations: the plain form's against those of one
head, T tails forward, and T tails backward to their input.

    python benchmarks/per_sample_iba.py [--networks resnet50 vgg16] [--repeats 3]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from timing import flops, has_native_bf16, median_seconds, report
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier, PerSampleIBA

NETWORKS = {"resnet50": "layer2", "vgg16": "features.17"}
STEPS, COPIES = 10, 10


class PlainPerSampleIBA:
    """One image at a time, the whole network, dense 5x5 blur of every copy, gradients for
    everything.
    """

    def __init__(self, model: nn.Module, layer: str, mean: Tensor, std: Tensor) -> None:
        self.model, self.layer = model, model.get_submodule(layer)
        self.mean, self.std = mean, std
        offsets = torch.arange(-2.0, 3.0, device=mean.device)
        kernel = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 2)
        self.kernel = (kernel / kernel.sum()).expand(mean.shape[0], 1, 5, 5)
        self.information: Tensor | None = None

    def _restrict(self, alpha: Tensor) -> Any:
        def hook(_module: nn.Module, _inputs: Any, r: Tensor) -> Tensor:
            copies = alpha.expand(len(r), -1, -1, -1)
            lam = F.conv2d(
                F.pad(torch.sigmoid(copies), [2] * 4, mode="reflect"),
                self.kernel,
                groups=len(self.mean),
            )
            mu_z, log_var = lam * (r - self.mean) / self.std, 2 * torch.log(1 - lam)
            self.information = 0.5 * (mu_z**2 + log_var.exp() - log_var - 1)
            return lam * r + (1 - lam) * (self.mean + self.std * torch.randn_like(r))

        return hook

    def attribute(self, image: Tensor, target: int, steps: int = STEPS) -> Tensor:
        """Bits per position of one image (1, 3, H, W)."""
        alpha = torch.full((1, *self.mean.shape), 5.0, device=image.device, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=1.0)
        handle = self.layer.register_forward_hook(self._restrict(alpha))
        for _ in range(steps):
            adam.zero_grad()
            logits = self.model(image.expand(COPIES, -1, -1, -1))
            assert self.information is not None
            targets = torch.full((COPIES,), target, device=image.device)
            loss = F.cross_entropy(logits, targets) + 10.0 * self.information.mean()
            loss.backward()
            adam.step()
        handle.remove()
        assert self.information is not None
        return self.information.detach()[0].sum(dim=0)


def measure(
    name: str, layer: str, repeats: int, with_compile: bool, with_bf16: bool
) -> list[dict[str, object]]:
    """Rows of the table for one network."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.randn(8, 3, 224, 224)
    own = torchvision.models.get_model(name, weights=None)
    own.load_state_dict(model.state_dict())
    classifier = FrozenClassifier(own.to(memory_format=torch.channels_last))
    statistics = FeatureStatistics.estimate(classifier, layer, images)
    mean, std = statistics.mean.float(), statistics.std.float().clamp_min(0.01)
    plain = PlainPerSampleIBA(model, layer, mean, std)
    ours = PerSampleIBA(classifier, layer, statistics, active_threshold=-1.0)
    one = images[:1].contiguous(memory_format=torch.channels_last)
    runs: dict[str, Any] = {
        "plain": lambda: plain.attribute(images[:1], 0),
        "ours": lambda: ours.attribute(one, target=0),
    }
    if with_bf16:
        bf16 = PerSampleIBA(classifier, layer, statistics, active_threshold=-1.0, precision="bf16")
        runs["ours, bf16"] = lambda: bf16.attribute(one, target=0)
    if with_compile:
        compiled = PerSampleIBA(classifier, layer, statistics, active_threshold=-1.0, compile=True)
        runs["ours, compiled tail"] = lambda: compiled.attribute(one, target=0)
    times = median_seconds(runs, repeats)
    eight = (
        median_seconds({"eight": lambda: ours.attribute(images, target=0)}, max(1, repeats // 2))[
            "eight"
        ]
        / 8
    )
    one_step, two_steps = (
        flops(
            lambda n=n: PerSampleIBA(
                classifier, layer, statistics, active_threshold=-1.0, steps=n
            ).attribute(one, 0)
        )
        for n in (1, 2)
    )
    floor = (
        STEPS
        * flops(lambda: plain.attribute(images[:1], 0, steps=1))
        / (one_step + (STEPS - 1) * (two_steps - one_step))
    )
    correlation = 1.0
    if with_bf16:
        maps = torch.stack(
            [e.attribute(one, target=0, keys=["a"]).values.flatten() for e in (ours, bf16)]
        )
        correlation = float(torch.corrcoef(maps)[0, 1])
    rows: list[dict[str, object]] = [
        {
            "network": f"{name}/{layer}",
            "form": form,
            "seconds an image": seconds,
            "plain / this": times["plain"] / seconds,
            "FLOP floor": floor if form != "plain" else 1.0,
            "correlation with float32": correlation if "bf16" in form else 1.0,
        }
        for form, seconds in [*times.items(), ("ours, 8 images at once", eight)]
    ]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also with the compiled tail; compiling takes minutes",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="also bfloat16 where the processor would emulate it"
    )
    arguments = parser.parse_args()
    with_bf16 = arguments.bf16 or has_native_bf16() or torch.cuda.is_available()
    found: list[dict[str, object]] = []
    for network in arguments.networks:
        found += measure(
            network, NETWORKS[network], arguments.repeats, arguments.compile, with_bf16
        )
        report("per_sample_iba", found)
    if not has_native_bf16():
        print(
            "this processor has no bfloat16 arithmetic: bf16 would be emulated, and is measured"
            " only with --bf16"
        )
