"""An entry of a config: a name, and the class and settings that it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lit_iba.errors import InputError

Named = Mapping[str, Mapping[str, Any] | None]


def class_and_settings(
    kind: str, name: str, given: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """Split a config entry: ``{explainer: grad_cam, layer: layer4}`` under any name, or settings
    under the class's own.

    A class of the user's own is named as ``{explainer: my_file.MyMap, ...}``, or as elsewhere in
    Lightning's configs: ``{class_path: my_file.MyMap, init_args: {...}}``.

    Raises:
        InputError: The name cannot name a folder, or the entry is no mapping.
    """
    if not isinstance(name, str):
        raise InputError(f"the name {name!r} among the {kind}s is no text; put it in quotes")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(
            f"{name!r} cannot name {'an' if kind[0] in 'aeiou' else 'a'} {kind}: results are kept"
            f" in a folder of that name; use letters, digits and _ . + -, and say {kind}: <class>"
            " in its settings"
        )
    if not isinstance(given, Mapping | None):
        raise InputError(
            f"the settings of {kind} {name!r} are {given!r}; give a mapping, or nothing"
        )
    settings = dict(given or {})
    if "class_path" in settings:
        unknown = settings.keys() - {"class_path", "init_args"}
        if unknown:
            raise InputError(
                f"{kind} {name!r} has class_path and {sorted(unknown)[0]!r} side by side; put its"
                " settings under init_args"
            )
        return class_and_settings(
            kind, name, {**(settings.get("init_args") or {}), kind: settings["class_path"]}
        )
    return str(settings.pop(kind, name)), settings
