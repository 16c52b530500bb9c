"""Photographs beside their maps, from what ``explain`` has written, as one picture of the docs.

The README's, and that of docs/trained.md::

    lit-iba explain astronaut chelsea coffee rocket --out OUT
        --explainer readout_input_iba,readout_iba,varsal,per_sample_iba,grad_cam
        --classifier.model efficientnet_lite0 --classifier.weights DEFAULT
    python docs/photographs_figure.py OUT docs/images/photographs.jpg 1200

    python docs/photographs_figure.py OUT8 docs/images/eight_photographs.jpg 1700

with the command of docs/trained.md for ``OUT8``.
"""

import sys
from pathlib import Path

from PIL import Image


def main(folder: Path, out: Path, width: int) -> None:
    """Stack the panels of the photographs."""
    panels = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.panel.png"))]
    stacked = Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        stacked.paste(panel, (0, top))
        top += panel.height
    height = round(stacked.height * width / stacked.width)
    out.parent.mkdir(parents=True, exist_ok=True)
    stacked.resize((width, height), Image.Resampling.LANCZOS).save(out, quality=82)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
