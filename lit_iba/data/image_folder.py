"""Pictures in one folder a class, with boxes from Pascal VOC files or a table.

Box coordinates are taken as they stand, as edges in pixels with the origin at the upper left
corner: ImageNet's own files mix the 0-based and the 1-based convention, and one pixel is within
what the annotators agreed on.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image

from lit_iba.data.batch import Hole
from lit_iba.data.decode import ARRAY, FORMATS, PICTURE_EXTENSIONS, damage_of
from lit_iba.data.sources import Place
from lit_iba.data.tar_samples import RawSample
from lit_iba.errors import InputError
from lit_iba.files import read_text

# Pictures by their name that no reader of shards takes.
OTHER_FORMATS = ("avif", "bmp", "gif", "heic", "jp2", "ppm", "tif", "tiff")
BOX_COLUMNS = ("filename", "xmin", "ymin", "xmax", "ymax")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderImage:
    """One picture file, its class, and its annotation: a VOC file, or boxes."""

    key: str
    path: Path
    label: int
    voc_file: Path | None = None
    boxes: tuple[tuple[float, ...], ...] = ()

    @property
    def extension(self) -> str:
        """File extension in lower case, without the dot."""
        return self.path.suffix[1:].lower()

    def stored_boxes(self) -> list[list[float]]:
        """The boxes in pixels of the stored picture; a VOC file for another size is scaled to it,
        unless the picture is an array, which does not say where its rows and columns are.

        Raises:
            InputError: The VOC file, or the picture's header, cannot be read.
        """
        if self.voc_file is None:
            return [list(box) for box in self.boxes]
        boxes, annotated = read_voc_boxes(self.voc_file)
        size = self.size()
        if annotated is None or size is None:
            return boxes
        width, height = size
        across, down = width / annotated[0], height / annotated[1]
        return [[x0 * across, y0 * down, x1 * across, y1 * down] for x0, y0, x1, y1 in boxes]

    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels, from the file's header; None of an array.

        Raises:
            InputError: The file is no picture.
        """
        if self.extension == ARRAY:
            return None
        try:
            with Image.open(self.path, formats=FORMATS) as image:
                return image.size
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"{self.path} cannot be read as a picture ({damage_of(error)}); replace it or leave"
                " it out"
            ) from error


@dataclass(frozen=True)
class ImageFolder:
    """The pictures of ``folder/<class>/**``, sorted by path, and the names of their classes.

    Example:
        >>> from lit_iba.data import ImageFolder
        >>> folder = ImageFolder.load("photographs")
        >>> folder.class_names, len(folder.images)
        (['cat', 'dog'], 2)
    """

    images: tuple[FolderImage, ...]
    class_names: list[str]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        boxes: str | Path | None = None,
        class_names: Sequence[str] | None = None,
    ) -> ImageFolder:
        """Find the pictures, and the annotation of each.

        Args:
            folder: Holds a folder for each class.
            boxes: A folder of Pascal VOC files named like the pictures, or a CSV file with the
                columns ``filename,xmin,ymin,xmax,ymax`` (pixels); in the folders of the classes,
                where file names repeat. A picture may be without.
            class_names: Names of the folders in the order of their labels; by default they are
                sorted.

        Raises:
            InputError: There is no such folder, it has no pictures, the boxes are missing, fit
                none of them, or could be of several.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"{folder} is not a folder; give one that holds a folder of pictures for each class"
            )
        found = sorted(
            part.name
            for part in folder.iterdir()
            if part.is_dir() and not part.name.startswith(".")
        )
        names = list(class_names) if class_names is not None else found
        if unknown := set(found) - set(names):
            raise InputError(
                f"folder {folder / min(unknown)} is none of the {len(names)} classes given; add its"
                " name"
            )
        by_class = [list(_class_images(folder / name, i)) for i, name in enumerate(names)]
        images = [image for images in by_class for image in images]
        other = _other_formats(folder / name for name in names)
        if not images:
            raise InputError(
                f"{folder} holds no pictures; expected {folder}/<class>/<name>.jpg (or .jpeg, "
                f".png, .webp, .npy){f'; it has {other}, which must be converted' if other else ''}"
            )
        if other:
            _log.warning(
                "left out %s of %s: only .jpg, .jpeg, .png, .webp and .npy are read; convert them",
                other,
                folder,
            )
        if empty := [name for name, found in zip(names, by_class, strict=True) if not found]:
            _log.warning(
                "%d of %d classes of %s have no pictures and keep their labels: %s",
                len(empty),
                len(names),
                folder,
                ", ".join(empty[:5]) + (" ..." if len(empty) > 5 else ""),
            )
        return cls(
            tuple(images if boxes is None else _with_boxes(images, Path(boxes), folder)), names
        )


def _class_images(folder: Path, label: int) -> Iterator[FolderImage]:
    keys: set[str] = set()
    for path in sorted(folder.rglob("*")):
        extension = path.suffix[1:].lower()
        if extension in PICTURE_EXTENSIONS and not path.name.startswith("."):
            key = path.relative_to(folder.parent).with_suffix("").as_posix().replace(".", "_")
            key = f"{key}_{extension}" if key in keys else key
            if key in keys:
                raise InputError(
                    f"the name of {path} is taken by another picture of its folder; rename one of"
                    " them"
                )
            keys.add(key)
            yield FolderImage(key, path, label)


def _other_formats(folders: Iterable[Path]) -> str:
    """How many pictures of other formats there are, such as "3 .gif, 12 .bmp"; none is ""."""
    extensions = Counter(
        path.suffix.lower()
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix[1:].lower() in OTHER_FORMATS and not path.name.startswith(".")
    )
    return ", ".join(f"{count} {extension}" for extension, count in sorted(extensions.items()))


def _with_boxes(images: list[FolderImage], boxes: Path, folder: Path) -> list[FolderImage]:
    if boxes.is_dir():
        files = {path: path.relative_to(boxes).with_suffix("") for path in boxes.rglob("*.xml")}
        pictures = [image.path.relative_to(folder).with_suffix("") for image in images]
        voc = _matched({str(path): name.parts for path, name in files.items()}, pictures, boxes)
        annotated = [
            replace(image, voc_file=Path(voc[name]) if name in voc else None)
            for image, name in zip(images, pictures, strict=True)
        ]
    elif boxes.is_file():
        table = read_box_table(boxes)
        pictures = [image.path.relative_to(folder) for image in images]
        names = {name: PurePosixPath(name).parts for name in table}
        rows = _matched(names, pictures, boxes, whole=True)
        annotated = [
            replace(image, boxes=tuple(table[rows[name]]) if name in rows else ())
            for image, name in zip(images, pictures, strict=True)
        ]
    else:
        raise InputError(
            f"the boxes {boxes} do not exist; give a folder of VOC .xml files or a .csv file"
        )
    without = sum(image.voc_file is None and not image.boxes for image in annotated)
    if without == len(annotated):
        raise InputError(
            f"{boxes} has boxes for none of the {without} pictures; file names must match the"
            " pictures'"
        )
    if without:
        _log.info("%d of %d pictures have no boxes in %s", without, len(annotated), boxes)
    return annotated


def _matched(
    names: Mapping[str, tuple[str, ...]],
    pictures: Sequence[Path],
    boxes: Path,
    whole: bool = False,
) -> dict[Path, str]:
    """What is annotated under each picture's path: the name whose last folders and file are most of
    the picture's; with ``whole``, all of the name must be.

    Raises:
        InputError: A name fits several pictures equally well, or several names fit a picture so.
    """
    ends: dict[tuple[str, ...], set[Path]] = {}
    for picture in pictures:
        for first in range(len(picture.parts)):
            ends.setdefault(picture.parts[first:], set()).add(picture)
    found: dict[Path, tuple[int, str]] = {}
    for name in sorted(names):
        parts = names[name]
        depths = [len(parts)] if whole else range(len(parts), 0, -1)
        depth = next((depth for depth in depths if parts[-depth:] in ends), None)
        if depth is None:
            continue  # of a picture that is not here
        fitting = sorted(ends[parts[-depth:]])
        known = found.get(fitting[0])
        if len(fitting) > 1 or (known is not None and known[0] == depth):
            both = (
                f"{name} could be of {fitting[0]} and of {fitting[1]}"
                if len(fitting) > 1
                else f"{known and known[1]} and {name} could both be of {fitting[0]}"
            )
            raise InputError(
                f"the boxes {boxes} are not clear: {both}; where file names repeat, give them in"
                " the folders of their classes"
            )
        if known is None or known[0] < depth:
            found[fitting[0]] = depth, name
    return {picture: name for picture, (_, name) in found.items()}


def read_voc_boxes(path: Path) -> tuple[list[list[float]], tuple[float, float] | None]:
    """The boxes of a Pascal VOC file, [[xmin, ymin, xmax, ymax], ...], and the (width, height) it
    was made for.

    Raises:
        InputError: The file does not exist or is not of that kind.
    """
    try:
        root = ElementTree.parse(path).getroot()
        boxes = [
            [float(box.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iter("bndbox")
        ]
        size = (float(root.findtext("size/width", "0")), float(root.findtext("size/height", "0")))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(
            f"{path} is not a Pascal VOC file with boxes ({error}); correct or remove it"
        ) from error
    return boxes, size if min(size) > 0 else None


def read_box_table(path: Path) -> dict[str, list[tuple[float, ...]]]:
    """The boxes of a CSV file with the columns ``filename,xmin,ymin,xmax,ymax``, by file name.

    Raises:
        InputError: A column is missing or a coordinate is no number.
    """
    table: dict[str, list[tuple[float, ...]]] = {}
    with io.StringIO(read_text(path, "table of boxes").removeprefix("\ufeff")) as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        if missing := [name for name in BOX_COLUMNS if name not in (rows.fieldnames or [])]:
            raise InputError(
                f"{path} has no column {', '.join(missing)}; its first line must be"
                f" {','.join(BOX_COLUMNS)}"
            )
        for row in rows:
            try:
                box = tuple(float(row[name]) for name in BOX_COLUMNS[1:])
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"line {rows.line_num} of {path} is no box: {row}; give four numbers"
                ) from error
            if not (box[0] <= box[2] and box[1] <= box[3]):
                raise InputError(
                    f"line {rows.line_num} of {path} has the box {box}; xmin <= xmax and ymin <="
                    " ymax must hold"
                )
            table.setdefault(row["filename"], []).append(box)
    return table


@dataclass(frozen=True)
class FolderSource:
    """Raw samples straight from a folder; every picture counts as a shard of its own, so all of
    them are shuffled.
    """

    images: tuple[FolderImage, ...]

    def counts(self) -> torch.Tensor:
        """One for each picture, int64 (N,)."""
        return torch.ones(len(self.images), dtype=torch.int64)

    def contents(self) -> dict[str, list[Any]]:
        """Every picture's key and class."""
        return {"pictures": [[image.key, image.label] for image in self.images]}

    def open(self, number: int) -> FileReader:
        """Start reading a picture."""
        return FileReader(self.images[number])

    def listing(self) -> list[tuple[str, list[Place]]]:
        """Every picture, all in one group."""
        places = [Place(number, 0, image.key) for number, image in enumerate(self.images)]
        return [(str(self.images[0].path.parent.parent), places)]


@dataclass(frozen=True)
class FileReader:
    """Reads one picture file as a sample."""

    image: FolderImage

    def read(self, slots: Sequence[int]) -> Iterator[RawSample | Hole]:
        """The sample, or a hole if its files cannot be read."""
        for _ in slots:
            try:
                yield raw_sample(self.image)
            except (OSError, InputError) as error:
                yield Hole(self.image.key, str(error))

    def close(self) -> None:
        """Nothing stays open."""


def raw_sample(image: FolderImage) -> RawSample:
    """A picture's bytes, class and boxes as the members of a sample."""
    members = {image.extension: image.path.read_bytes(), "cls": str(image.label).encode()}
    if boxes := image.stored_boxes():
        members["json"] = json.dumps({"bbox": boxes}).encode()
    return RawSample(image.key, members, str(image.path.parent))
