"""What stored results depend on beside their data: the explainer's class and settings, files and
code of the user's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_iba.explainer import explainer_class
from lit_iba.files import sha256_of


def explainer_identity(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Class and settings of an explainer, with the content of the files (checkpoints) that the
    settings name.

    Example:
        >>> from lit_iba.resumable import explainer_identity
        >>> explainer_identity("saliency", {})["class"]
        'saliency'
    """
    files = _hashes_of_files(settings)
    return {"class": name, "settings": settings, "files": files, **source_of(explainer_class(name))}


def source_of(cls: type) -> dict[str, str]:
    """The content of the file that a class of the user's own stands in, so that edited code is run
    again.
    """
    if cls.__module__.startswith("lit_iba."):
        return {}
    try:
        return {"source": sha256_of(inspect.getfile(cls))}
    except (TypeError, OSError):
        return {}


def _hashes_of_files(settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        k: sha256_of(v)
        for k, v in settings.items()
        if isinstance(v, str | Path) and Path(v).is_file()
    }
