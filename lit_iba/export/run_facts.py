"""What a checkpoint, and the run's folder around it, know of how an explainer was trained."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_iba.errors import InputError
from lit_iba.files import read_text
from lit_iba.report.run_folder import COMMAND, CONFIG

_CALLBACK = "EvaluationMetrics"  # whose state has the scores; it stands above this room
_LARGEST = 1 << 20  # bytes of a config or a command


def run_facts(saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What is known of the run that wrote a checkpoint; what is not, is None or empty.

    Args:
        saved: The checkpoint's content.
        path: Its file; ``config.yaml`` and ``command.txt`` are looked for beside it, or one folder
            up where it lies in ``checkpoints``.
    """
    folder = path.absolute().parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    config = _config(folder)
    dated = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    command = _text(folder / COMMAND)
    return {
        "dated": dated.isoformat(timespec="seconds"),
        "command": _shown(command.strip()) if command else None,
        "seed": config.get("seed_everything"),
        "data": _shown(config.get("data")),
        "plan": _plan(saved),
        "scores": _scores(saved),
        "evaluation": _evaluation(config),
    }


def _shown(value: Any) -> Any:
    """Without what may be a password: an export is made to be given away."""
    if isinstance(value, dict):
        return {
            key: "(not shown)" if key == "storage_options" and inner else _shown(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if "storage_options" in value or "pipe:" in value:
        return "(not shown: it has storage_options or a pipe)"
    without_user = re.sub(r"(\w://)[^/\s]*@", r"\1", value)
    return re.sub(r"(\w://[^\s?]*)\?[^\s'\"]*", r"\1", without_user)  # signatures of addresses


def _text(path: Path) -> str | None:
    try:
        return read_text(path, limit=_LARGEST)
    except InputError:
        return None


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(_text(folder / CONFIG) or "")
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _plan(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The order of samples, from the state of the data module."""
    for state in saved.values():
        if isinstance(state, dict) and isinstance(plan := state.get("plan"), dict):
            return {k: plan[k] for k in ("total", "batch_size", "world", "seed") if k in plan}
    return None


def _scores(saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The last evaluation of the training: for each metric the explainer's score and those of the
    controls, each with its standard error.
    """
    found: list[dict[str, Any]] = []
    for name, state in (saved.get("callbacks") or {}).items():
        if not str(name).startswith(_CALLBACK) or not isinstance(state, dict):
            continue
        logged = state.get("logged") or {}
        for metric, history in (state.get("history") or {}).items():
            if not history:
                continue
            step, *score = history[-1]
            tag = f"val/{metric}/"
            controls = {
                key.removeprefix(tag): _finite(value, logged[f"{key}_se"])
                for key, value in logged.items()
                if key.startswith(tag) and f"{key}_se" in logged
            }
            own = {"metric": metric, "step": step, "score": _finite(*score)}
            found.append({**own, "controls": controls})
    return found


def _finite(*values: float) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _evaluation(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the evaluation, as the config states them."""
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for given in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(given, dict) and str(given.get("class_path")).endswith(_CALLBACK):
            return dict(given.get("init_args") or {})
    return None
