"""The README of an export: how to load each of its files, for people who have nothing but the
folder.
"""

from __future__ import annotations

from typing import Any

_HEAD = """# {name} for {model} ({weights})

Exported by lit_iba {version}. {outputs}

- Input `images`: float32 (batch, {channels}, {height}, {width}), any batch size. {resize}
- What the files are, how far each is from the explainer, and their SHA-256: `explainer.json`.
- How it was trained, its scores, limits and licence: `explainer.md`.

The images below are made from `pictures`: uint8, {colours}, resized and cropped.
"""

_PT2 = """
## PyTorch, without lit_iba

```python
import torch

pictures = torch.randint(256, (2, {channels}, {height}, {width}), dtype=torch.uint8)
mean, std = (torch.tensor(v).view({channels}, 1, 1) for v in ({mean}, {std}))
program = torch.export.load("explainer.pt2").module()
{results} = program((pictures / 255 - mean) / std)
```

On a GPU:
`torch.export.passes.move_to_device_pass(torch.export.load("explainer.pt2"), "cuda").module()`.
"""

_ONNX = """
## onnxruntime

```python
import numpy as np, onnxruntime

pictures = np.random.randint(0, 256, (2, {channels}, {height}, {width}), dtype=np.uint8)
mean, std = (np.array(v, dtype=np.float32).reshape({channels}, 1, 1) for v in ({mean}, {std}))
session = onnxruntime.InferenceSession("explainer.onnx", providers=["CPUExecutionProvider"])
{results} = session.run(None, {{"images": (pictures.astype(np.float32) / 255 - mean) / std}}){only}
```
"""

_SAFETENSORS = """
## lit_iba

```python
from lit_iba.export import load_exported

explainer = load_exported("."{classifier})
heatmap = explainer.attribute(explainer.classifier.images(pictures))
```
"""


def readme(description: dict[str, Any]) -> str:
    """Markdown for the content of an ``explainer.json``."""
    made, classifier, outputs = (
        description["preprocessing"],
        description["classifier"],
        description["outputs"],
    )
    height, width = description["input"]["shape"][-2:]
    names = [output["name"] for output in outputs]
    words = {
        "name": description["explainer"]["name"],
        "model": classifier["model"],
        "weights": classifier["weights"],
        "version": description["packages"].get("lit_iba", ""),
        "height": height,
        "width": width,
        "channels": len(made["mean"]),
        "colours": "RGB" if len(made["mean"]) == 3 else f"{len(made['mean'])} channels",
        "mean": made["mean"],
        "std": made["std"],
        "results": ", ".join(names),
        "only": "[0]" if len(names) == 1 else "",
        "classifier": "" if classifier["record"] else ", classifier=your_frozen_classifier",
        "outputs": " ".join(
            f"Output `{o['name']}` (batch, {height}, {width}) in {o['unit']}: {o['meaning']}"
            for o in outputs
        ),
        "resize": f"Pictures are {_geometry(made)} first.",
    }
    parts = {"pt2": _PT2, "onnx": _ONNX, "safetensors": _SAFETENSORS}
    chosen = [text for name, text in parts.items() if name in description["formats"]]
    return "".join(text.format(**words) for text in [_HEAD, *chosen])


def _geometry(made: dict[str, Any]) -> str:
    resize, kernel = made["resize"], f"({made['interpolation']}, antialiased) and "
    if isinstance(resize, list):
        resized = f"resized to {_pixels(resize)} {kernel}"
    elif resize is not None:
        resized = f"resized to {resize} pixels on the shorter side {kernel}"
    else:
        resized = ""
    return f"{resized}cropped to their central {_pixels(made['crop'])}"


def _pixels(size: int | list[int]) -> str:
    if isinstance(size, int):
        return f"{size} pixels"
    return f"{size[0]} x {size[1]} pixels (height x width)"
