"""Small pictures and samples for the tests of the data room."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def jpeg_bytes(number: int, width: int = 40, height: int = 32) -> bytes:
    """A smooth picture whose colour depends on its number."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 5 + number, y * 7 + number * 3, x + y], axis=-1) % 256
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def samples(count: int) -> Iterator[dict[str, Any]]:
    """Samples number 0..count-1; the class is the number modulo ten."""
    for number in range(count):
        box = [4, 4, 10 + number % 20, 20]
        yield {
            "key": f"s{number:04d}",
            "jpg": jpeg_bytes(number),
            "cls": number % 10,
            "json": {"bbox": [box]},
        }


class Pictures:
    """A data set as torchvision has them: (Pillow image, label), and the classes' names."""

    classes = tuple("abcdefghij")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(jpeg_bytes(number))), number % 10


def damage_member(
    path: Path, name: str, change: Callable[[bytearray, int, int], None], header: bool = False
) -> None:
    """Change a member's content (or its header) in place; the file's size stays."""
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
    data = bytearray(path.read_bytes())
    change(data, member.offset if header else member.offset_data, member.size)
    path.write_bytes(data)


def cut_in_half(data: bytearray, offset: int, size: int) -> None:
    data[offset + size // 2 : offset + size] = bytes(size - size // 2)


def flip(data: bytearray, offset: int, size: int) -> None:
    data[offset] ^= 0xFF
