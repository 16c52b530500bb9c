"""Results on disk, one safetensors file per shard: heatmaps of an explainer, or a metric's rows.

A file appears whole or not at all, and carries a fingerprint of everything that its numbers depend
on. So an interrupted run goes on where it stopped, and results of other settings are never mixed in
silently.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.files import whole_file

_log = logging.getLogger(__name__)
ABANDONED_AFTER = 600.0  # seconds: no single file takes that long to write
# Classes of ours that stood elsewhere when older results were written: what they computed has not
# changed.
MOVED_CLASSES = {
    "lit_iba.metrics.bits_and_accuracy.BitsAndAccuracy": (
        "lit_iba.iba.bits_and_accuracy.BitsAndAccuracy"
    )
}


class ShardStore:
    """Files ``<folder>/<group>/<shard>.safetensors``.

    Args:
        folder: Where the files are.
        afresh: How a user does what is in the files anew, as an error says it.

    Example:
        >>> import torch
        >>> from lit_iba.resumable import ShardStore
        >>> store = ShardStore("heatmaps")
        >>> _ = store.write("saliency", "shard-000000", {"values": torch.zeros(4)}, {"seed": 0}, {})
        >>> store.complete("saliency", "shard-000000", {"seed": 0})
        True
        >>> store.complete("saliency", "shard-000001", {"seed": 0})
        False
    """

    def __init__(self, folder: str | Path, afresh: str = "fresh: true") -> None:
        self.folder, self.afresh = Path(folder), afresh

    def path(self, group: str, shard: str) -> Path:
        """Where the file of a group (such as an explainer's name) and a shard (its stem) is."""
        return self.folder / group / f"{shard}.safetensors"

    def complete(self, group: str, shard: str, fingerprint: dict[str, Any]) -> bool:
        """Whether the file is there and whole; a damaged one is deleted, and said to be.

        Raises:
            InputError: The file is whole, but was made with other settings.
        """
        path = self.path(group, shard)
        if not path.is_file():
            return False
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                stored = as_of_today(json.loads((file.metadata() or {})["fingerprint"]))
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            _log.warning("%s is damaged or cut short (%s); it is made again", path, error)
            path.unlink(missing_ok=True)
            return False
        if stored != (wanted := plain(fingerprint)):
            raise InputError(
                f"{path} was made with other settings ({first_difference(stored, wanted)}); "
                f"choose another output folder, or start this one afresh ({self.afresh})"
            )
        return True

    def write(
        self,
        group: str,
        shard: str,
        tensors: dict[str, Tensor],
        fingerprint: dict[str, Any],
        metadata: dict[str, Any],
    ) -> Path:
        """Write one file by atomic rename; metadata that is no string is stored as JSON."""
        path = self.path(group, shard)
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
        texts["fingerprint"] = json.dumps(plain(fingerprint), sort_keys=True)
        with whole_file(path) as part:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, metadata=texts
            )
        return path

    @contextmanager
    def opened(self, group: str, shard: str) -> Iterator[Any]:
        """The file as ``safetensors.safe_open`` gives it, so that parts of it can be read.

        Raises:
            InputError: It is missing or damaged.
        """
        path = self.path(group, shard)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                yield file
        except (FileNotFoundError, safetensors.SafetensorError) as error:
            raise InputError(
                f"{path} cannot be read ({error}); run the benchmark again to mend it"
            ) from error

    def read(self, group: str, shard: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All tensors and the metadata of one file."""
        with self.opened(group, shard) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a dict


def sweep_abandoned(folder: Path) -> int:
    """Delete the parts of files that a killed process left behind; returns how many there were."""
    found = 0
    for part in folder.rglob(".*.part"):
        try:
            # Younger ones may belong to another process at work in the same folder.
            if time.time() - part.stat().st_mtime > ABANDONED_AFTER:
                part.unlink()
                found += 1
        except FileNotFoundError:
            continue
    return found


def plain(value: Any) -> Any:
    """The value as it comes back from JSON, so that it can be compared with a stored one."""
    return json.loads(json.dumps(value, default=str))


def as_of_today(stored: Any) -> Any:
    """What an earlier version stored, with our classes called as they are called now."""
    if isinstance(stored, dict):
        return {key: as_of_today(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [as_of_today(value) for value in stored]
    return MOVED_CLASSES.get(stored, stored) if isinstance(stored, str) else stored


def first_difference(stored: Any, wanted: Any, where: str = "") -> str:
    """The first place where two nested dicts differ, for an error message."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in sorted(stored.keys() | wanted.keys()):
            if stored.get(key) != wanted.get(key):
                return first_difference(
                    stored.get(key), wanted.get(key), f"{where}.{key}" if where else key
                )
    return f"{where}: {str(stored)[:60]} then, {str(wanted)[:60]} now"
