"""The embedded data set: real handwritten digits over crops of real photographs, with known class,
box and mask.

scikit-learn ships 1,797 digits of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998) and two photographs;
nothing is
downloaded. The digits of the training, validation and test shards are disjoint. The photographs are
    shared: they are
clutter that a heatmap should leave dark.
"""

from __future__ import annotations

import colorsys
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from lit_iba.checks import check_counts
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.shard_writer import write_shards
from lit_iba.errors import InputError
from lit_iba.files import read_text, write_text

SIDE = 64
CLASS_NAMES = [str(digit) for digit in range(10)]
QUICKSTART_PREPROCESSING = Preprocessing(resize=None, crop=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
SPLITS = ("train", "val", "test")
SETTINGS_NAME = "quickstart.json"

_BOX_AREA = (0.12, 0.25)  # of the picture; the box metric's usual limit is 33 %
_CONTRAST = 110  # of 255, between the digit's brightness and the mean brightness around it
_TILT = 6  # degrees, either way
_RIM = 0.6  # opacity of the digit's edge
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
_VERSION = 3
EXAMPLES = 4


@dataclass(frozen=True)
class QuickstartSettings:
    """How many pictures, in how large shards, from which seed.

    Example:
        >>> from lit_iba.data import QuickstartSettings
        >>> QuickstartSettings(train=100).shard_size
        500
    """

    train: int = 4000
    val: int = 400
    test: int = 400
    shard_size: int = 500
    val_shard_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(shard_size=self.shard_size, val_shard_size=self.val_shard_size)
        check_counts(0, train=self.train, val=self.val, test=self.test, seed=self.seed)


def make_quickstart(folder: str | Path, settings: QuickstartSettings | None = None) -> Path:
    """Write the shards to ``folder/train``, ``folder/val`` and ``folder/test``, unless they are
    there already.

    ``folder/examples`` holds a few of the test pictures as files.

    The folder appears whole, by rename: of two processes that start at once, both work and one
    result stays.

    Args:
        folder: Where to.
        settings: Sizes and seed.

    Returns:
        The folder.

    Raises:
        InputError: The folder holds something else, or was made with other settings.

    Example:
        >>> from lit_iba.data import QuickstartSettings, ShardIndex, make_quickstart
        >>> folder = make_quickstart("quickstart", QuickstartSettings(train=8, val=4, test=4))
        >>> ShardIndex.load(folder / "train").total
        8
    """
    folder, settings = Path(folder), settings or QuickstartSettings()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            _write(part, settings)
            part.chmod(0o755)
            try:
                part.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    _check(folder, settings)
    return folder


def _write(folder: Path, settings: QuickstartSettings) -> None:
    for split in SPLITS:
        size = settings.shard_size if split == "train" else settings.val_shard_size
        write_shards(
            quickstart_samples(split, getattr(settings, split), settings.seed),
            folder / split,
            split,
            size,
            CLASS_NAMES,
        )
    (folder / "examples").mkdir()
    for sample in quickstart_samples("test", EXAMPLES, settings.seed):
        (folder / "examples" / f"digit_{sample['cls']}_{sample['key']}.jpg").write_bytes(
            sample["jpg"]
        )
    write_text(folder / SETTINGS_NAME, json.dumps({"version": _VERSION, **asdict(settings)}) + "\n")


def _check(folder: Path, settings: QuickstartSettings) -> None:
    mend = "delete the folder to have it made again, or choose another one"
    try:
        made = json.loads(read_text(folder / SETTINGS_NAME, "settings"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} exists, but is not a finished quickstart data set ({error}); {mend}"
        ) from error
    if made != {"version": _VERSION, **asdict(settings)}:
        raise InputError(f"{folder} was made with {made}, not with {asdict(settings)}; {mend}")


def quickstart_samples(split: str, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Samples as ``write_shards`` takes them: JPEG, class, box, and mask.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``, which have different digits.
        count: How many.
        seed: Equal seeds give equal samples.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    digits, labels = _digits(split)
    order = np.concatenate([rng.permutation(len(digits)) for _ in range(-(-count // len(digits)))])[
        :count
    ]
    for number, which in enumerate(order):
        picture, mask = _compose(digits[which], _background(rng), rng)
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        yield {
            "key": f"{split}_{number:05d}",
            "jpg": _encoded(picture, "JPEG", quality=95),
            "cls": int(labels[which]),
            "json": {"bbox": [[int(edge) for edge in box]], "width": SIDE, "height": SIDE},
            "mask.png": _encoded(mask.astype(np.uint8) * 255, "PNG"),
        }


@cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Digits (N, 8, 8) in [0, 1] and their classes: one in ten is for validation, one in ten for
    the test.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    remainder = np.arange(len(data.images)) % 10
    chosen = {"train": remainder < 8, "val": remainder == 8, "test": remainder == 9}[split]
    return data.images[chosen] / 16, data.target[chosen]


@cache
def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def _background(rng: np.random.Generator) -> np.ndarray:
    """A random square of a random photograph, perhaps mirrored; float (64, 64, 3), 0..255."""
    photograph = _photographs()[rng.integers(2)]
    side = int(rng.integers(SIDE, 257))
    left, top = (
        int(rng.integers(photograph.width - side)),
        int(rng.integers(photograph.height - side)),
    )
    crop = photograph.resize(
        (SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(crop, dtype=np.float64)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _compose(
    digit: np.ndarray, background: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lay a digit over a background; returns uint8 (64, 64, 3) and the digit's pixels, bool (64,
    64).
    """
    ink = Image.fromarray(np.uint8(digit * 255)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    ink = ink.rotate(rng.uniform(-_TILT, _TILT), Image.Resampling.BILINEAR, expand=True)
    ink = ink.crop(ink.point(lambda value: value > 38 and 255).getbbox())
    scale = np.sqrt(rng.uniform(*_BOX_AREA) * SIDE * SIDE / (ink.width * ink.height))
    size = (min(SIDE, round(ink.width * scale)), min(SIDE, round(ink.height * scale)))
    opacity = np.asarray(ink.resize(size, Image.Resampling.BICUBIC), dtype=np.float64) / 255
    opacity = np.clip((opacity - 0.15) / 0.5, 0, 1)
    left, top = rng.integers(SIDE - size[0] + 1), rng.integers(SIDE - size[1] + 1)
    layer = np.zeros((SIDE, SIDE))
    layer[top : top + size[1], left : left + size[0]] = opacity
    mask = layer > 0.5
    around = background[top : top + size[1], left : left + size[0]]
    brightness = (around @ _BRIGHTNESS).mean()
    color = _color(brightness, rng)
    # A thin edge of the opposite brightness, as lettering on photographs has, keeps strokes apart
    # from clutter.
    wide = Image.fromarray(np.uint8(layer * 255)).filter(ImageFilter.MaxFilter(3))
    edge = np.asarray(wide, dtype=np.float64)[..., None] / 255 * _RIM
    background = background * (1 - edge) + (0 if color @ _BRIGHTNESS > brightness else 255) * edge
    picture = background * (1 - layer[..., None]) + color * layer[..., None]
    return picture.round().astype(np.uint8), mask


def _color(surroundings: float, rng: np.random.Generator) -> np.ndarray:
    """A random colour, (3,) in 0..255, that is clearly brighter or darker than its surroundings."""
    while True:
        color = np.array(colorsys.hsv_to_rgb(*rng.uniform((0, 0, 0), (1, 1, 1)))) * 255
        if abs(color @ _BRIGHTNESS - surroundings) >= _CONTRAST:
            return color


def _encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
