"""Metrics on stored heatmaps against the classifier's bare forward pass, and side by side with
Captum and Quantus.

The bare forward pass is the same number of images, at the same batch size, through
``classifier(images)``. Peers get a classifier as torchvision makes it ("own") and ours with its
weights in channels_last ("same"). Seconds are processor time on a CPU (set OMP_NUM_THREADS=1 where
others use it too) and wall time on a GPU.

    python benchmarks/metrics.py [--network resnet18] [--repeats 3] [--only bare|captum|quantus]

Quantus is optional: pip install 'lit_iba[peers]'.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Occlusion as CaptumOcclusion
from timing import median_seconds, report
from torch import Tensor

from lit_iba import FrozenClassifier
from lit_iba.explainer import build_explainer
from lit_iba.metrics import Subject, build_metric

BATCH, TILE, STEPS, LOOKS, SIDE = 16, 14, 48, 100, 224
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
# A few dozen forward passes each: fewer than in the papers, where sorting weighs less still.
JUDGED: dict[str, tuple[str, dict[str, Any]]] = {
    "degradation 8x8": ("degradation", {"tile": 8, "points": 17}),
    "degradation 14x14": ("degradation", {"tile": 14, "points": 17}),
    "insertion from blur": (
        "insertion",
        {"preset": "rise", "target": "given", "pixels_per_step": 1568},
    ),
    "deletion": ("deletion", {"pixels_per_step": 1568}),
    "decision flip": ("decision_flip", {"pixels_per_step": 1568, "noise_maps": 1}),
}


def networks(name: str) -> tuple[torch.nn.Module, FrozenClassifier]:
    """The same random weights as torchvision makes the network, and as ours."""
    classifier = FrozenClassifier(name, "random")
    own = torchvision.models.get_model(name, weights=None).eval()
    own.load_state_dict(classifier.model.state_dict())
    return own, classifier


def sample(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.rand(count, 1, 28, 28, generator=generator)
    heatmaps = torch.nn.functional.interpolate(heatmaps, size=SIDE, mode="bilinear")[:, 0]
    return (
        torch.randn(count, 3, SIDE, SIDE, generator=generator),
        torch.arange(count) % 1000,
        heatmaps,
    )


def judge(
    classifier: FrozenClassifier, name: str, settings: dict[str, Any], data: tuple[Tensor, ...]
) -> Any:
    """One metric over a batch."""
    metric = build_metric(name, settings)
    images, targets, heatmaps = data
    others = (
        torch.stack([heatmaps.roll(-k, 0) for k in range(1, metric.others_wanted + 1)], 1)
        if metric.others_wanted
        else None
    )
    metric.update(classifier, images, targets, heatmaps, others=others)
    return metric


def forwarded(classifier: FrozenClassifier, run: Callable[[], object]) -> int:
    """How many images a run sends through the classifier."""
    seen: list[int] = []
    with contextlib.ExitStack() as stack:
        handle = classifier.register_forward_hook(
            lambda _m, inputs, _o: seen.append(len(inputs[0]))
        )
        stack.callback(handle.remove)
        run()
    return sum(seen)


def against_bare(network: str, repeats: int) -> list[dict[str, object]]:
    """Throughput of each metric as a share of the bare forward pass; the second share is of the
    folded network's.
    """
    _, classifier = networks(network)
    data = sample(2)
    images = sample(BATCH)[0]
    rows: list[dict[str, object]] = []
    for label, (name, settings) in JUDGED.items():
        settings = settings | {"forward_batch_size": BATCH}
        count = forwarded(classifier, lambda: judge(classifier, name, settings, data))  # noqa: B023
        batches = max(1, round(count / BATCH))

        def forward(function: Callable[[Tensor], Tensor], batches: int = batches) -> None:
            with torch.inference_mode():
                for _ in range(batches):
                    function(images)

        times = median_seconds(
            {
                "metric": lambda: judge(classifier, name, settings, data),  # noqa: B023
                "bare": lambda: forward(classifier),
                "folded": lambda: forward(classifier.folded()),
            },
            repeats,
            warm_up=False,
            clock=CLOCK,
        )
        an_image = {
            "bare": times["bare"] / (batches * BATCH),
            "folded": times["folded"] / (batches * BATCH),
        }
        rows.append(
            {
                "measurement": label,
                "peer": "bare forward pass",
                "ours, s an image": times["metric"] / 2,
                "peer, s an image": an_image["bare"] * count / 2,
                "peer / ours": an_image["bare"] * count / times["metric"],
                "largest difference": 0.0,
                "note": (
                    f"{count // 2} forwards; of the folded network's"
                    f" {an_image['folded'] * count / times['metric']:.2f}"
                ),
            }
        )
    return rows


def compared(
    label: str,
    ours: Callable[[], Tensor],
    peers: dict[str, Callable[[], Tensor]],
    repeats: int,
    note: str,
) -> list[dict[str, object]]:
    """Rows of one measurement, on one image, that a peer offers as well; results are compared
    too.
    """
    results: dict[str, Tensor] = {}

    def kept(name: str, run: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: results.__setitem__(name, run())

    runs = {name: kept(name, run) for name, run in {"ours": ours, **peers}.items()}
    times = median_seconds(runs, repeats, warm_up=False, clock=CLOCK)
    size = results["ours"].abs().max()
    return [
        {
            "measurement": label,
            "peer": peer,
            "ours, s an image": times["ours"],
            "peer, s an image": times[peer],
            "peer / ours": times[peer] / times["ours"],
            "largest difference": float((results[peer] - results["ours"]).abs().max() / size),
            "note": note,
        }
        for peer in peers
    ]


def against_captum(network: str, repeats: int) -> list[dict[str, object]]:
    """Occlusion and integrated gradients."""
    own, classifier = networks(network)
    images, targets, _ = sample(1)
    window = (3, TILE, TILE)
    occlusion = build_explainer(
        "occlusion_14", classifier, {"fill": "zero", "forward_batch_size": BATCH}
    )
    integrated = build_explainer("integrated_gradients", classifier, {"forward_batch_size": BATCH})

    def captum_occlusion(model: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            return CaptumOcclusion(model).attribute(
                images,
                window,
                strides=window,
                target=targets,
                perturbations_per_eval=BATCH // len(images),
            )

    def captum_integrated(model: torch.nn.Module) -> Tensor:
        return CaptumIntegratedGradients(model).attribute(
            images, target=targets, internal_batch_size=BATCH
        )

    rows = []
    for label, ours, theirs in (
        (
            "integrated gradients, 50 steps",
            integrated,
            lambda model: captum_integrated(model).sum(dim=1),
        ),
        ("occlusion 14", occlusion, lambda model: captum_occlusion(model)[:, 0]),
    ):
        rows += compared(
            label,
            lambda ours=ours: ours.attribute(images, targets, keys=["a"]).values,  # type: ignore[misc]
            {
                "Captum, own": lambda theirs=theirs: theirs(own),  # type: ignore[misc]
                "Captum, same": lambda theirs=theirs: theirs(classifier),  # type: ignore[misc]
            },
            repeats,
            f"forward batch {BATCH}",
        )
    return rows


def against_quantus(network: str, repeats: int) -> list[dict[str, object]]:
    """PixelFlipping against deletion, Selectivity and RegionPerturbation against one direction of
    degradation, MPRT against the sanity check.
    """
    import quantus

    own, classifier = networks(network)
    images, targets, heatmaps = sample(1)
    arrays = {
        "x_batch": images.numpy(),
        "y_batch": targets.numpy(),
        "a_batch": heatmaps[:, None].numpy(),
    }

    def peer(metric: Any, model: torch.nn.Module) -> Tensor:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            curves = metric(model=model, **arrays, softmax=True, batch_size=len(images))
        return torch.from_numpy(np.asarray(curves))

    selectivity = quantus.Selectivity(patch_size=TILE, perturb_baseline=0.0, disable_warnings=True)
    # As many steps as ours: Quantus orders and removes single values of the three channels, not
    # pixels.
    flipping = quantus.PixelFlipping(
        features_in_step=3 * SIDE**2 // STEPS, perturb_baseline=0.0, disable_warnings=True
    )
    data = images, targets, heatmaps
    deletion = {"pixels_per_step": -(-(SIDE**2) // STEPS), "forward_batch_size": BATCH}
    rows = compared(
        "PixelFlipping, 48 steps",
        lambda: judge(classifier, "deletion", deletion, data).rows()["probability"][:, 1:],
        {
            "Quantus, own": lambda: peer(flipping, own),
            "Quantus, same": lambda: peer(flipping, classifier),
        },
        repeats,
        "other pixels: theirs are single values",
    )
    tiles = {"tile": TILE, "forward_batch_size": BATCH}
    rows += compared(
        "Selectivity 14x14, 256 steps",
        lambda: judge(classifier, "degradation", tiles, data).rows()["morf"][:, 1:],
        {
            "Quantus, own": lambda: peer(selectivity, own),
            "Quantus, same": lambda: peer(selectivity, classifier),
        },
        repeats,
        "ours halved: both directions, theirs one",
    )
    # One pixel after the other, the best tiles of any place; ours has a grid, and as many looks.
    regions = quantus.RegionPerturbation(
        patch_size=TILE, regions_evaluation=LOOKS, perturb_baseline="black", disable_warnings=True
    )
    grid = {"tile": TILE, "points": LOOKS + 1, "forward_batch_size": BATCH}
    rows += compared(
        f"RegionPerturbation 14x14, {LOOKS} steps",
        lambda: judge(classifier, "degradation", grid, data).rows()["morf"][:, 1:],
        {"Quantus, own": lambda: peer(regions, own)},
        repeats,
        "ours halved: both directions, theirs one; other tiles and another fill, so no difference",
    )
    for row in rows[2:]:
        row["ours, s an image"] = float(row["ours, s an image"]) / 2  # type: ignore[arg-type]
        row["peer / ours"] = float(row["peer / ours"]) * 2  # type: ignore[arg-type]
    rows[-1]["largest difference"] = "not compared"
    return rows + randomised_by_quantus(own, classifier, repeats)


def randomised_by_quantus(
    own: torch.nn.Module, classifier: FrozenClassifier, repeats: int
) -> list[dict[str, object]]:
    """MPRT against the sanity check, both of the saliency map on a small batch. Seconds are of one
    image and one randomised network, of which theirs has one a module with weights and ours one a
    layer (a convolution with its batch norm).
    """
    import quantus

    images, targets, _ = sample(8)
    layers = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in own.modules())
    modules = sum(
        isinstance(m, torch.nn.Conv2d | torch.nn.Linear | torch.nn.BatchNorm2d)
        for m in own.modules()
    )
    theirs = quantus.MPRT(disable_warnings=True)
    explainer = build_explainer("saliency", classifier)
    maps = explainer.attribute(images, targets).values

    def ours() -> Tensor:
        metric = build_metric("sanity_check", {"points": None, "control": False})
        subject = Subject.named(explainer, "saliency", {})
        metric.update(classifier, images, targets, maps, subject=subject)
        return metric.rows()["ssim"]

    def peer() -> Tensor:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            theirs(
                model=own,
                x_batch=images.numpy(),
                y_batch=targets.numpy(),
                explain_func=quantus.explain,
                explain_func_kwargs={"method": "Saliency"},
                batch_size=len(images),
            )
        return torch.zeros(1)

    rows = compared(
        "MPRT of saliency, 8 images",
        ours,
        {"Quantus, own": peer},
        repeats,
        "for one image and one randomised network; other similarities, so no difference",
    )
    for row in rows:
        for key, count in (("ours, s an image", layers), ("peer, s an image", modules)):
            row[key] = float(row[key]) / count / len(images)  # type: ignore[arg-type]
        row["peer / ours"] = float(row["peer, s an image"]) / float(row["ours, s an image"])  # type: ignore[arg-type]
        row["largest difference"] = "not compared"
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["bare", "captum", "quantus"])
    arguments = parser.parse_args()
    parts = {"captum": against_captum, "quantus": against_quantus, "bare": against_bare}
    if not importlib.util.find_spec("quantus"):
        missing = "Quantus is not installed; pip install 'lit_iba[peers]'"
        if arguments.only == "quantus":
            raise SystemExit(missing)
        print(f"{missing} to be compared with it, too")
        del parts["quantus"]
    for name, part in parts.items():
        if arguments.only in (None, name):
            report(f"metrics_{name}", part(arguments.network, arguments.repeats))
