"""Adam on the logits of masks: the loop that every bottleneck found by optimisation shares, plain
or as a CUDA graph.

The loss is a sum over images and Adam is elementwise, so that each image is optimised as if it were
alone in its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lit_iba.classifier.precision import warn_of_slow_bfloat16

Loss = Callable[[Tensor], Tensor]  # from logits (B, ...) to the sum of the images' losses
Gradient = Callable[
    [Tensor, int], Tensor
]  # from logits and the step's number, from 0, to the gradient of that sum
WARM_UP = 2  # plain steps before a capture, in which kernels are chosen and workspaces made


def optimise_mask(
    start: Tensor,
    loss: Loss,
    draw: Callable[[], object],
    *,
    steps: int,
    learning_rate: float,
    on_step: Callable[[int], object] | None = None,
) -> Tensor:
    """Logits after ``steps`` updates.

    Args:
        start: Logits to start from (B, ...); unchanged.
        loss: What is minimised, of the logits and of what ``draw`` has drawn.
        draw: Called before each step, to draw its noise.
        steps: Adam updates.
        learning_rate: Of Adam.
        on_step: Told the number of steps done.
    """

    def gradient(alpha: Tensor, step: int) -> Tensor:
        draw()
        return _gradient(alpha, loss)

    return descend(start, gradient, steps=steps, learning_rate=learning_rate, on_step=on_step)


def descend(
    start: Tensor,
    gradient: Gradient,
    *,
    steps: int,
    learning_rate: float,
    decays: bool = False,
    on_step: Callable[[int], object] | None = None,
) -> Tensor:
    """:func:`optimise_mask` for a loss whose gradient is put together by the caller, in parts say.

    Args:
        start: Logits to start from (B, ...); unchanged.
        gradient: Of the loss at the logits, for a step.
        steps: Adam updates.
        learning_rate: Of Adam.
        decays: Whether it falls linearly to zero.
        on_step: Told the number of steps done.
    """
    alpha = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([alpha], lr=learning_rate)
    for step in range(steps):
        alpha.grad = gradient(alpha, step)
        if decays:
            adam.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        adam.step()
        if on_step is not None:
            on_step(step + 1)
    return alpha.detach()


class GraphedSteps:
    """The loop of :func:`optimise_mask` with its step captured as a CUDA graph, to be used for
    batch after batch.

    A step of a small batch is hundreds of short kernels, and launching them one by one takes longer
    than they do. The graph reads and writes the tensors that it was captured with: ``loss`` and
    ``draw`` must use the same ones each time.

    Args:
        start: Logits of the right shape, on a CUDA device.
        loss, draw, learning_rate: As for :func:`optimise_mask`.
    """

    def __init__(
        self, start: Tensor, loss: Loss, draw: Callable[[], object], learning_rate: float
    ) -> None:
        self.draw = draw
        self.alpha = start.detach().clone().requires_grad_()
        self.adam = torch.optim.Adam([self.alpha], lr=learning_rate, capturable=True)
        draw()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                _update(self.alpha, self.adam, loss)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            _update(self.alpha, self.adam, loss)

    @torch.no_grad()
    def run(self, start: Tensor, steps: int) -> Tensor:
        """Logits after ``steps`` updates from ``start``."""
        self.alpha.copy_(start)
        for value in self.adam.state[self.alpha].values():
            value.zero_()
        for _ in range(steps):
            self.draw()
            self.graph.replay()
        return self.alpha.detach().clone()


def autocast(device: torch.device, precision: Literal["float32", "bf16"]) -> torch.autocast:
    """Bfloat16 arithmetic where ``precision`` is ``"bf16"``, else none; frozen weights are not
    worth caching.
    """
    if precision == "bf16":
        warn_of_slow_bfloat16(torch.device(device.type), "precision: float32")
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
    )


def _gradient(alpha: Tensor, loss: Loss) -> Tensor:
    with torch.enable_grad():
        return torch.autograd.grad(loss(alpha), alpha)[0]


def _update(alpha: Tensor, adam: torch.optim.Adam, loss: Loss) -> None:
    alpha.grad = _gradient(alpha, loss)
    adam.step()
