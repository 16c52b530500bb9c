"""A run folder as a benchmark leaves it, from made-up numbers: small enough for a test, rich enough
to look at.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

SIGNED = {"integrated_gradients", "gradient"}
EXPLAINERS = {  # name: quality, settings, seconds an image
    "per_sample_iba": (0.57, {"layer": "layer2", "beta": 10}, 0.31),
    "readout_iba": (0.53, {"checkpoint": "readout.ckpt", "beta": 10}, 0.012),
    "grad_cam": (0.525, {"layer": "layer4"}, 0.009),
    "integrated_gradients": (0.40, {"steps": 50}, 0.42),
    "random": (0.0, {}, 0.0001),
}


def fake_run(
    folder: Path,
    explainers: dict[str, Any] | None = None,
    images: int = 40,
    pictures: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
    seed: int = 0,
) -> Path:
    """Write a run folder of three metrics; scores are the means of the rows, as in a true run."""
    rng = np.random.default_rng(seed)
    explainers = EXPLAINERS if explainers is None else explainers
    folder.mkdir(parents=True, exist_ok=True)
    keys = [f"val_{i:05d}" for i in range(images)]
    difficulty = rng.normal(0, 0.12, images)
    rows: list[tuple[str, str, str, str, float]] = []
    results: dict[str, dict[str, Any]] = {
        "degradation_8": {},
        "bounding_box": {},
        "sensitivity_n": {},
    }
    for name, (quality, _, _) in explainers.items():
        for metric, factor in (
            ("degradation_8", 1.0),
            ("bounding_box", 0.95),
            ("sensitivity_n", 0.4),
        ):
            values = (
                quality * factor + 0.01 + difficulty * (quality > 0) + rng.normal(0, 0.05, images)
            )
            rows += [
                (key, name, metric, "score", float(v)) for key, v in zip(keys, values, strict=True)
            ]
            results[metric][name] = {
                "score": float(values.mean()),
                "standard_error": float(values.std(ddof=1) / images**0.5) if images > 1 else None,
                "n": images,
                "extra": {},
                "curves": _curves(metric, quality, rng),
                "x_label": (
                    {
                        "degradation_8": "fraction of tiles removed",
                        "sensitivity_n": "tiles removed",
                    }.get(metric, "")
                ),
                "y_label": (
                    {
                        "degradation_8": "probability of the target, scaled",
                        "sensitivity_n": "correlation",
                    }.get(metric, "")
                ),
            }
    results["degradation_8"][next(iter(explainers))]["extra"] = {"t1": 0.874, "b": 0.0012}
    document = {
        "schema": 1,
        "created": "2026-03-01T12:00:00+00:00",
        "command": "python evaluate.py benchmark --config configs/evaluate/table1.yaml",
        "classifier": {"model": "resnet50", "weights": "IMAGENET1K_V1", "sha256": "0f" * 32},
        "data": {
            "source": "data/imagenet/val",
            "images": images + 2,
            "used": images,
            "corrupt": 1,
            "identity": "ab" * 8,
        },
        "explainers": {
            name: (
                {"class": name, "settings": settings, "unit": "bits" if "iba" in name else "1"}
                | {"signed": name in SIGNED, "seconds_per_image": seconds}
            )
            for name, (_, settings, seconds) in explainers.items()
        },
        "metrics": {
            "degradation_8": {
                "class": "degradation",
                "settings": {
                    "tile": 8,
                    "baseline": "mean_of_image",
                    "points": 100,
                    "t1": "top1",
                },
                "definition": DEFINITION,
                "better": "higher",
            },
            "bounding_box": (
                {
                    "class": "bounding_box",
                    "settings": {"limit": 0.33},
                    "better": "higher",
                }
                | {
                    "definition": (
                        "Share of the n highest pixels that lie inside the box of n pixels; boxes"
                        " below 33 %."
                    )
                }
            ),
            "sensitivity_n": (
                {"class": "sensitivity_n", "settings": {"tile": 8}, "better": "higher"}
                | {
                    "definition": (
                        "Correlation of the attribution in a random set of n tiles with the drop of"
                        " the logit."
                    )
                }
            ),
        },
        "results": results,
    }
    (folder / "results.json").write_text(json.dumps(document))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "explainer", "metric", "quantity", "value"])
        writer.writerows(rows)
    (folder / "config.yaml").write_text(
        "classifier:\n  model: resnet50\n  weights: IMAGENET1K_V1\nbatch_size: 32\n"
    )
    (folder / "command.txt").write_text(
        "python evaluate.py benchmark --config configs/evaluate/table1.yaml\n"
    )
    _write_gallery(folder, list(explainers), keys, pictures, masks)
    return folder


DEFINITION = (
    "Integral of the LeRF curve minus the MoRF curve over the share of 8×8 tiles replaced by zero"
    " (the mean colour); probabilities scaled by (p - b) / (t1 - b)."
)


def _curves(metric: str, quality: float, rng: np.random.Generator) -> dict[str, Any]:
    if metric == "degradation_8":
        x = np.linspace(0, 1, 21)
        bend = np.clip(quality, 0.02, 0.9)
        morf, lerf = (1 - x) ** (1 + 9 * bend), 1 - x ** (1 + 6 * bend)
        se = 0.02 * np.sqrt(x * (1 - x)) + 0.002
        return {
            n: {"x": x.tolist(), "y": y.tolist(), "se": se.tolist()}
            for n, y in (("MoRF", morf), ("LeRF", lerf))
        }
    if metric == "sensitivity_n":
        x = np.unique(np.geomspace(1, 627, 16).round())
        y = quality * 0.6 * np.exp(-((np.log(x) - 4.5) ** 2) / 9) + rng.normal(0, 0.006, len(x))
        return {"correlation": {"x": x.tolist(), "y": y.tolist(), "se": [0.012] * len(x)}}
    return {}


def _write_gallery(
    folder: Path,
    names: list[str],
    keys: list[str],
    pictures: torch.Tensor | None,
    masks: torch.Tensor | None,
) -> None:
    generator = torch.Generator().manual_seed(0)
    if pictures is None:
        pictures = torch.randint(0, 256, (2, 3, 24, 32), generator=generator, dtype=torch.uint8)
    count, _, height, width = pictures.shape
    if masks is None:
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        masks[0, height // 4 : height // 2, width // 4 : width // 2] = True
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    tensors = {"pictures": pictures, "object_mask": masks, "labels": torch.arange(count)}
    for i, name in enumerate(names):
        blob = torch.exp(-((rows - 0.2 * i + 0.3) ** 2 + (columns + 0.25 * i - 0.4) ** 2) * (3 + i))
        noise = torch.randn(count, height, width, generator=generator)
        tensors[f"heatmap/{name}"] = (
            blob * noise if name in SIGNED else 0.4 * blob + 0.02 * noise.abs()
        )
    names_of_labels = json.dumps([f"class {i}" for i in range(count)])
    save_file(
        tensors,
        folder / "gallery.safetensors",
        {"keys": json.dumps(keys[:count]), "class_names": names_of_labels},
    )
