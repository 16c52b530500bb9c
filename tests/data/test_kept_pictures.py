"""Pictures of every kind that Pillow has, kept as shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import PipelineDataModule, ShardDataModule

SMALL = Preprocessing(resize=None, crop=20)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "PA", "CMYK"])
def test_a_picture_of_any_kind_is_kept_as_shards_as_it_would_be_seen(
    mode: str, tmp_path: Path
) -> None:
    values = np.linspace(0, 65535, 24 * 24).reshape(24, 24)
    pictures = {
        "I": Image.fromarray(values.astype(np.int32)),
        "I;16": Image.fromarray(values.astype(np.uint16)),
        "I;16B": Image.frombytes("I;16B", (24, 24), values.astype(">u2").tobytes()),
    }
    grey = Image.fromarray((values / 257).astype(np.uint8))
    picture = pictures[mode] if mode in pictures else grey.convert("P" if mode == "PA" else mode)
    if mode == "PA":
        picture = picture.convert("PA")
        picture.putalpha(grey)
    data = PipelineDataModule(test=[(picture, 0)], preprocessing=SMALL)
    data.write_shards("test", tmp_path / "kept")
    kept = ShardDataModule(test=str(tmp_path / "kept"), preprocessing=SMALL)
    seen = []
    for given in (data, kept):
        given.setup("test")
        seen += [batch["picture"] for batch in given.test_dataloader()]
    assert picture.mode == mode
    assert seen[0].unique().numel() > 40  # neither clipped nor black
    assert torch.equal(*seen)
