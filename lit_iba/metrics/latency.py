"""What a heatmap costs: seconds, memory, and passes through the classifier.

VarSal, figure 5b; InputIBA (Zhang et al., NeurIPS 2021), section 4.1. The explainer runs again for
this; nothing is judged.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from lit_iba.checks import check_counts
from lit_iba.classifier import FrozenClassifier
from lit_iba.metrics.base import HeatmapMetric, Result, mean_and_error
from lit_iba.metrics.judged import Judged, Subject

MEBIBYTE = 2**20


def _attention(x: Any, key: Any, value: Any, width: int, *_: Any, **__: Any) -> int:
    """Self-attention: four projections, and two products of tokens with tokens."""
    return 2 * x[0] * x[1] * width * (4 * width + 2 * x[1])


def _encoder_layer(x: Any, width: int, *rest: Any, **__: Any) -> int:
    """Self-attention, and the two linear layers behind it."""
    inner = rest[12][0]  # of ffn_weight_1
    return _attention(x, x, x, width) + 4 * x[0] * x[1] * width * inner


def _products(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _products_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


# Torch's counter knows neither the CPU's attention nor what takes its place without gradients.
_FORMULAS: dict[str, Any] = {
    "_native_multi_head_attention": _attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "_scaled_dot_product_flash_attention_for_cpu": _products,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _products_backward,
}
for _name, _formula in _FORMULAS.items():
    if hasattr(torch.ops.aten, _name) and getattr(torch.ops.aten, _name) not in flop_registry:
        register_flop_formula(getattr(torch.ops.aten, _name))(_formula)


class Ledger(TorchDispatchMode):
    """Adds up what runs inside: floating-point operations forward and backward, and bytes of
    tensors alive at once.

    Operations are those of convolutions, matrix products and attention (torch's own flop counter's
    formulas); memory is that of tensors made inside, without the scratch space of single kernels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self.forward = self.backward = self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # in inference mode, operations come whole: look inside
                inner = func.decompose(*args, **kwargs)
            if inner is not NotImplemented:
                return inner
        self._follow((args, kwargs), made=False)  # an output may be a view of what was there before
        output = func(*args, **kwargs)
        if formula is not None:
            count = formula(*args, **kwargs, out_val=output)
            if torch._C._current_graph_task_id() == -1:
                self.forward += count
            else:
                self.backward += count
        self._follow(output, made=True)
        return output

    def _follow(self, values: Any, made: bool) -> None:
        """Watch the memory of tensors until it is freed; what was made outside does not count."""
        for tensor in tree_iter(values):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta" or tensor.is_mkldnn:
                continue  # the last: packed weights, which have no storage that could be watched
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._known:
                self._known.add(key)
                size = storage.nbytes() if made else 0
                self.bytes += size
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


@torch.no_grad()
def operations_of_a_pass(classifier: FrozenClassifier, images: Tensor) -> int:
    """Floating-point operations of one forward pass of one image; 0 where no operation is known."""
    with Ledger() as ledger:
        classifier(images[:1])
    return ledger.forward


def synchronized(device: torch.device) -> float:
    """The time when everything that was asked of the device is done, in seconds."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class Latency(HeatmapMetric):
    """Seconds a heatmap: the median of repeated runs after warming up, and what else it takes.

    Args:
        batch_size: Images explained together; at most those of one update (the run's own batch
            size).
        repeats: Timed runs of each image, of which the median counts.
        warm_up: Runs before the first timed one of each explainer.

    Example:
        >>> from lit_iba import build_explainer
        >>> from lit_iba.metrics import Latency, Subject
        >>> explainer, metric = build_explainer("saliency", classifier), Latency(repeats=1)
        >>> values = explainer.attribute(images, targets).values
        >>> subject = Subject.named(explainer, "saliency", {})
        >>> metric.update(classifier, images, targets, values, subject=subject)
        >>> metric.compute().score > 0
        True
    """

    name = "latency"
    label = "Latency"
    needs_subject = True
    better = "lower"
    scalars = (
        "seconds",
        "peak_bytes",
        "forward_passes",
        "backward_passes",
        "operations",
        "together",
    )

    def __init__(self, batch_size: int = 1, repeats: int = 3, warm_up: int = 1) -> None:
        check_counts(batch_size=batch_size, repeats=repeats)
        check_counts(0, warm_up=warm_up)
        super().__init__({"batch_size": batch_size, "repeats": repeats, "warm_up": warm_up})
        self.batch_size, self.repeats, self.warm_up = batch_size, repeats, warm_up
        self._warm: Subject | None = None

    @property
    def definition(self) -> str:
        return (
            f"Seconds per image with {self.batch_size} image(s) explained together: median of"
            f" {self.repeats} run(s) of an image after {self.warm_up} run(s) to warm up, device"
            " synchronised, mean over images; peak memory: the allocator's on a GPU, on a CPU the"
            " tensors alive at once, beyond what was there before; passes: floating-point"
            " operations of convolutions and matrix products, outside and inside of backward"
            " passes, in units of one forward pass of one image through the classifier"
        )

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """The cost of each image, (B,): that of its batch, shared out evenly."""
        assert judged.subject is not None  # update() checks it
        subject, images, keys = judged.subject, judged.images, judged.keys
        bare = operations_of_a_pass(subject.explainer.classifier, images)
        parts: dict[str, list[Tensor]] = {name: [] for name in self.scalars}
        for part in torch.arange(len(images)).split(self.batch_size):
            where = slice(int(part[0]), int(part[-1]) + 1)
            some = None if keys is None else list(keys)[where]
            cost = self._cost(subject, images[where], judged.targets[where], some, bare)
            for name, value in cost.items():
                parts[name].append(torch.full((len(part),), value))
        return {name: torch.cat(values) for name, values in parts.items()}

    def _cost(
        self,
        subject: Subject,
        images: Tensor,
        targets: Tensor,
        keys: Sequence[str] | None,
        bare: int,
    ) -> dict[str, float]:
        device, count = images.device, len(images)

        def run() -> float:
            start = synchronized(device)
            subject.explainer.attribute(images, targets, keys=keys)
            return synchronized(device) - start

        if self._warm is not subject:
            for _ in range(self.warm_up):
                run()
            self._warm = subject
        seconds = statistics.median(run() for _ in range(self.repeats))
        peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run()
            peak = torch.cuda.max_memory_allocated(device) - before
        with Ledger() as ledger:
            run()
        return {
            "seconds": seconds / count,
            "peak_bytes": float(peak or ledger.peak),
            "operations": (ledger.forward + ledger.backward) / count,
            "forward_passes": ledger.forward / (count * bare) if bare else float("nan"),
            "backward_passes": ledger.backward / (count * bare) if bare else float("nan"),
            "together": float(count),
        }

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: seconds, peak memory of its batch in MiB, passes, operations in GFLOP, images
        explained together.
        """
        return {
            "score": rows["seconds"],
            "peak_mebibytes": rows["peak_bytes"] / MEBIBYTE,
            "forward_passes": rows["forward_passes"],
            "backward_passes": rows["backward_passes"],
            "gigaflop": rows["operations"] / 1e9,
            "images_together": rows["together"],
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean seconds; the median over images, and the means of the rest, beside it."""
        if not len(rows.get("seconds", ())):
            return Result(float("nan"), float("nan"), 0)
        scores = self.scores(rows)
        seconds = scores.pop("score")
        score, error = mean_and_error(seconds)
        extra = {name: float(mean_and_error(values)[0]) for name, values in scores.items()}
        return Result(
            float(score),
            float(error),
            len(seconds),
            {"median_seconds": statistics.median(seconds.tolist()), **extra},
        )
