"""Per-Sample IBA against the sum of its own convolutions run alone.

Every convolution of a run, forward and backward, is written down with the shapes and orders of its
tensors, and then run again with nothing in between: what is left between the two times is all that
the bottleneck, the activations and Python cost. The replay is flattered, since a tensor of one
shape is used again while it is in the processor's cache. A profile therefore also says what share
of a run its convolutions have in their place.

    python benchmarks/convolutions.py [--network resnet50] [--layer layer2] [--batches 1 8]
        [--repeats 3]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from timing import has_native_bf16, median_seconds, report
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lit_iba import FeatureStatistics, FrozenClassifier, PerSampleIBA

CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class Convolutions(TorchDispatchMode):
    """Writes down the convolutions that are run within it, with tensors of the same shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []
        self.tensors: dict[tuple[Any, ...], Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """One operation; weights in oneDNN's own order have no shape to copy and are kept."""
        if "convolution" in str(func) and "reorder" not in str(func):
            self.calls.append(
                (func, *(tree_map(self._like, given) for given in (args, kwargs or {})))
            )
        return func(*args, **(kwargs or {}))

    def _like(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return value
        key = tuple(value.shape), tuple(value.stride()), value.dtype
        if key not in self.tensors:
            steps = zip(value.shape, value.stride(), strict=True)
            end = 1 + sum((size - 1) * step for size, step in steps)
            self.tensors[key] = torch.randn(end).to(value.dtype).as_strided(*key[:2])
        return self.tensors[key]

    @torch.no_grad()
    def replay(self) -> None:
        """All of them, one after the other."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def share_in_place(run: Callable[[], object]) -> float:
    """The part of a run's time that its convolutions take, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    own = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    operations = [key for key in own if key.startswith(("aten::", "mkldnn::")) and "conv" in key]
    return sum(own[key] for key in operations) / sum(own.values())


def measure(network: str, layer: str, batches: list[int], repeats: int) -> list[dict[str, object]]:
    """Rows of the table."""
    torch.manual_seed(0)
    classifier = FrozenClassifier(network, "random")
    images = torch.randn(max(2, *batches), 3, 224, 224).contiguous(
        memory_format=torch.channels_last
    )
    statistics = FeatureStatistics.estimate(classifier, layer, images)
    precisions = ("float32", "bf16") if has_native_bf16() else ("float32",)
    rows: list[dict[str, object]] = []
    for precision in precisions:
        explainer = PerSampleIBA(
            classifier,
            layer,
            statistics,
            active_threshold=-1.0,
            precision=precision,  # type: ignore[arg-type]
        )
        for batch in batches:
            some = images[:batch]
            run = functools.partial(explainer.attribute, some, target=0)
            run()  # weights are packed at the first call
            with Convolutions() as convolutions:
                run()
            times = median_seconds(
                {"all": run, "convolutions": convolutions.replay}, repeats, clock=CLOCK
            )
            rows.append(
                {
                    "network": f"{network}/{layer}",
                    "precision": precision,
                    "batch": batch,
                    "seconds an image": times["all"] / batch,
                    "of which convolutions, run alone": times["convolutions"] / batch,
                    "convolutions": len(convolutions.calls),
                    "all / convolutions": times["all"] / times["convolutions"],
                    "all / convolutions in their place": 1 / share_in_place(run),
                }
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    report("convolutions", measure(given.network, given.layer, given.batches, given.repeats))
