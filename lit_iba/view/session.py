"""What the explorer shows: pictures, the maps of every method, and a run's metrics; and, where
there is a classifier, what can be asked of it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import drawn
from lit_iba.drawing import finite_values
from lit_iba.errors import InputError
from lit_iba.evaluation.surroundings import StoredStatistics
from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.heatmap import Heatmap
from lit_iba.objectives.base import OBJECTIVES, named_settings
from lit_iba.report.curves import colors_of
from lit_iba.report.explanations import labels_of
from lit_iba.report.naming import bits, method_labels, settings_text, unit_text
from lit_iba.report.page_gallery import kind_of, scale_ends
from lit_iba.report.pictures import (
    backdrop_uri,
    drawn_map,
    layer_uri,
    outline,
    photograph_uri,
    pixelated,
)
from lit_iba.report.published import canonical
from lit_iba.report.run_folder import ExplainerInfo, RunFolder, read_run
from lit_iba.report.tables import shortfalls
from lit_iba.view.live import LiveClassifier
from lit_iba.view.places import Places

IBA = "per_sample_iba"
USUAL_BETA = 10.0  # the paper's


@dataclass(frozen=True)
class ShownMethod:
    """A method of the page; ``deviates`` says that each of its maps has a standard deviation."""

    name: str
    label: str
    color: int
    info: ExplainerInfo
    deviates: bool = False


@dataclass
class ExplorerSession:
    """What the explorer shows.

    Args:
        title: Heading.
        facts: Names and values of the line below it.
        notices: What a reader should know first, a sentence each.
        pictures: uint8 (N, 3, H, W).
        keys: Name of each picture.
        titles: What each shows, or an empty text.
        object_mask: bool (N, H, W).
        methods: In the order of their buttons.
        maps: Of every method, (N, H, W).
        deviations: Of methods that know them, (N, H, W).
        places: Of a run's pictures among its images.
        live: The classifier, or None where it cannot be asked.

    Example:
        >>> from lit_iba.view import ExplorerSession
        >>> session = ExplorerSession.of_run("runs/digits")
        >>> [method.label for method in session.methods], session.live is not None
        (['Saliency', 'Random'], True)
    """

    title: str
    facts: Sequence[tuple[str, object]]
    notices: list[str]
    pictures: Tensor
    keys: list[str]
    titles: list[str]
    object_mask: Tensor
    methods: list[ShownMethod]
    maps: Mapping[str, Tensor]
    deviations: Mapping[str, Tensor] = field(default_factory=dict)
    places: Places | None = None
    live: LiveClassifier | None = None

    @classmethod
    def of_run(
        cls,
        folder: str | Path,
        classifier: Mapping[str, Any] | None = None,
        device: str = "cpu",
        stored: StoredStatistics | None = None,
    ) -> ExplorerSession:
        """A benchmark's run, with its gallery and metrics.

        Args:
            folder: Of the run.
            classifier: Arguments of :class:`FrozenClassifier` in place of those that the run
                remembers, such as where its weights are today.
            device: That the classifier is asked on.
            stored: Where feature statistics are kept; by default in the run.

        Raises:
            InputError: It is no run folder, or has no gallery; or the classifier that is given is
                not the run's.
        """
        run = read_run(folder)
        gallery = run.gallery
        if gallery is None or not len(gallery.pictures) or not gallery.heatmaps:
            raise InputError(
                f"{folder} has no gallery.safetensors with pictures to look at; run `lit-iba"
                " benchmark` into it again with gallery: 24"
            )
        names = [name for name in run.explainers if name in gallery.heatmaps]
        names += [name for name in gallery.heatmaps if name not in run.explainers]
        unknown = ExplainerInfo("", {}, "1", False, float("nan"))
        notices = shortfalls(run)
        if stored is None:
            stored = StoredStatistics(run.path / "statistics", None)
        try:
            live = _live(run, dict(classifier or {}), device, stored)
        except Exception as error:  # of whatever a classifier is made of; the rest is shown
            if classifier:
                raise
            notices.append(_off(error))
            live = None
        infos = {name: run.explainers.get(name, unknown) for name in names}
        labels, colors = method_labels(infos), colors_of(names)
        return cls(
            title=f"Explorer: {run.classifier.get('model') or 'an unnamed classifier'}",
            facts=_facts(run),
            notices=notices,
            pictures=gallery.pictures,
            keys=gallery.keys,
            titles=gallery.labels,
            object_mask=gallery.object_mask,
            methods=[
                ShownMethod(
                    name,
                    labels[name],
                    colors[name],
                    info,
                    live is not None and _knows_deviation(info.cls),
                )
                for name, info in infos.items()
            ],
            maps=gallery.heatmaps,
            places=Places(run),
            live=live,
        )

    @classmethod
    def of_photographs(
        cls,
        live: LiveClassifier,
        names: list[str],
        titles: list[str],
        heatmaps: Mapping[str, Heatmap],
        explainers: Mapping[str, tuple[str, Mapping[str, Any]]],
        notices: Sequence[str] = (),
    ) -> ExplorerSession:
        """Photographs and a classifier.

        Args:
            live: Both.
            names: Of the photographs.
            titles: What is explained in each photograph.
            heatmaps: Of each method by name, as many maps.
            explainers: Class and settings of each method.
            notices: What a reader should know first.
        """
        colors, classifier = colors_of(list(heatmaps)), live.classifier
        labels = labels_of(explainers)
        unknown = float("nan")
        return cls(
            title=f"Explorer: {classifier.name}",
            facts=[("classifier", classifier.name), ("weights", Path(classifier.weights).name)],
            notices=list(notices),
            pictures=drawn(live.pictures),
            keys=names,
            titles=titles,
            object_mask=torch.zeros(len(titles), *live.pictures.shape[-2:], dtype=torch.bool),
            methods=[
                ShownMethod(
                    name,
                    labels[name],
                    colors[name],
                    ExplainerInfo(*explainers[name], one.unit, one.signed, unknown),
                    one.uncertainty is not None,
                )
                for name, one in heatmaps.items()
            ],
            maps={name: heatmap.values for name, heatmap in heatmaps.items()},
            deviations={
                name: one.uncertainty
                for name, one in heatmaps.items()
                if one.uncertainty is not None
            },
            live=live,
        )

    def method(self, name: str) -> ShownMethod:
        """A method by name.

        Raises:
            InputError: There is none such.
        """
        for method in self.methods:
            if method.name == name:
                return method
        raise InputError(f"there is no method {name!r} on this page; choose one of its buttons")

    @property
    def iba(self) -> Mapping[str, Any]:
        """The settings of the page's own Per-Sample IBA; empty where it has none."""
        found = (
            method.info.settings
            for method in self.methods
            if canonical("explainers", method.info.cls) == IBA
        )
        return next(found, {})

    def picture(self, number: int) -> int:
        """A picture's number, checked.

        Raises:
            InputError: There is none such.
        """
        if not 0 <= number < len(self.pictures):
            raise InputError(f"there is no picture {number}; there are {len(self.pictures)}")
        return number

    def described(self) -> dict[str, Any]:
        """What the page is made of, as plain values."""
        height, width = self.pictures.shape[-2:]
        asked = [] if self.live is None else [self.live.described(i) for i in range(len(self.keys))]
        return {
            "width": width,
            "height": height,
            "pixels": pixelated(height, width),
            "boxes": bool(self.object_mask.any()),
            "pictures": [
                {"key": key, "title": title or key, "target": asked[i] if asked else ""}
                for i, (key, title) in enumerate(zip(self.keys, self.titles, strict=True))
            ],
            "methods": [
                {
                    "name": method.name,
                    "label": method.label,
                    "color": method.color,
                    "unit": method.info.unit,
                    "unit_text": unit_text(method.info),
                    "settings": settings_text(method.info.known),
                    "deviates": method.deviates,
                }
                for method in self.methods
            ],
            **self._bottleneck(),
            "live": self.live is not None,
        }

    def _bottleneck(self) -> dict[str, Any]:
        """Where a bottleneck can stand, where it stands at first, and with which weight."""
        if self.live is None:
            return {"layers": [], "layer": "", "beta": USUAL_BETA}
        beta = self.iba.get("beta", USUAL_BETA)
        return {
            "layers": self.live.layers,
            "layer": self.iba.get("layer") or self.live.layer,
            "beta": beta if isinstance(beta, int | float) and beta > 0 else USUAL_BETA,
        }

    def shown_picture(self, number: int) -> dict[str, Any]:
        """A picture and what is known of it, as plain values."""
        i = self.picture(number)
        return {
            "photograph": photograph_uri(self.pictures[i]),
            "backdrop": backdrop_uri(self.pictures[i]),
            "border": outline(self.object_mask[i]),
            "metrics": [] if self.places is None else self.places.of(self.keys[i]),
        }

    def shown_map(self, number: int, name: str) -> dict[str, Any]:
        """A method's map of a picture, as plain values."""
        method, i = self.method(name), self.picture(number)
        found = shown(self.maps[name][i], method.info.unit, method.info.signed)
        if name in self.deviations:
            found["deviation"] = shown(self.deviations[name][i], method.info.unit, False)
        return found


def shown(values: Tensor, unit: str, signed: bool) -> dict[str, Any]:
    """A map (H, W) as the page draws it: a transparent picture, the ends of its colours or whether
    they are those of signs, a caption, and its values for the cursor, float32 in base64.
    """
    kind, finite = kind_of(unit, signed), finite_values(values)
    as_drawn = drawn_map(finite, signed)
    low, high = scale_ends(as_drawn) if kind == "bits" else ("", "")
    notes = [f"{bits(float(finite.sum()))} bits"] if kind == "bits" else []
    if not torch.isfinite(values).all():
        notes.append("contains values that are no numbers, drawn as zero")
    notes += filter(None, as_drawn.how(signed))
    plain = finite.contiguous().numpy().astype("<f4", copy=False)
    return {
        "layer": layer_uri(as_drawn),
        "low": low,
        "high": high,
        "signs": bool(as_drawn.signed[0]),
        "unit": unit,
        "caption": "; ".join(notes),
        "values": base64.b64encode(np.ascontiguousarray(plain).tobytes()).decode(),
    }


def run_classifier(run: RunFolder, given: Mapping[str, Any]) -> FrozenClassifier:
    """The classifier that a run judged, made again from what its files say and what is given
    instead.

    Raises:
        InputError: The run does not say how, needs code of the user's own, or had other weights.
    """
    arguments = {**_only_names(run.network, given), **given}
    if not arguments.get("model"):
        raise InputError("this run does not say how its classifier is made")
    classifier = FrozenClassifier(**arguments)
    classifier.check_identity(dict(run.classifier), f"the run {run.path}")
    return classifier


def _live(
    run: RunFolder, given: dict[str, Any], device: str, stored: StoredStatistics
) -> LiveClassifier:
    assert run.gallery is not None
    classifier = run_classifier(run, given).to(device)
    if classifier.channels > 3:
        raise InputError(f"the gallery keeps three of a picture's {classifier.channels} channels")
    targets = None
    if run.data.get("target") == "label" and run.gallery.classes:
        targets = classifier.objective.of_labels(torch.tensor(run.gallery.classes))
    pictures = run.gallery.pictures[:, : classifier.channels]
    return LiveClassifier(classifier, pictures, run.gallery.keys, targets, stored)


def _only_names(network: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What makes a run's classifier again, if it is all data: what a file names is never imported.

    Raises:
        InputError: Code of the user's own is named, and not by the user.
    """
    if "model" not in given and ":" in str(network.get("model", "")):
        raise InputError(f"{network['model']} is a function of your own, to be named again")
    objective = named_settings(network.get("objective") or "classification").get("name")
    if "objective" not in given and objective not in (OBJECTIVES.keys() - {"custom"}):
        raise InputError(f"the objective {objective!r} is code of your own, to be named again")
    return network


def _off(error: Exception) -> str:
    reason = " ".join(str(error).split()).partition(";")[0].rstrip(".") or type(error).__name__
    return (
        f"Live questions are off: {reason}. Give --classifier.model and --classifier.weights to"
        " turn them on."
    )


def _knows_deviation(cls: str) -> bool:
    """Whether an explainer of ours gives a standard deviation with its maps."""
    name = canonical("explainers", cls)
    outputs = getattr(explainer_class(name), "outputs", ()) if name in EXPLAINERS else ()
    return any(output.name == "deviation" for output in outputs)


def _facts(run: RunFolder) -> list[tuple[str, object]]:
    facts = [
        ("weights", run.classifier.get("weights")),
        ("images", run.data.get("used", run.data.get("images"))),
        ("data", run.data.get("source")),
        ("run", run.path),
    ]
    return [(name, value) for name, value in facts if value not in (None, "")]
