"""From the bytes of a sample's members to a photograph, a mask, boxes and a label.

Every member has one explicit decoder; nothing that could run code (a pickle, a Torch file) is ever
read. Conventions: EXIF orientation is ignored, as in ImageNet's own pipelines (boxes are in stored
pixels); transparent pixels are laid over white; 16-bit grey is scaled to 8 bits, not clipped; CMYK
in a JPEG is inverted (Adobe's way, which Pillow takes).
"""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from lit_iba.errors import InputError
from lit_iba.limits import check_limit

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png")
EXTENSIONS = (*PICTURE_EXTENSIONS, "cls", "json", "mask.png")

_FAR = 1 << 31  # no picture has so many pixels in a row, and no data set so many classes

# What Pillow raises for bytes that are no picture, or only half of one.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        # ImageNet holds a PNG that is named .JPEG, so either format is welcome under either name.
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about EXIF, which is not used; ImageNet has many that are corrupt
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            check_limit("PICTURE_PIXELS", image.width * image.height, f"the pixels of {name}")
            image.load()
    except InputError:
        raise
    except _DAMAGE as error:
        reason = (
            "it is neither JPEG nor PNG"
            if isinstance(error, UnidentifiedImageError)
            else str(error)
        )
        raise InputError(
            f"{name} cannot be decoded ({reason}); replace the file or leave it out"
        ) from error
    return image


def decode_photograph(data: bytes, name: str) -> Image.Image:
    """Decode JPEG or PNG bytes of any usual kind to an 8-bit RGB photograph.

    Args:
        data: The file's bytes: grey, RGB, CMYK, palette, with or without alpha, 8 or 16 bits.
        name: What to call the sample in an error.

    Raises:
        InputError: The bytes are truncated, or not a JPEG or PNG.
    """
    image = _opened(data, name)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        values = np.asarray(image, dtype=np.int64)
        image = Image.fromarray(((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def decode_mask(data: bytes, size: tuple[int, int], name: str) -> np.ndarray:
    """Decode a ``mask.png``: bool (H, W), True where the stored value is not zero.

    Args:
        data: PNG bytes, one channel.
        size: (width, height) of the photograph that the mask belongs to.
        name: What to call the sample in an error.

    Raises:
        InputError: The mask is damaged, has several channels, or another size than its photograph.
    """
    image = _opened(data, name)
    values = np.asarray(image)
    if values.ndim != 2:
        raise InputError(
            f"the mask of {name} has mode {image.mode}; write it with one channel (8-bit grey)"
        )
    if image.size != size:
        raise InputError(
            f"the mask of {name} has {image.size[0]} x {image.size[1]} pixels, but its photograph"
            f" has {size[0]} x {size[1]}; write the mask at the photograph's stored size"
        )
    return values != 0


def decode_boxes(data: bytes, name: str) -> list[list[float]]:
    """Decode the boxes of a ``json`` member: [[x0, y0, x1, y1], ...] in stored pixels, empty
    without ``bbox``.

    Raises:
        InputError: The member is no JSON object, or its ``bbox`` is not a list of four numbers
            each.
    """
    try:
        described = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the json of {name} cannot be read ({error}); write a JSON object"
        ) from error
    boxes = described.get("bbox") if isinstance(described, dict) else None
    if not isinstance(described, dict) or not (boxes is None or _are_boxes(boxes)):
        raise InputError(
            f"the json of {name} is not as expected: {data[:80]!r}; 'bbox' is a list of [x0, y0,"
            " x1, y1] in pixels, x0 <= x1 and y0 <= y1"
        )
    return boxes or []


def _are_boxes(boxes: object) -> bool:
    return isinstance(boxes, Sequence) and all(
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and abs(v) < _FAR for v in box)
        and box[0] <= box[2]
        and box[1] <= box[3]
        for box in boxes
    )


def decode_label(data: bytes, name: str, num_classes: int | None = None) -> int:
    """Decode a ``cls`` member: the class as a decimal number.

    Raises:
        InputError: It is no number, or outside 0..num_classes-1.
    """
    try:
        label = int(data.strip())
    except ValueError as error:
        raise InputError(
            f"the class of {name} is {data[:40]!r}; it must be a whole number"
        ) from error
    if not 0 <= label < (_FAR if num_classes is None else num_classes):
        known = "0 or more" if num_classes is None else f"0..{num_classes - 1}"
        raise InputError(
            f"the class of {name} is {str(label)[:40]}, but classes are {known}; correct the .cls"
            " member or the number of classes"
        )
    return label
