"""InputIBA against the same computation done plainly: hooks, the whole network each time, one image
after the other.

The plain form is what one writes first and what the published code does: every stage runs the whole
network with gradients for all its weights, each image has a critic of its own, and every update of
that critic sees new samples. "published critic" is the plain form with the authors' critic instead
of ours, for what that choice alone costs. The floor counts forward and backward passes: ours needs
no weight gradients (a backward pass then costs one forward pass, not two), runs stage (a) behind
the layer and stage (b) before it, and reuses the samples of stage (b) for all critic updates.

    python benchmarks/input_iba.py [--network resnet18] [--layer layer2] [--side 224] [--scale 0.1]
    [--repeats 1]

``--scale`` shortens every stage on both sides alike, so that the ratio stays and minutes suffice;
at 1 it is the real thing.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from timing import flops, median_seconds, report
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier
from lit_iba.iba.bottleneck import blur
from lit_iba.input_iba.critic import (
    LINEAR,
    Critic,
    CriticDesign,
    critic_loss,
    gradient_penalty,
    published_design,
)
from lit_iba.input_iba.explainer import InputIBA
from lit_iba.input_iba.settings import InputIBASettings, with_changes


class PlainInputIBA:
    """One image at a time, through hooks."""

    def __init__(
        self, model: nn.Module, layer: str, moments: dict[str, Tensor], settings: InputIBASettings
    ) -> None:
        self.model, self.layer, self.m, self.s = (
            model,
            model.get_submodule(layer),
            moments,
            settings,
        )
        self.published = False

    def features(self, images: Tensor) -> Tensor:
        """R of images, from a run of the whole network as the published code does."""
        found: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda _m, _i, output: found.append(output))
        self.model(images)
        handle.remove()
        return found[0]

    def stage_a(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """lambda* and R."""
        s, m = self.s, self.m
        r = self.features(image).detach()
        alpha = torch.full_like(r, s.initial_alpha, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=s.learning_rate)
        information: list[Tensor] = []

        def restrict(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            lam = blur(torch.sigmoid(alpha), s.features.feature_smoothing_sigma)
            mu, variance = lam * (output - m["mean"]) / m["std"], (1 - lam) ** 2
            information[:] = [0.5 * (mu**2 + variance - torch.log(variance) - 1).mean()]
            return lam * output + (1 - lam) * (m["mean"] + m["std"] * torch.randn_like(output))

        handle = self.layer.register_forward_hook(restrict)
        for _ in range(s.features.feature_steps):
            logits = self.model(image.expand(s.features.feature_copies, -1, -1, -1))
            loss = (
                F.cross_entropy(logits, target.expand(s.features.feature_copies))
                + s.features.beta_feat * information[0]
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
        handle.remove()
        return blur(torch.sigmoid(alpha.detach()), s.features.feature_smoothing_sigma), r

    def stage_b(self, image: Tensor, keep: Tensor, r: Tensor) -> Tensor:
        """lambda_G (3, H, W)."""
        s, m = self.s, self.m
        mask, mean, std = torch.zeros_like(image), torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        parameters = [t.requires_grad_() for t in (mask, mean, std)]
        mover = torch.optim.RMSprop(parameters, lr=s.prior.mask_learning_rate)
        design: CriticDesign = published_design(r.shape[1]) if self.published else LINEAR
        critic = Critic(r.shape[1:], design, [torch.Generator().manual_seed(0)])
        learner = torch.optim.RMSprop(critic.parameters(), lr=s.critics.critic_learning_rate)

        def fakes() -> Tensor:
            around = image + s.prior.neighbourhood * torch.randn(s.prior.samples, *image.shape[1:])
            lam, noise = torch.sigmoid(mask), torch.randn(s.prior.samples, *image.shape[1:])
            return (
                (self.features(lam * around + (1 - lam) * (mean + std * noise)) - m["mean"])
                / m["std"]
            )[:, None]

        for step in range(s.prior.generator_steps):
            for _ in range(s.critics.critic_steps + (0 if step else s.critics.critic_warm_up)):
                noise = m["mean"] + m["std"] * torch.randn(s.prior.samples, *r.shape[1:])
                real = ((keep * r + (1 - keep) * noise - m["mean"]) / m["std"])[:, None]
                fake = fakes().detach()
                loss = critic_loss(critic, real, fake).sum()
                loss = (
                    loss
                    + s.critics.penalty
                    * gradient_penalty(critic, real, fake, torch.rand(s.prior.samples, 1)).sum()
                )
                learner.zero_grad()
                loss.backward()
                learner.step()
            mover.zero_grad()
            (-critic(fakes()).mean()).backward()
            mover.step()
        return torch.sigmoid(mask.detach())

    def stage_c(self, image: Tensor, target: Tensor, prior: Tensor) -> Tensor:
        """Bits per pixel (H, W)."""
        s = self.s
        alpha = torch.full_like(image, s.initial_alpha, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=s.learning_rate)
        for _ in range(s.input.steps):
            lam = blur(torch.sigmoid(alpha), s.input.smoothing_sigma)
            whole = 1 - prior * lam
            nats = torch.log(whole / (1 - lam)) + (1 - lam) ** 2 / (2 * whole**2) - 0.5
            nats = nats + (image * (lam - prior * lam)) ** 2 / (2 * whole**2)
            z = lam * image + (1 - lam) * torch.randn(s.input.copies, *image.shape[1:])
            loss = (
                F.cross_entropy(self.model(z), target.expand(s.input.copies))
                + s.input.beta_input * nats.mean()
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
        return nats.detach().sum(dim=(0, 1))

    def attribute(self, image: Tensor, target: Tensor, published: bool = False) -> Tensor:
        """All stages for one image (1, 3, H, W)."""
        self.published = published
        return self.stage_c(image, target, self.stage_b(image, *self.stage_a(image, target)))


def measure(
    network: str, layer: str, side: int, scale: float, repeats: int
) -> list[dict[str, object]]:
    """Rows of the table."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(network, weights=None).eval()
    images, targets = torch.randn(8, 3, side, side), torch.arange(8)
    own = torchvision.models.get_model(network, weights=None)
    own.load_state_dict(model.state_dict())
    classifier = FrozenClassifier(own.to(memory_format=torch.channels_last))
    statistics = FeatureStatistics.estimate(classifier, layer, images)
    paper = InputIBASettings()
    names = ("feature_steps", "generator_steps", "critic_warm_up", "steps")
    short = {name: max(1, round(scale * getattr(paper, name))) for name in names}
    of_input = FeatureStatistics.estimate(classifier, "input", [images])
    ours, none = (
        InputIBA(classifier, layer, statistics, of_input, gan=gan, **short)
        for gan in ("wgan", "none")
    )
    moments = {"mean": statistics.mean.float(), "std": statistics.std.float().clamp_min(0.01)}
    plain = PlainInputIBA(model, layer, moments, with_changes(paper, short))
    one = images[:1]
    runs: dict[str, Any] = {
        "plain": lambda: plain.attribute(one, targets[:1]),
        "plain, published critic": lambda: plain.attribute(one, targets[:1], published=True),
        "ours, 1 image": lambda: ours.attribute(one, targets[:1]),
        "ours, gan none, 1 image": lambda: none.attribute(one, targets[:1]),
    }
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = median_seconds(runs, repeats, warm_up=False, clock=clock)
    eights = {
        "ours, 8 images at once": lambda: ours.attribute(images, targets),
        "ours, gan none, 8 images at once": lambda: none.attribute(images, targets),
    }
    times |= {
        k: v / 8 for k, v in median_seconds(eights, repeats, warm_up=False, clock=clock).items()
    }
    work = {name: flops(run) for name, run in runs.items()}
    work |= {name: work[name.replace("8 images at once", "1 image")] for name in eights}
    steps = " ".join(f"{k} {v}" for k, v in short.items())
    return [
        {
            "network": f"{network}/{layer} {side}",
            "form": name,
            "CPU s an image": seconds,
            "plain / this": times["plain"] / seconds,
            "TFLOP an image": work[name] / 1e12,
            "FLOP floor": work["plain"] / work[name],
            "steps": steps,
        }
        for name, seconds in times.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--scale", type=float, default=0.1, help="of the steps of every stage")
    parser.add_argument("--repeats", type=int, default=1)
    a = parser.parse_args()
    report("input_iba", measure(a.network, a.layer, a.side, a.scale, a.repeats))
