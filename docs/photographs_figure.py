"""The README's picture, from what ``explain`` has written:
``lit-iba explain astronaut chelsea coffee rocket --explainer
readout_input_iba,readout_iba,varsal,per_sample_iba,grad_cam --classifier.model efficientnet_lite0
--classifier.weights DEFAULT --out OUT`` and ``python docs/photographs_figure.py OUT``.
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1200


def main(folder: Path, out: Path) -> None:
    """Stack the panels of the photographs."""
    panels = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.panel.png"))]
    stacked = Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        stacked.paste(panel, (0, top))
        top += panel.height
    height = round(stacked.height * WIDTH / stacked.width)
    out.parent.mkdir(parents=True, exist_ok=True)
    stacked.resize((WIDTH, height), Image.Resampling.LANCZOS).save(out, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path("docs/images/photographs.jpg"))
