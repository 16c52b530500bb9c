"""What the explorer says of a map."""

import torch

from lit_iba.view.session import shown


def test_a_map_says_whether_its_colours_are_those_of_signs() -> None:
    smooth = torch.linspace(-1, 1, 64).expand(64, 64)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert shown(smooth, "1", True)["signs"]
    assert not shown(smooth, "1", False)["signs"]
    assert not shown(noise, "1", True)["signs"]  # drawn by its absolute values
