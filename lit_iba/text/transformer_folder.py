"""A sequence classifier of transformers from a folder: its config and its safetensors, without the
network, and without any code but that of transformers itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_iba.errors import InputError
from lit_iba.files import read_text
from lit_iba.text.pieces import NEEDED


def load_folder(folder: str | Path) -> Any:
    """The module in a folder of ``save_pretrained``, from its config and safetensors alone.

    Raises:
        InputError: As in :meth:`TransformerTextClassifier.from_folder`.
    """
    path = Path(folder)
    try:
        import transformers
    except ImportError as error:
        raise InputError(NEEDED) from error
    if not path.is_dir():
        raise InputError(
            f"{path} is no folder; give one with config.json, model.safetensors and tokenizer.json"
        )
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise InputError(
                f"{path} has no {name}; save_pretrained of the model and of its fast tokenizer"
                " write config.json, model.safetensors and tokenizer.json"
            )
    if not any((path / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
        raise InputError(
            f"{path} has no model.safetensors; weights are read from safetensors only, as"
            " save_pretrained writes them"
        )
    try:
        given = json.loads(read_text(path / "config.json", "config"))
        kinds = given.get("architectures") or []
        if "auto_map" in given:
            raise InputError(
                f"{path}/config.json asks for code of its own (auto_map), which is not run; take a"
                " model that transformers itself has"
            )
        kind = getattr(transformers, str(kinds[0]), None) if kinds else None
        if kind is None or not str(kinds[0]).endswith("ForSequenceClassification"):
            raise InputError(
                f"{path}/config.json is of {kinds or 'no architecture'}, but must name one that"
                " ends in ForSequenceClassification"
            )
        with _no_bars():
            model, report = kind.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} cannot be loaded ({' '.join(str(error).split())[:300]}); save the model again"
        ) from error
    lacking = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if lacking:
        raise InputError(
            f"{path}/model.safetensors lacks {len(lacking)} weights of {kinds[0]}, such as"
            f" {lacking[0]}; give a fine-tuned classifier"
        )
    for name, tensor in model.named_parameters():
        if not tensor.isfinite().all():
            raise InputError(f"{path}/model.safetensors has values in {name} that are not finite")
    return model


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' progress bars; a classifier is read in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
