"""From the bytes of a sample's members to a photograph, a mask, boxes and a label.

Every member has one explicit decoder; nothing that could run code (a pickle, a Torch file) is ever
read. Conventions: EXIF orientation is ignored, as in ImageNet's own pipelines (boxes are in stored
pixels); CMYK in a JPEG is inverted (Adobe's way, which Pillow takes); alpha, 16 bits and numbers of
channels are the business of :class:`~lit_iba.classifier.photograph.Photograph`.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.io import decode_jpeg

from lit_iba.classifier.photograph import Photograph
from lit_iba.errors import InputError
from lit_iba.limits import check_limit

ARRAY = "npy"
PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", ARRAY)
FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow's names; no other decoder of its is ever asked
EXTENSIONS = (*PICTURE_EXTENSIONS, "cls", "json", "mask.png")

_FAR = 1 << 31  # no picture has so many pixels in a row, and no data set so many classes

_WHOLE = re.compile("-?[0-9]{1,4000}")  # Python reads no more than 4,300

# What Pillow raises for bytes that are no picture, or only half of one.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@contextmanager
def _reading(data: bytes, name: str) -> Iterator[Image.Image]:
    """An image that is not decoded yet; whatever its decoder says becomes an InputError."""
    try:
        # ImageNet holds a PNG that is named .JPEG, so either format is welcome under either name.
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about EXIF, which is not used; ImageNet has many that are corrupt
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            check_limit(
                "PICTURE_PIXELS", image.width * image.height, f"the number of pixels of {name}"
            )
            yield image
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{name} cannot be decoded ({damage_of(error)}); replace the file or leave it out"
        ) from error


def damage_of(error: BaseException) -> str:
    """What is wrong with a picture that Pillow refuses; its own words of an unknown one name
    Python's objects.
    """
    unknown = isinstance(error, UnidentifiedImageError)
    return "it is neither JPEG, PNG nor WebP" if unknown else str(error)


def _opened(data: bytes, name: str) -> Image.Image:
    with _reading(data, name) as image:
        image.load()
    return image


def _by_torchvision(data: bytes, header: Image.Image) -> Photograph | None:
    """The pixels of a JPEG in RGB; None of anything else, or of what torchvision refuses, so that
    Pillow says why.
    """
    if header.format != "JPEG" or header.mode != "RGB":
        return None
    try:
        decoded = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None
    stored = decoded.permute(1, 2, 0).numpy()
    return Photograph(stored=stored) if stored.shape == (*header.size[::-1], 3) else None


def decode_photograph(data: bytes, name: str, channels: int = 3) -> Photograph:
    """Decode JPEG, PNG or WebP bytes of any usual kind to as many 8-bit channels as a classifier
    takes.

    Args:
        data: The file's bytes: grey, RGB, CMYK, palette, with or without alpha, 8 or 16 bits.
        name: What to call the sample in an error.
        channels: See :meth:`Photograph.of`.

    Raises:
        InputError: The bytes are truncated, or none of these; or it has other channels.
    """
    return Photograph.of(_opened(data, name), channels, name)


def read_picture(
    data: bytes,
    extension: str,
    name: str,
    unscaled: Callable[[tuple[int, int]], bool] | None = None,
) -> Image.Image | np.ndarray | Photograph:
    """What :meth:`Photograph.of` takes, from the bytes of a member with one of
    ``PICTURE_EXTENSIONS``.

    Args:
        data: The bytes.
        extension: Of the member.
        name: What to call the sample in an error.
        unscaled: Whether a picture of a (width, height) will be used without resizing. Such a JPEG
            is decoded by torchvision, which gives the same pixels as Pillow, and sooner where no
            image of Pillow's is needed.

    Raises:
        InputError: The bytes are truncated, or something else.
    """
    if extension == ARRAY:
        return decode_array(data, name)
    with _reading(data, name) as image:
        if unscaled is not None and unscaled(image.size):
            photograph = _by_torchvision(data, image)
            if photograph is not None:
                return photograph
        image.load()
    return image


def decode_array(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a ``.npy`` without objects.

    Raises:
        InputError: The bytes are truncated, or something else.
    """
    try:
        shape, dtype = array_header(file := io.BytesIO(data))
        if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError(f"it says that it is {shape} of {dtype}, and has another size")
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except Exception as error:  # whatever numpy says of bytes that are no array
        raise InputError(
            f"{name} cannot be decoded as a .npy ({error}); replace the file or leave it out"
        ) from error


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that a ``.npy`` says it has; the file stands behind its header then."""
    major, _ = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype


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


def decode_boxes(data: bytes, name: str, size: tuple[int, int] | None = None) -> list[list[float]]:
    """Decode the boxes of a ``json`` member: [[x0, y0, x1, y1], ...] in stored pixels, empty
    without ``bbox``.

    Args:
        data: The member's bytes.
        name: What to call the sample in an error.
        size: (width, height) of the photograph that the boxes belong to.

    Raises:
        InputError: The member is no JSON object, its ``bbox`` is not a list of four numbers each,
            or it says that they are of a photograph of another ``width`` or ``height``.
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
    said = (described.get("width"), described.get("height"))
    if boxes and size is not None and None not in said and said != size:
        raise InputError(
            f"the boxes of {name} are of {said[0]} x {said[1]} pixels, as its json says, but its"
            f" photograph has {size[0]} x {size[1]}; scale the boxes to the stored photograph, and"
            " correct width and height"
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
    """Decode a ``cls`` member: the class as a decimal number, see :func:`whole_number`.

    Raises:
        InputError: It is no number, or outside 0..num_classes-1.
    """
    label = whole_number(data.decode("utf-8", "replace"))
    if label is None:
        raise InputError(f"the class of {name} is {data[:40]!r}; it must be a whole number")
    if not 0 <= label < (_FAR if num_classes is None else num_classes):
        known = "0 or more" if num_classes is None else f"0..{num_classes - 1}"
        raise InputError(
            f"the class of {name} is {str(label)[:40]}, but classes are {known}; correct the .cls"
            " member or the number of classes"
        )
    return label


def whole_number(text: str) -> int | None:
    """What a text says in decimal digits, with or without a minus and space around it; None of
    anything else, such as ``1_0``, which Python's ``int`` takes for 10.

    Example:
        >>> from lit_iba.data.decode import whole_number
        >>> [whole_number(text) for text in (" 7\\n", "-1", "1_0", "+3", "3.0", "--1")]
        [7, -1, None, None, None, None]
    """
    return int(text) if _WHOLE.fullmatch(text.strip()) else None
