"""Checkpoints that survive a kill: written beside the target, flushed to disk, renamed; verified
when read.

Lightning's own writer goes through the temporary folder, which on a cluster is another file system,
so that a kill while saving can leave an empty ``last.ckpt``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_iba.errors import InputError
from lit_iba.files import whole_file
from lit_iba.training.checkpoint import read_checkpoint


class DurableCheckpointIO(TorchCheckpointIO):
    """The old file or the new one, never a part of either.

    Example:
        >>> from lit_iba.training import DurableCheckpointIO
        >>> plugin = DurableCheckpointIO()  # for Trainer(plugins=[plugin])
        >>> checkpoint = plugin.load_checkpoint("runs/readout/last.ckpt")
        >>> plugin.save_checkpoint(checkpoint, "copy.ckpt")
        >>> plugin.load_checkpoint("copy.ckpt")["global_step"]
        1
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write by atomic rename.

        Raises:
            InputError: The disk does not take it; the file that was there before is untouched.
        """
        try:
            with whole_file(path) as part:
                torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(Path(path).parent).free >> 20
            mend = (
                "and resume: the one before it is whole"
                if any(Path(path).parent.glob("*.ckpt"))
                else "and start again: there is none before it"
            )
            raise InputError(
                f"checkpoint {path} could not be written ({error}; {free} MiB are free); make room"
                f" {mend}"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read after checking every byte against the file's checksums; never runs code from it.

        Raises:
            InputError: The file is missing, damaged or cut short, or was not written by lit_iba.
        """
        return read_checkpoint(path)
