"""What a heatmap is: a value per pixel with a unit, for a batch of images.

A heatmap knows its unit and whether its sign means something; it can be resized without changing
its total, laid over the image, written as PNG and shown in a notebook. Where values come from is
the explainers' business.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lit_iba.classifier.preprocessing import Preprocessing, drawn
from lit_iba.drawing import Drawn, drawn_maps
from lit_iba.errors import InputError
from lit_iba.files import whole_file


def resize_keeping_total(
    maps: Tensor,
    size: tuple[int, int],
    edge: Literal["clamp", "mirror"] = "clamp",
    signed: bool = False,
) -> Tensor:
    """Bilinear resize, rescaled so that each map's sum over positions stays what it was.

    Of a signed map, what is above 0 and what is below keep their sums each: the whole may come to
    about zero, before or after, and a quotient of such sums is any number of either sign.

    Args:
        maps: (B, h, w), any unit that adds up, such as bits per position.
        size: (H, W) wanted.
        edge: What lies beyond the border, ``"clamp"`` or ``"mirror"`` (as scikit-image does by
            default).
        signed: Whether values may be below 0.

    Returns:
        (B, H, W) with the same sum per map (methods.md, section 1: "bits per pixel" that add up to
        the total).
    """
    if signed:
        above, below = (
            resize_keeping_total(part.clamp_min(0), size, edge) for part in (maps, -maps)
        )
        return above - below
    if edge == "mirror" and min(maps.shape[-2:]) > 1:
        height, width = maps.shape[-2:]
        row, column = (
            round(size[0] / height),
            round(size[1] / width),
        )  # pixels per position: whole numbers in practice
        padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
        large = (size[0] + 2 * row, size[1] + 2 * column)
        resized = F.interpolate(padded, size=large, mode="bilinear", align_corners=False)
        resized = resized[:, 0, row : row + size[0], column : column + size[1]]
    elif edge in ("clamp", "mirror"):
        resized = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[
            :, 0
        ]
    else:
        raise InputError(f"resize edge is {edge!r}; it must be 'clamp' or 'mirror'")
    total, now = (m.sum(dim=(1, 2), keepdim=True) for m in (maps, resized))
    return resized * torch.where(now > 0, total / torch.where(now > 0, now, 1), 1)


@dataclass(frozen=True)
class Heatmap:
    """Attribution of a batch of images, one value per pixel.

    Args:
        values: float (B, H, W).
        unit: ``"bits"`` for the information bottlenecks; ``"1"`` where only the order of the values
            has a meaning.
        signed: Whether negative values speak against the target (drawn in red and blue) or cannot
            occur.
        method: Name of the explainer, for captions.
        normalization: How the classifier's images were normalised, so that :meth:`overlay` can show
            them.
        undrawn: (B,) attribution that has no place in the picture, such as the bits in a class
            token; None if there is none.
        completeness: (B,) relative error of the sum that the method promises; None where it
            promises none.
        uncertainty: (B, H, W) standard deviation of the values, in their unit; None where the
            method knows none.
        fine: (B,) whether each map is drawn as a fine-grained one; None where its values say so,
            which those of a resized map would no longer.

    Example:
        >>> import torch
        >>> from lit_iba import Heatmap
        >>> heatmap = Heatmap(torch.ones(2, 64, 64), unit="bits")
        >>> heatmap.total
        tensor([4096., 4096.])
        >>> heatmap.resize((128, 128)).total  # a map of bits keeps them when it is resized
        tensor([4096., 4096.])
        >>> heatmap.colored().shape
        torch.Size([2, 3, 64, 64])
        >>> heatmap.save_png("heatmap.png").name
        'heatmap.png'
    """

    values: Tensor
    unit: str = "1"
    signed: bool = False
    method: str = ""
    normalization: Preprocessing | None = None
    undrawn: Tensor | None = None
    completeness: Tensor | None = None
    uncertainty: Tensor | None = None
    fine: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise InputError(
                "a heatmap has shape (B, H, W), but its values have shape"
                f" {tuple(self.values.shape)}"
            )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice) -> Heatmap:
        rows = slice(index, index + 1 or None) if isinstance(index, int) else index
        return self._each(lambda tensor: tensor[rows])

    def __iter__(self) -> Iterator[Heatmap]:
        return (self[i] for i in range(len(self)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Heatmap:
        """The same change made to every tensor."""
        undrawn, completeness, uncertainty, fine = (
            None if t is None else change(t)
            for t in (self.undrawn, self.completeness, self.uncertainty, self.fine)
        )
        return replace(
            self,
            values=change(self.values),
            undrawn=undrawn,
            completeness=completeness,
            uncertainty=uncertainty,
            fine=fine,
        )

    @property
    def total(self) -> Tensor:
        """(B,) sum over the pixels, in the heatmap's unit."""
        return self.values.sum(dim=(1, 2))

    def to(self, device: torch.device | str) -> Heatmap:
        """The same heatmap on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def cpu(self) -> Heatmap:
        """The same heatmap in main memory."""
        return self.to("cpu")

    def resize(self, size: tuple[int, int]) -> Heatmap:
        """Bilinear resize to (H, W) that keeps each map's total, and how it is drawn."""
        return replace(
            self,
            fine=self.drawn().fine,
            values=resize_keeping_total(self.values, size, signed=self.signed),
            uncertainty=None
            if self.uncertainty is None
            else resize_keeping_total(self.uncertainty, size),
        )

    def deviation(self) -> Heatmap | None:
        """The uncertainty as a heatmap of its own, to be drawn and saved; None where the method
        knows none.
        """
        if self.uncertainty is None:
            return None
        return Heatmap(
            self.uncertainty,
            self.unit,
            method=f"{self.method} deviation",
            normalization=self.normalization,
        )

    def drawn(self) -> Drawn:
        """What is drawn of each map, and what its colours begin and end with: the map up to its
        99.9th percentile, so that one extreme pixel does not darken the rest; of a fine-grained map
        its absolute values, blurred by 2 pixels of 224, up to their 98th.
        """
        return drawn_maps(self.values, self.signed, self.fine)

    def how_drawn(self) -> list[str]:
        """What was done to see each map, in words; empty where it is drawn as it is."""
        return self.drawn().how(self.signed)

    def colored(self) -> Tensor:
        """The heatmap alone as pictures, uint8 (B, 3, H, W)."""
        return self.drawn().colored()

    def overlay(self, images: Tensor, strength: float = 0.85) -> Tensor:
        """Lay the heatmap over the images: strong attribution hides the image, weak attribution
        shows it in grey.

        Args:
            images: The classifier's images, float (B, 3, H, W), or pictures, uint8 of the same
                shape. Of floats outside a normalisation known to this heatmap, [0, 1] is assumed.
            strength: Opacity of the strongest attribution, in [0, 1].

        Returns:
            uint8 (B, 3, H, W).

        Raises:
            InputError: The images are not as many, or not as large, as the heatmaps.
        """
        if (
            images.ndim != 4
            or images.shape[0] != len(self)
            or images.shape[-2:] != self.values.shape[-2:]
        ):
            raise InputError(
                f"images of shape {tuple(images.shape)} do not fit heatmaps of shape"
                f" {tuple(self.values.shape)}; give (B, 3, H, W) of the same B, H and W, or resize"
                " the heatmap"
            )
        if images.dtype == torch.uint8:
            pictures = images.cpu()
        elif self.normalization is not None:
            pictures = self.normalization.denormalize(images.detach().cpu())
        else:
            pictures = (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
        pictures = drawn(pictures)
        grey = pictures.float().mean(dim=1, keepdim=True) * 0.7 + 76.5 * 0.7
        drawn_values = self.drawn()
        opacity = (drawn_values.scaled.abs().cpu()[:, None] ** 0.7) * strength
        colors = drawn_values.colored().float()
        return (grey * (1 - opacity) + colors * opacity).round().to(torch.uint8)

    def with_color_bar(self, pictures: Tensor) -> Tensor:
        """Pictures of the maps with the scale of their colours to the right of each, in the map's
        unit per pixel (IBA, figures 1 and 4); as they are where only the values' order counts. Of
        a fine-grained map it is the mean of a pixel and those around it, see :meth:`drawn`.

        Args:
            pictures: uint8 (B, 3, H, W), such as :meth:`colored` and :meth:`overlay` give.

        Returns:
            uint8 (B, 3, H, W'), W' larger than W by what the widest bar takes.

        Example:
            >>> import torch
            >>> from lit_iba import Heatmap
            >>> heatmap = Heatmap(torch.rand(2, 64, 64), unit="bits")
            >>> wide = heatmap.with_color_bar(heatmap.colored())
            >>> wide.shape[-2:] > (64, 64), wide[..., :64].equal(heatmap.colored())
            (True, True)
        """
        if self.unit == "1":
            return pictures
        shown = self.drawn()
        bars = [
            _color_bar(
                pictures.shape[-2],
                (low, high),
                f"{self.unit} per pixel{', blurred' if fine else ''}",
                signed,
            )
            for low, high, fine, signed in zip(
                *(t.tolist() for t in (shown.low, shown.high, shown.fine, shown.signed)),
                strict=True,
            )
        ]
        width = max(bar.shape[-1] for bar in bars)
        padded = [F.pad(bar, (0, width - bar.shape[-1]), value=255) for bar in bars]
        return torch.cat([pictures.cpu(), torch.stack(padded)], dim=-1)

    def save_png(self, path: str | Path, index: int = 0) -> Path:
        """Write one heatmap, in colour, as PNG, with the scale of the colours where it has a unit.
        The file appears whole or not at all.
        """
        one = self[index].cpu()
        return save_picture(one.with_color_bar(one.colored())[0], path)

    def _repr_html_(self) -> str:
        """Notebooks show the maps side by side, each with its total."""
        figures = []
        for picture, total, how in zip(
            self.colored(), self.total.tolist(), self.how_drawn(), strict=True
        ):
            buffer = io.BytesIO()
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
            source = base64.b64encode(buffer.getvalue()).decode()
            caption = f"{self.method} {total:.1f} {self.unit if self.unit != '1' else ''}".strip()
            caption += f"<br>{how}" if how else ""
            figures.append(
                '<figure style="display:inline-block;margin:4px"><img'
                f' src="data:image/png;base64,{source}"><figcaption>{caption}</figcaption></figure>'
            )
        return "".join(figures)


def _color_bar(height: int, ends: tuple[float, float], unit: str, signed: bool) -> Tensor:
    """A scale from ``ends[0]`` at the bottom to ``ends[1]`` at the top, uint8 (3, height, W)."""
    size = max(8, height // 16)  # of the letters
    font, gap = ImageFont.load_default(size), size // 2
    smallest = 0.005 * max(abs(end) for end in ends)  # what the colours cannot tell from zero
    texts = [f"{end:.2g}" if abs(end) > smallest else "0" for end in ends]
    beside = max(int(font.getlength(text)) for text in texts) + gap
    drawn = Image.new("RGB", (gap + size + gap + beside + 2 * size, height), "white")
    ramp = Heatmap(torch.linspace(1, -1 if signed else 0, height)[None, :, None], signed=signed)
    column = ramp.colored()[0].permute(1, 2, 0).expand(-1, size, -1)
    drawn.paste(Image.fromarray(column.contiguous().numpy()), (gap, 0))
    pen, left = ImageDraw.Draw(drawn), gap + size + gap
    pen.text((left, 0), texts[1], "black", font, anchor="la")
    pen.text((left, height - 1), texts[0], "black", font, anchor="ld")
    label = Image.new("RGB", (int(font.getlength(unit)) + 1, 2 * size), "white")
    ImageDraw.Draw(label).text((0, 0), unit, "black", font, anchor="la")
    turned = label.rotate(90, expand=True)
    drawn.paste(turned, (left + beside, (height - turned.height) // 2))
    return torch.from_numpy(np.array(drawn)).permute(2, 0, 1)


def save_picture(picture: Tensor, path: str | Path) -> Path:
    """Write one uint8 (3, H, W) picture by atomic rename, as JPEG where the path ends in ``.jpg``,
    else as PNG.
    """
    path = Path(path)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    with whole_file(path) as part:
        drawn = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())
        drawn.save(part, **({"format": "JPEG", "quality": 90} if jpeg else {"format": "PNG"}))
    return path
