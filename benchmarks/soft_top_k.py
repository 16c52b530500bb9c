"""The soft top-k mask, forward and backward, against 200 Sinkhorn iterations in the log domain
(float32) in the same run.

Sinkhorn is timed twice: differentiated through all its iterations, and with the backward pass that
the implicit function theorem gives at its end (as the authors of SOFT have it), which keeps nothing
of the iterations. On the CPU it is processor time. "Sum's error" is the largest |sum of the mask -
k| / k of a row.

python benchmarks/soft_top_k.py [--pixels 50176] [--batch 8] [--temperature 0.1] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from timing import median_seconds, report
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lit_iba.varsal.soft_top_k import soft_top_k, standardize

ITERATIONS = 200


def sinkhorn_mask(scores: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Mass at the anchor 1 after ``ITERATIONS`` updates of both potentials, times n."""
    n = scores.shape[1]
    anchors = torch.tensor([0.0, 1.0], device=scores.device)
    logits = -((scores[:, None] - anchors[:, None]) ** 2) / temperature  # (B, 2, n)
    log_rows = -torch.log(torch.tensor(float(n), device=scores.device))
    log_columns = torch.stack([(n - k) / n, k / n], dim=1).log()
    columns = torch.zeros(len(scores), 2, device=scores.device)
    for _ in range(ITERATIONS):
        rows = log_rows - torch.logsumexp(logits + columns[:, :, None], dim=1)
        columns = log_columns - torch.logsumexp(logits + rows[:, None], dim=2)
    return n * (logits[:, 1] + rows + columns[:, 1:]).exp()


class ImplicitSinkhorn(torch.autograd.Function):
    """The same, with the gradient of the converged plan."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, temperature: float) -> Tensor:
        mask = sinkhorn_mask(scores, k, temperature)
        ctx.save_for_backward(mask)
        ctx.temperature = temperature
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,), (gradient,) = ctx.saved_tensors, gradients
        weight = mask * (1 - mask)
        mean = (weight * gradient).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        return 2 / ctx.temperature * weight * (gradient - mean), None, None


def peak_mebibytes(run: Callable[[], object]) -> float:
    """Most that was allocated at once during a run, beyond what was there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    changes = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def main(pixels: int, batch_size: int, temperature: float, repeats: int) -> None:
    """Measure and report."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    scores = (
        standardize(torch.randn(batch_size, pixels, generator=generator))
        .to(device)
        .requires_grad_()
    )
    k = torch.empty(batch_size).uniform_(0.1 * pixels, 0.9 * pixels, generator=generator)
    weights = torch.randn(batch_size, pixels, generator=generator).to(device)
    methods: dict[str, Callable[[], Tensor]] = {
        "soft_top_k": lambda: soft_top_k(scores, k, temperature=temperature),
        "Sinkhorn, implicit backward": lambda: ImplicitSinkhorn.apply(
            scores, k.to(device), temperature
        ),
        "Sinkhorn, differentiated through": lambda: sinkhorn_mask(
            scores, k.to(device), temperature
        ),
    }

    def both_ways(method: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad((method() * weights).sum(), scores)[0]

    runs = {name: both_ways(method) for name, method in methods.items()}
    times = median_seconds(
        runs, repeats, clock=time.perf_counter if device == "cuda" else time.process_time
    )
    memory = {name: peak_mebibytes(run) for name, run in runs.items()}
    gradients = {name: run() for name, run in runs.items()}
    ours = "soft_top_k"
    lines = []
    for name, method in methods.items():
        off = (method().detach().double().sum(dim=1).cpu() - k).abs() / k
        lines.append(
            {
                "method": name,
                "ms, both ways": 1000 * times[name],
                "time / ours": times[name] / times[ours],
                "peak MiB": memory[name],
                "memory / ours": memory[name] / memory[ours],
                "sum's error": float(off.max()),
                "gradient's distance from ours": float(
                    (gradients[name] - gradients[ours]).norm() / gradients[ours].norm()
                ),
            }
        )
    report("soft_top_k", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--pixels", type=int, default=224 * 224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.pixels, arguments.batch, arguments.temperature, arguments.repeats)
