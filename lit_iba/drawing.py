"""How a map becomes colours: what its scale begins and ends with, and what is done to see it.

A map of gradients has its values in single pixels of both signs. Drawn as it is, a reader sees the
photograph in grey. Such a fine-grained map is drawn by its absolute values, blurred a little, up to
their 98th percentile (Captum, too, cuts 2 %). Values themselves never change, only what is drawn of
them, and a caption says it.

Words in a picture, too: matplotlib's font lacks most of the world's letters, and room is short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

from lit_iba.perturbation import gaussian_blur

SIDE = 224  # the shorter side of the picture whose pixels the blur counts
BLUR = 2.0  # pixels of such a picture
FINE = 0.75  # of the variance: on photographs gradients and LRP keep 0.1 to 0.64, CAMs 0.86 to 1
MOST_LETTERS = 44  # of a name beside a plot, which leave room for the plot
CUT_FINE, CUT = 0.02, 0.001  # the share of the pixels that lies beyond the end of the colours


@dataclass(frozen=True)
class Drawn:
    """What is drawn of a batch of maps.

    Args:
        values: float (B, H, W), in the map's own unit: the map, or the blurred absolute values of a
            fine-grained one.
        low: (B,) where the colours begin.
        high: (B,) where they end.
        fine: bool (B,), whether a map is fine-grained.
        signed: bool (B,), whether negative values are drawn, in blue.
    """

    values: Tensor
    low: Tensor
    high: Tensor
    fine: Tensor
    signed: Tensor

    @property
    def scaled(self) -> Tensor:
        """Values for a colour map, (B, H, W): [0, 1], or [-1, 1] with zero at zero where a map is
        drawn with its sign.
        """
        low = torch.where(self.signed, 0.0, self.low)[:, None, None]
        high = self.high[:, None, None]
        # A constant map is nothing at all, also where rounding makes its percentile larger.
        scaled = ((self.values - low) / (high - low).clamp_min(1e-12)).clamp(-1, 1)
        return torch.where(self.signed[:, None, None], scaled, scaled.clamp_min(0))

    def colored(self) -> Tensor:
        """The maps alone as pictures, uint8 (B, 3, H, W)."""
        scaled, signed = self.scaled.cpu().numpy(), self.signed.cpu().numpy()[:, None, None, None]
        # Each map has one of the two colour maps, and most batches need one only.
        both = [colormaps["RdBu_r"](scaled / 2 + 0.5)] if signed.any() else []
        both += [] if signed.all() and len(signed) else [colormaps["inferno"](scaled)]
        colors = both[0] if len(both) == 1 else np.where(signed, *both)
        return torch.from_numpy((colors[..., :3] * 255).round().astype(np.uint8)).permute(
            0, 3, 1, 2
        )

    def how(self, signed: bool) -> list[str]:
        """What was done to see each map, in words; empty where it is drawn as it is. ``signed``
        says whether the maps were, before that.
        """
        sizes = "absolute values, " if signed else ""
        text = f"drawn: {sizes}blurred, up to the 98th percentile"
        return [text if fine else "" for fine in self.fine.tolist()]


def finite_values(maps: Tensor) -> Tensor:
    """Maps in float32 with zeros where they have no numbers."""
    return torch.nan_to_num(maps.detach().float(), nan=0.0, posinf=0.0, neginf=0.0)


def fine_grained(maps: Tensor) -> Tensor:
    """Whether single pixels make up a map: a small blur takes away most of its variance.

    Args:
        maps: float (B, H, W).

    Returns:
        bool (B,).
    """
    before, after = (values.flatten(1).var(dim=1, correction=0) for values in (maps, _blur(maps)))
    return after < FINE * before


def _blur(maps: Tensor) -> Tensor:
    sigma = BLUR * min(maps.shape[-2:]) / SIDE
    return gaussian_blur(maps[:, None], sigma, "reflect")[:, 0]


def drawn_maps(maps: Tensor, signed: bool, fine: Tensor | None = None) -> Drawn:
    """What is drawn of maps.

    Args:
        maps: (B, H, W). What is no number counts as zero.
        signed: Whether negative values speak against the target.
        fine: bool (B,), whether each is fine-grained; None to see it in the values.

    Example:
        >>> import torch
        >>> from lit_iba.drawing import drawn_maps
        >>> noise = torch.randn(1, 64, 64)
        >>> bool(drawn_maps(noise, signed=True).fine), float(drawn_maps(noise, True).low) > 0
        (True, True)
    """
    maps = finite_values(maps)
    fine = fine_grained(maps) if fine is None else fine
    # A blur of a whole photograph takes seconds.
    values = torch.where(fine[:, None, None], _blur(maps.abs()), maps) if fine.any() else maps
    with_sign = ~fine & signed
    flat = torch.where(with_sign[:, None, None], values.abs(), values).flatten(1)
    high = torch.where(
        fine, torch.quantile(flat, 1 - CUT_FINE, dim=1), torch.quantile(flat, 1 - CUT, dim=1)
    )
    low = torch.where(with_sign, -high, flat.amin(dim=1))
    return Drawn(values, low, high, fine, with_sign)


def drawn_letters(text: str) -> str:
    r"""Text as a picture can have it: a letter that the font lacks by its code, since its empty box
    would be that of any other.

    Example:
        >>> from lit_iba.drawing import drawn_letters
        >>> drawn_letters("金鱼 73%")
        '\\u91d1\\u9c7c 73%'
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(
        letter if ord(letter) in known or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def plain_text(text: str) -> str:
    """Text that matplotlib shall not read as mathematics."""
    return drawn_letters(text).replace("$", r"\$")


def name_beside(text: str) -> str:
    """A name beside a plot: of a very long one the middle is left out, and a first underscore does
    not hide it from the legend.
    """
    text = drawn_letters(text)
    if len(text) > MOST_LETTERS:
        text = f"{text[: MOST_LETTERS // 2]}…{text[1 - MOST_LETTERS // 2 :]}"
    return (" " if text.startswith("_") else "") + plain_text(text)
