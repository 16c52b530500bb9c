"""From what another library's data set gives for a sample, a tuple or a dictionary, to a sample of
ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_iba.checks import check_literals
from lit_iba.data.batch import Hole
from lit_iba.data.decode import ARRAY, DAMAGE, whole_number
from lit_iba.data.tar_samples import DecodedSample, RawSample
from lit_iba.errors import InputError

# Under what names a dictionary usually has them: ours, Hugging Face's, WebDataset's, torchvision's.
USUAL = {
    "picture": ("picture", "image", "img", "jpg", "jpeg", "png", "webp", ARRAY),
    "label": ("label", "cls", "fine_label", "target"),
    "boxes": ("boxes", "bbox"),
    "key": ("key", "__key__"),
}
PLACES = {"picture": 0, "label": 1, "boxes": 2}  # of a tuple


@dataclass(frozen=True)
class SampleFields:
    """Where a sample's picture, label, boxes and key stand.

    Args:
        names: Of ``picture``, ``label``, ``boxes`` and ``key``, where they are not the usual ones:
            a dictionary's key, or several with dots between (``objects.bbox``). Of a tuple the
            picture is the first, the label the second, and boxes the third.
        box_format: ``"xyxy"`` for corners (x0, y0, x1, y1), ``"xywh"`` for a corner, width and
            height, as COCO has them; in pixels of the stored picture.

    Raises:
        InputError: A name is of something else.

    Example:
        >>> import numpy as np
        >>> from lit_iba.data.fields import SampleFields
        >>> fields = SampleFields({"picture": "photo"})
        >>> fields.sample({"photo": np.zeros((8, 8, 3), np.uint8), "label": 3}, 12).key
        '00000012'
    """

    names: Mapping[str, str]
    box_format: Literal["xyxy", "xywh"] = "xyxy"

    def __post_init__(self) -> None:
        check_literals(type(self), vars(self))
        if unknown := set(self.names) - set(USUAL):
            raise InputError(
                f"names has {min(unknown)!r}; a sample has {', '.join(USUAL)}, and names says what"
                " the data set calls them"
            )

    def sample(self, given: Any, number: int | str) -> RawSample | Hole:
        """A sample of ours; a hole where its picture cannot be taken.

        Args:
            given: What the data set gives.
            number: Which it is, for a key where it has none of its own.

        Raises:
            InputError: It is neither a tuple nor a dictionary, has no picture, or something in it
                is of another kind than it should be.
        """
        if not isinstance(given, Mapping | tuple | list):
            raise InputError(
                f"the data set gives {_kind(given)} for a sample; it must give (picture, label),"
                " (picture, label, boxes) or a dictionary"
            )
        found = {name: self._field(given, name) for name in USUAL}
        written = f"{number:08d}" if isinstance(number, int) else number
        key = written if found["key"] is None else str(found["key"])
        members: dict[str, bytes] = {}
        if (label := _label(found["label"], key)) is not None:
            members["cls"] = str(label).encode()
        said = given.get("json") if isinstance(given, Mapping) else None
        if found["boxes"] is not None:
            members["json"] = json.dumps({"bbox": self._boxes(found["boxes"], key)}).encode()
        elif said is not None:  # as it stands in a shard, or decoded by webdataset
            members["json"] = said if isinstance(said, bytes) else json.dumps(said).encode()
        if found["picture"] is None:
            has = f"only {', '.join(map(str, given))}" if isinstance(given, Mapping) else "nothing"
            raise InputError(
                f"sample {key!r} has no picture, {has}; say in names what its picture is called"
            )
        return _with_picture(found["picture"], key, members)

    def _field(self, given: Any, name: str) -> Any:
        if not isinstance(given, Mapping):
            place = PLACES.get(name, len(given))
            return given[place] if place < len(given) else None
        if name not in self.names:
            return next((given[usual] for usual in USUAL[name] if usual in given), None)
        found: Any = given
        whole = self.names[name]
        for part in [whole] if whole in given else whole.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise InputError(
                    f"a sample of the data set has no {whole!r}, only"
                    f" {', '.join(map(str, given))}; correct names"
                )
            found = found[part]
        return found

    def _boxes(self, boxes: Any, key: str) -> list[list[float]]:
        try:
            array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the boxes of sample {key!r} are {str(boxes)[:60]!r}; give four numbers for each"
            ) from error
        if self.box_format == "xywh":
            array[:, 2:] += array[:, :2]
        return [[float(edge) for edge in box] for box in array]


def _label(label: Any, key: str) -> int | None:
    if label is None:
        return None
    if isinstance(label, bytes | str):
        text = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
        number = whole_number(text)
        label = text if number is None else number
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, np.integer):
        label = int(label)
    if isinstance(label, Tensor | np.ndarray | list | tuple):
        raise InputError(
            f"the label of sample {key!r} is {str(label)[:60]!r}, several numbers; give single"
            " samples, not batches (batch_size=None, no .batched()): the data module batches them"
        )
    if not isinstance(label, int) or isinstance(label, bool):
        raise InputError(
            f"the label of sample {key!r} is {str(label)[:60]!r}; it must be a whole number. If it"
            " stands elsewhere, say so in names"
        )
    return None if label == -1 else label  # of Hugging Face's tests, whose labels are secret


def _with_picture(picture: Any, key: str, members: dict[str, bytes]) -> RawSample | Hole:
    if isinstance(picture, Mapping) and "bytes" in picture:  # Hugging Face's Image(decode=False)
        picture = picture["bytes"]
    if isinstance(picture, bytes):
        kind = (
            ARRAY if picture.startswith(b"\x93NUMPY") else "jpg"
        )  # whose decoder knows the others
        return RawSample(key, {kind: picture, **members}, "the data set")
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()  # numpy has no bfloat16
        picture = picture.numpy() if picture.dtype == torch.uint8 else picture
    if isinstance(picture, Tensor | np.ndarray) and picture.dtype != np.uint8:
        raise InputError(
            f"the picture of sample {key!r} is {picture.dtype}; give it as it is stored, uint8 or a"
            " Pillow image: leave out transforms that scale and normalise, which the classifier's"
            " preprocessing does"
        )
    if not isinstance(picture, Image.Image | np.ndarray):
        raise InputError(
            f"the picture of sample {key!r} is {_kind(picture)}; give a Pillow image, uint8"
            " (C, H, W) or (H, W, C), or the bytes of its file"
        )
    if isinstance(picture, Image.Image):
        try:
            picture.load()  # Pillow may have read no more than the header
        except DAMAGE as error:
            return Hole(key, f"sample {key!r} of the data set cannot be decoded ({error})")
    return DecodedSample(key, members, "the data set", picture)


def _kind(given: object) -> str:
    return f"a {type(given).__module__}.{type(given).__name__}"


def class_names_of(dataset: object, label: str | None = None) -> list[str] | None:
    """The names of a data set's classes, where it says them: torchvision's ``classes``, or Hugging
    Face's ``features``.
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        usual = [label] if label else USUAL["label"]
        found = next((features[name] for name in usual if name in features), None)
        names = getattr(found, "names", None)
    else:
        names = getattr(dataset, "classes", None)
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return None
    # torchvision's ImageNet gives several words for a class.
    return [name if isinstance(name, str) else ", ".join(map(str, name)) for name in names]
