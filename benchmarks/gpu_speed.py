"""The parts of gpu.py that measure speed: against the device's own limits, against the plain form,
against the bare network.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torchvision
from gpu import Run, tf32
from metrics import JUDGED, forwarded, judge
from per_sample_iba import PlainPerSampleIBA
from timing import flops
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier, PerSampleIBA
from lit_iba.input_iba.explainer import InputIBA

NETWORKS = {"resnet50": "layer2", "vgg16": "features.17"}
SMALL_NETWORKS = {"resnet18": "layer2"}
TERA = 1e12


def ceilings(run: Run) -> None:
    """What the device can do at all: bytes copied, and matrix products in each precision."""
    side = 256 if run.small else 8192
    source = torch.randn(side, side, 1 if run.small else 8, device=run.device)
    target = torch.empty_like(source)
    seconds = run.seconds(lambda: target.copy_(source), 10)
    run.add("ceilings", {"what": "copy, TB/s", "value": 2 * source.numel() * 4 / seconds / TERA})
    for name, dtype, rounded in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, True),
    ):
        a, b = (torch.randn(side, side, device=run.device, dtype=dtype) for _ in range(2))
        with tf32(rounded):
            run.limits[name] = 2 * side**3 / run.seconds(lambda a=a, b=b: a @ b, 5, 2)  # type: ignore[misc]
        run.add(
            "ceilings",
            {"what": f"matrix product {side}, {name}, TFLOP/s", "value": run.limits[name] / TERA},
        )


def subject(
    run: Run, network: str, layer: str, side: int
) -> tuple[nn.Module, FrozenClassifier, Any, Tensor]:
    """The network as torchvision makes it, the same as ours, statistics of a layer, and 64 random
    images (4 if small).
    """
    torch.manual_seed(0)
    model = torchvision.models.get_model(network, weights=None).eval().to(run.device)
    own = torchvision.models.get_model(network, weights=None)
    own.load_state_dict(model.state_dict())
    classifier = FrozenClassifier(own.to(run.device, memory_format=torch.channels_last))
    images = torch.randn(4 if run.small else 64, 3, side, side, device=run.device)
    images = images.contiguous(memory_format=torch.channels_last)
    return model, classifier, FeatureStatistics.estimate(classifier, layer, images), images


def correlation(one: Tensor, other: Tensor) -> float:
    """Of maps (B, H, W), over all pixels of all images."""
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def per_sample(run: Run) -> None:
    """Per-Sample IBA in every precision and form, for batches of 1, 8 and 64, against the plain
    form one image at a time.
    """
    for network, layer in (SMALL_NETWORKS if run.small else NETWORKS).items():
        model, classifier, statistics, images = subject(
            run, network, layer, 32 if run.small else 224
        )
        steps = {"steps": 2, "copies": 2} if run.small else {}
        plain = PlainPerSampleIBA(
            model.requires_grad_(True),
            layer,
            statistics.mean.float().to(run.device),
            statistics.std.float().clamp_min(0.01).to(run.device),
        )
        bare: dict[bool, float] = {}
        for rounded in (False, True):
            image = images[:1].contiguous()
            one = lambda plain=plain, image=image: plain.attribute(image, 0, 2 if run.small else 10)  # type: ignore[misc] # noqa: E731
            with tf32(rounded):
                bare[rounded] = run.seconds(one, 2)
            form = f"plain, {'tf32' if rounded else 'float32'}"
            run.add(
                "per_sample",
                {"network": network, "form": form, "batch": 1, "images/s": 1 / bare[rounded]},
            )
        forms: dict[str, tuple[bool, dict[str, Any]]] = {
            "float32": (False, {}),
            "tf32": (True, {}),
            "bf16": (True, {"precision": "bf16"}),
        }
        if run.device.type == "cuda":
            forms["bf16, CUDA graph"] = (True, {"precision": "bf16", "cuda_graph": True})
        once = PerSampleIBA(classifier, layer, statistics, active_threshold=-1.0, **steps)
        work = flops(lambda: once.attribute(images[:1], target=0))  # noqa: B023
        kept: dict[int, Tensor] = {}
        for batch in (1, 2) if run.small else (1, 8, 64):
            part, keys = images[:batch], [str(i) for i in range(batch)]
            for form, (rounded, settings) in forms.items():
                iba = PerSampleIBA(
                    classifier, layer, statistics, active_threshold=-1.0, **steps, **settings
                )

                def explain(
                    iba: PerSampleIBA = iba, part: Tensor = part, keys: list[str] = keys
                ) -> Tensor:
                    return iba.attribute(part, target=0, keys=keys).values

                with tf32(rounded), run.memory() as peak:
                    seconds = run.seconds(explain, 2)
                    maps = explain()
                kept.setdefault(batch, maps)
                limit = run.limits.get("bf16" if "bf16" in form else form)
                run.add(
                    "per_sample",
                    {
                        "network": network,
                        "form": form,
                        "batch": batch,
                        "images/s": batch / seconds,
                        "ms an image": 1000 * seconds / batch,
                        "plain float32 / this": bare[False] * batch / seconds,
                        "plain tf32 / this": bare[True] * batch / seconds,
                        "GFLOP an image": work / 1e9,
                        "share of the limit": batch * work / seconds / limit if limit else 0.0,
                        "correlation with float32": correlation(kept[batch], maps),
                        "peak GiB": peak(),
                    },
                )


def input_iba(run: Run) -> None:
    """InputIBA's stages apart, at the paper's settings."""
    network, layer = next(iter(SMALL_NETWORKS.items())) if run.small else ("vgg16", "features.17")
    _, classifier, statistics, images = subject(run, network, layer, 32 if run.small else 224)
    of_input = FeatureStatistics.estimate(classifier, "input", [images.cpu()])
    short = (
        {"steps": 2, "generator_steps": 2, "critic_warm_up": 1, "feature_steps": 2, "copies": 2}
        if run.small
        else {}
    )
    reference: dict[int, Tensor] = {}
    for batch in (2, 1) if run.small else (8, 1):
        part, keys = images[:batch], [str(i) for i in range(batch)]
        for precision in ("float32", "tf32", "bf16"):
            changes = {"precision": "bf16"} if precision == "bf16" else {}
            stages: dict[str, float] = {}
            last = [0.0]

            def seen(
                stage: str,
                done: int,
                total: int,
                stages: dict[str, float] = stages,
                last: list[float] = last,
            ) -> None:
                if done == total:
                    run.wait()
                    stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - last[0]
                    last[0] = time.perf_counter()

            iba = InputIBA(
                classifier,
                layer,
                statistics,
                of_input,
                output="smoothed_lambda",
                on_step=seen,
                **short,
                **changes,
            )
            with tf32(precision != "float32"), run.memory() as peak:
                if precision != "float32":  # slow enough to do without
                    iba.attribute(part, target=0, keys=keys)  # warm-up
                stages.clear()
                run.wait()
                last[0] = start = time.perf_counter()
                maps = iba.attribute(part, target=0, keys=keys).values
                run.wait()
                seconds = time.perf_counter() - start
            reference.setdefault(batch, maps)
            run.add(
                "input_iba",
                {
                    "network": network,
                    "precision": precision,
                    "batch": batch,
                    "s an image": seconds / batch,
                    **{f"{stage}, s an image": value / batch for stage, value in stages.items()},
                    "correlation with float32": correlation(reference[batch], maps),
                    "peak GiB": peak(),
                },
            )


def metrics(run: Run) -> None:
    """Metrics on stored heatmaps against the same number of bare forward passes."""
    network, batch, side = ("small_cnn", 4, 32) if run.small else ("resnet50", 128, 224)
    classifier = FrozenClassifier(network, "random").to(run.device)
    generator = torch.Generator().manual_seed(0)
    count = 2 if run.small else 16
    data = (
        torch.randn(count, 3, side, side, generator=generator).to(run.device),
        torch.arange(count).to(run.device),
        torch.rand(count, side, side, generator=generator).to(run.device),
    )
    images = torch.randn(batch, 3, side, side, device=run.device)
    for label, (name, settings) in JUDGED.items():
        settings = settings | {"forward_batch_size": batch}
        if "points" in settings and not run.small:
            settings["points"] = 100  # as in the paper
        score = lambda name=name, settings=settings: judge(classifier, name, settings, data)  # type: ignore[misc] # noqa: E731
        passes = forwarded(classifier, score)
        batches = max(1, round(passes / batch))
        with tf32(True):
            seconds = run.seconds(score, 2)
            bare = {}
            for form, network_of in (("as it is", classifier), ("folded", classifier.folded())):

                @torch.inference_mode()
                def forward(network_of: Any = network_of, batches: int = batches) -> None:
                    for _ in range(batches):
                        network_of(images)

                bare[form] = run.seconds(forward, 2) / (batches * batch)
        run.add(
            "metrics",
            {
                "metric": label,
                "forwards an image": passes // count,
                "images/s through the network": passes / seconds,
                "bare / metric": bare["as it is"] * passes / seconds,
                "bare folded / metric": bare["folded"] * passes / seconds,
            },
        )


def training(run: Run) -> None:
    """Training steps of the readout and of VarSal's encoder against what they cannot do without."""
    from readout_training import parts_of_readout_step
    from varsal_training import parts_of_varsal_step

    network, side = ("resnet18", 32) if run.small else ("resnet50", 224)
    for batch in (2,) if run.small else (16, 64):
        for name, parts_of_step in (
            ("readout", parts_of_readout_step),
            ("varsal", parts_of_varsal_step),
        ):
            runs = parts_of_step(network, side, batch, run.device)
            with (
                tf32(True),
                run.memory() as peak,
                torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=not run.small),
            ):
                times = {part: run.seconds(function, 5, 2) for part, function in runs.items()}
            floor = min(seconds for part, seconds in times.items() if part.startswith("floor"))
            run.add(
                "training",
                {
                    "module": name,
                    "network": network,
                    "batch": batch,
                    "ms a step": 1000 * times["step"],
                    "images/s": batch / times["step"],
                    "floor / step": floor / times["step"],
                    "peak GiB": peak(),
                },
            )


def compiled(run: Run) -> None:
    """Per-Sample IBA with the layers behind the bottleneck compiled; the first call, which
    compiles, apart.
    """
    network, layer = next(iter((SMALL_NETWORKS if run.small else NETWORKS).items()))
    if run.small:
        return  # compiling is the one thing that a toy does not make shorter
    _, classifier, statistics, images = subject(run, network, layer, 224)
    for batch in (8, 64):
        iba = PerSampleIBA(
            classifier, layer, statistics, active_threshold=-1.0, precision="bf16", compile=True
        )
        explain = lambda iba=iba, batch=batch: iba.attribute(images[:batch], target=0)  # type: ignore[misc] # noqa: E731
        run.wait()
        start = time.perf_counter()
        explain()
        run.wait()
        first = time.perf_counter() - start
        seconds = run.seconds(explain, 2)
        row = {
            "network": network,
            "form": "bf16, compiled tail",
            "batch": batch,
            "images/s": batch / seconds,
        }
        run.add("compiled", row | {"first call, s": first})


def profile(run: Run) -> None:
    """Where Per-Sample IBA's time goes on the device: kernels by their share, beside the
    results.
    """
    network, layer = next(iter((SMALL_NETWORKS if run.small else NETWORKS).items()))
    _, classifier, statistics, images = subject(run, network, layer, 32 if run.small else 224)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if run.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    text = ""
    for batch in (1, len(images)):
        steps = {"steps": 2, "copies": 2} if run.small else {"precision": "bf16"}
        iba = PerSampleIBA(classifier, layer, statistics, active_threshold=-1.0, **steps)
        iba.attribute(images[:batch], target=0)
        with torch.profiler.profile(activities=kinds) as profiler:
            iba.attribute(images[:batch], target=0)
            run.wait()
        order = "self_device_time_total" if run.device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=70)
        text += f"Per-Sample IBA, {network}, batch {batch}\n{table}\n"
    from readout_training import parts_of_readout_step
    from varsal_training import parts_of_varsal_step

    for name, parts_of_step in (
        ("readout", parts_of_readout_step),
        ("varsal", parts_of_varsal_step),
    ):
        step = parts_of_step(network, 32 if run.small else 224, 2 if run.small else 64, run.device)[
            "step"
        ]
        with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=not run.small):
            step()
            with torch.profiler.profile(activities=kinds) as profiler:
                step()
                run.wait()
        table = profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=70)
        text += f"{name}, a training step, {network}\n{table}\n"
    run.path.with_suffix(".profile.txt").write_text(text, encoding="utf-8")
