"""Explainers that are there already: what they are called in results, and what tells them apart.

A config names an explainer and its settings; one that a program or a training holds is described by
what it holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import EXPLAINERS, Explainer, Surroundings, explainer_class
from lit_iba.metrics.judged import Subject
from lit_iba.training.trained_explainer import TrainedExplainer

_PLAIN = (bool, int, float, str, type(None))


def class_of(explainer: Explainer) -> str:
    """The name that a config would call the explainer's class by."""
    cls = type(explainer)
    if explainer.name in EXPLAINERS and explainer_class(explainer.name) is cls:
        return explainer.name
    return f"{cls.__module__}.{cls.__qualname__}"


def described(explainer: Explainer) -> dict[str, Any]:
    """What the heatmaps of an explainer depend on, as plain values: its settings, and the content
    of its networks and tensors.

    Example:
        >>> from lit_iba import build_explainer
        >>> from lit_iba.evaluation.built import described
        >>> described(build_explainer("smoothgrad", classifier, {"samples": 4}))["samples"]
        4
    """
    if isinstance(explainer, TrainedExplainer):
        found = {**explainer.record, "seed": explainer.seed, "network": content(explainer.trained)}
        return found | ({"smooth": explainer.smooth} if explainer.smooth else {})
    found = {}
    for name, value in sorted(vars(explainer).items()):
        # The classifier has an identity of its own, and what begins with _ is kept for speed.
        if name not in ("classifier", "on_step") and not name.startswith("_"):
            found[name] = _described(value)
    return found


def _described(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor | nn.Module):
        return content(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _described(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_described(item) for item in value]
    return f"{type(value).__module__}.{type(value).__qualname__}"


def content(value: Tensor | nn.Module) -> str:
    """SHA-256 over a tensor, or over the names and values of a module's parameters and buffers."""
    state = {"": value} if isinstance(value, Tensor) else value.state_dict()
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if isinstance(tensor, Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(raw.numpy().tobytes())
    return found.hexdigest()


def subject_of(explainer: Explainer) -> Subject:
    """The explainer as what a metric judges; it cannot be built again for another classifier."""

    def build(classifier: FrozenClassifier, surroundings: Surroundings | None) -> NoReturn:
        raise InputError(
            f"the metric builds {class_of(explainer)} again for other classifiers, which needs its "
            "name and settings; give both to evaluate.py benchmark"
        )

    return Subject(explainer, build)
