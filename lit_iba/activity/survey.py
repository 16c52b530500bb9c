"""What biases do for classifiers: accuracy without them, how outputs change, robustness to scaled
and shifted input.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", section 3 and
supplement B (figures 3, S1 to S5). A classifier at a time; what is finished stays in its own file,
so that a survey that was stopped goes on.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from lit_iba import __version__
from lit_iba.activity.batch_norms import (
    Statistics,
    batch_norm_count,
    reestimate_batch_norms,
    unfold_batch_norms,
)
from lit_iba.activity.similarity import similarity_spread
from lit_iba.activity.zero_bias import bias_tensors, without_biases
from lit_iba.checks import check_counts, check_numbers, check_taken
from lit_iba.classifier import FrozenClassifier
from lit_iba.data import ShardIndex
from lit_iba.data.shard import is_file_name
from lit_iba.errors import InputError
from lit_iba.files import read_text, write_text
from lit_iba.objectives.classes import needs_classes
from lit_iba.resumable.content import with_content
from lit_iba.resumable.identity import classifier_identity
from lit_iba.resumable.selection import Selection

logger = logging.getLogger(__name__)
TOP = 5


@dataclass(frozen=True)
class SurveySettings:
    """What is measured.

    Args:
        batch_size: Images per forward pass.
        max_images: At most so many images; None takes all (50,000 in the paper).
        scales: Factors of the network's normalised input (figure S1).
        shifts: What is added to the pictures, in units of their range: 1 stands for 255 (figure
            S2).
        reestimate_images: Over how many images batch norms are measured again for each scale and
            shift; 0 leaves that out.
        similarity_images: For how many images each layer's activity attribution of the predicted
            class is compared with its bias attribution and with that of the network without biases
            (figure 8); 0 leaves that out, as a network does whose layers cannot be told.
        regression_images: For how many images slope and offset are kept one by one (200 in figure
            S5).
        seed: Of the draw of images where ``max_images`` leaves a choice.

    Example:
        >>> from lit_iba.activity import SurveySettings
        >>> SurveySettings(max_images=1000).shifts
        (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
    """

    batch_size: int = 64
    max_images: int | None = None
    scales: tuple[float, ...] = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
    shifts: tuple[float, ...] = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
    reestimate_images: int = 1000
    similarity_images: int = 100
    regression_images: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size, regression_images=self.regression_images)
        check_counts(0, reestimate_images=self.reestimate_images)
        check_counts(0, similarity_images=self.similarity_images)
        for scale in self.scales:
            check_numbers(0, exclusive=True, scales=scale)
        for shift in self.shifts:
            check_numbers(-1e6, shifts=shift)
        Selection(self.max_images, None, self.seed)  # checks them


def run_survey(
    classifiers: Mapping[str, Mapping[str, Any]],
    data: ShardIndex,
    out: str | Path,
    settings: SurveySettings,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Measure every classifier that has no result yet.

    Args:
        classifiers: Arguments of ``FrozenClassifier`` by name; without ``model`` the name is the
            model. ``decayed`` beside them are the weights after zero-bias training, with whose
            activity attributions those of the classifier are compared.
        data: Labelled images.
        out: Folder; a classifier's result stands in ``classifiers/<name>.json``.
        settings: What is measured.
        device: Where.

    Returns:
        The results by name, see :func:`survey_classifier`.

    Raises:
        InputError: No classifier, arguments that do not fit, or labels that a classifier does not
            know.

    Example:
        >>> from lit_iba.activity import SurveySettings, run_survey
        >>> from lit_iba.data import ShardIndex
        >>> settings = SurveySettings(scales=(1.0,), shifts=(0.0,), reestimate_images=0)
        >>> networks = {"small": {"model": "small_cnn", "weights": "random"}}
        >>> results = run_survey(networks, ShardIndex.load("digits/test"), "survey", settings)
        >>> results["small"]["images"]
        8
    """
    if not classifiers:
        raise InputError(
            "the survey has no classifiers; give a model and its weights for each name"
        )
    for name in classifiers:
        if not is_file_name(name):
            raise InputError(f"classifier {name!r} names a file; give a name without slashes")
    data, results = with_content(data, out), {}
    for name, record in classifiers.items():
        try:
            given = {"model": name} | dict(record)
            weights = given.pop("decayed", None)
            check_taken(FrozenClassifier.__init__, given, f"classifier {name}", also=["decayed"])
            classifier = FrozenClassifier(**given).to(device)
            decayed = (
                None
                if weights is None
                else FrozenClassifier(**given | {"weights": weights}).to(device)
            )
        except TypeError as error:
            raise InputError(f"classifier {name}: {error}; it takes model and weights") from error
        made_of = [
            __version__,
            classifier_identity(classifier),
            decayed and classifier_identity(decayed),
            classifier.preprocessing.to_dict(),
            data.identity(),
            asdict(settings),
        ]
        identity = json.loads(json.dumps(made_of))
        path = Path(out) / "classifiers" / f"{name}.json"
        stored = _stored(path)
        if stored.get("identity") == identity:
            logger.info("%s is there already", name)
        else:
            stored = {
                "identity": identity,
                "result": survey_classifier(classifier, data, settings, name, decayed),
            }
            write_text(path, json.dumps(stored, indent=1) + "\n")
        results[name] = stored["result"]
    return results


def _stored(path: Path) -> dict[str, Any]:
    """What an earlier survey wrote of a classifier; nothing where it is missing or damaged."""
    try:
        found = json.loads(read_text(path, "results")) if path.is_file() else {}
    except json.JSONDecodeError as error:
        logger.warning("%s is damaged or cut short (%s); it is made again", path, error)
        return {}
    return found if isinstance(found, dict) else {}


@torch.no_grad()
def survey_classifier(
    classifier: FrozenClassifier,
    data: ShardIndex,
    settings: SurveySettings,
    name: str = "",
    decayed: FrozenClassifier | None = None,
) -> dict[str, Any]:
    """All measurements of one classifier, in one pass over the data; ``decayed`` is the same after
    zero-bias training, where it is compared with that.

    Returns:
        ``images``, ``biases`` (how many numbers), ``batch_norms``, ``unfolded_batch_norms`` (see
        :func:`unfold_batch_norms`), ``accuracy`` (``original`` and ``without_biases``: top-1 to
        top-5), ``drop_top1``, ``correlation`` and the ``regression``'s ``slope`` and ``offset``
        (mean and standard error over images; slope and offset of single images beside them),
        ``scaling`` and ``shift`` (top-1 by factor, with batch norms as they are and measured again,
        the latter None where there are none), and ``similarity``: ``layers``, and of the
        correlations of their maps ``median``, ``low`` and ``high`` (10th and 90th percentiles over
        images), by what they are compared with; None where layers cannot be told.

    Raises:
        InputError: The classifier is asked about something else than classes.
    """
    why = "counts hits among classes"
    needs_classes(classifier.objective, "the survey", "decompositions of single images", why)
    zero, norms = without_biases(classifier), batch_norm_count(classifier)
    variants = [("scaling", value) for value in settings.scales] + [
        ("shift", value) for value in settings.shifts
    ]
    other, folded, measured = classifier, 0, dict[tuple[str, float], Statistics]()
    if norms and settings.reestimate_images:
        first = _first(classifier, data, settings, settings.reestimate_images)
        other, folded = unfold_batch_norms(
            classifier, (classifier.images(batch) for batch in first)
        )
        for variant in track(variants, description="batch norms", transient=True):
            changed = (
                _changed(classifier, classifier.images(batch), *variant)
                for batch in first
                if len(batch) > 1
            )
            measured[variant] = reestimate_batch_norms(other, changed)
    hits: dict[Any, list[Tensor]] = {}
    relations: list[Tensor] = []
    total = sum(math.ceil(quota / settings.batch_size) for quota in _quotas(data, settings))
    batches = _batches(classifier, data, settings)
    for pictures, labels in track(
        batches, description=name or classifier.name, total=total, transient=True
    ):
        images = classifier.images(pictures)
        labels = labels.to(images.device)
        original, bare = classifier(images).float(), zero(images).float()
        hits.setdefault("original", []).append(top_hits(original, labels))
        hits.setdefault("without_biases", []).append(top_hits(bare, labels))
        relations.append(torch.stack(output_relation(original, bare)).cpu())
        for variant in variants:
            inputs = _changed(classifier, images, *variant)
            hits.setdefault(("fixed", *variant), []).append(
                top_hits(classifier(inputs).float(), labels, 1)
            )
            if variant in measured:
                other.model.load_state_dict(measured[variant], strict=False)
                hits.setdefault(("reestimated", *variant), []).append(
                    top_hits(other(inputs).float(), labels, 1)
                )
    if not sum(relation.shape[1] for relation in relations):
        why = Selection().why_none(data.shards, classifier.preprocessing)
        raise InputError(f"no image of the data is left to measure: {why}")
    similarity = None
    if settings.similarity_images:
        others = {"without_biases": zero} | ({} if decayed is None else {"decayed": decayed})
        shown = torch.cat(_first(classifier, data, settings, settings.similarity_images))
        similarity = similarity_spread(classifier, shown[: settings.similarity_images], others)
    found = {key: torch.cat(rows).double().cpu() for key, rows in hits.items()}
    relation = torch.cat(relations, dim=1).double()
    kept = relation[:, : settings.regression_images]

    def curve(kind: str, values: Sequence[float]) -> dict[str, Any]:
        def accuracy(how: str) -> list[float] | None:
            keys = [(how, kind, value) for value in values]
            return (
                [float(found[key].mean()) for key in keys]
                if keys[:1] and keys[0] in found
                else None
            )

        return {
            "values": list(values),
            "fixed": accuracy("fixed"),
            "reestimated": accuracy("reestimated"),
        }

    return {
        "images": len(found["original"]),
        "biases": sum(bias.numel() for bias in bias_tensors(classifier.model).values()),
        "batch_norms": norms,
        "unfolded_batch_norms": folded,
        "accuracy": {
            which: found[which].mean(dim=0).tolist() for which in ("original", "without_biases")
        },
        "drop_top1": _mean_and_error(found["original"][:, 0] - found["without_biases"][:, 0]),
        "correlation": _mean_and_error(relation[0]),
        "regression": {
            "slope": _mean_and_error(relation[1]) | {"values": kept[1].tolist()},
            "offset": _mean_and_error(relation[2]) | {"values": kept[2].tolist()},
        },
        "scaling": curve("scaling", settings.scales),
        "shift": curve("shift", settings.shifts),
        "similarity": similarity,
    }


def top_hits(logits: Tensor, labels: Tensor, top: int = TOP) -> Tensor:
    """Whether the label is among the k best, for k = 1 to ``top``: bool (B, top)."""
    best = logits.topk(min(top, logits.shape[1]), dim=1).indices == labels[:, None]
    hits = best.cumsum(dim=1) > 0
    return (
        hits
        if hits.shape[1] == top
        else torch.cat([hits, hits[:, -1:].expand(-1, top - hits.shape[1])], dim=1)
    )


def output_relation(original: Tensor, changed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How two networks' outputs for an image are related over classes (figures S4 and S5).

    Args:
        original: (B, K) logits f.
        changed: (B, K) logits of the network without biases.

    Returns:
        Pearson's correlation, and slope and offset of the least-squares fit
        ``changed = slope original + offset``, each (B,). Correlation and slope are 0 where one of
        them is constant.
    """
    f, g = (x - x.mean(dim=1, keepdim=True) for x in (original, changed))
    tiny = torch.finfo(f.dtype).tiny
    slope = (f * g).sum(dim=1) / (f * f).sum(dim=1).clamp_min(tiny)
    unit_f, unit_g = (x / x.norm(dim=1, keepdim=True).clamp_min(tiny) for x in (f, g))
    return (unit_f * unit_g).sum(dim=1), slope, changed.mean(dim=1) - slope * original.mean(dim=1)


def _first(
    classifier: FrozenClassifier, data: ShardIndex, settings: SurveySettings, wanted: int
) -> list[Tensor]:
    """The first so many pictures, or a few more, in batches."""
    pictures: list[Tensor] = []
    for batch, _ in _batches(classifier, data, settings):
        pictures.append(batch)
        if sum(map(len, pictures)) >= wanted:
            break
    return pictures


def _changed(classifier: FrozenClassifier, images: Tensor, kind: str, value: float) -> Tensor:
    if kind == "scaling":
        return images * value
    std = torch.tensor(classifier.preprocessing.std, device=images.device, dtype=images.dtype)
    return images + value / std.view(-1, 1, 1)


def _batches(
    classifier: FrozenClassifier, data: ShardIndex, settings: SurveySettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures and labels, shard by shard."""
    selection = Selection(settings.max_images, None, settings.seed)
    for shard, quota in zip(data.shards, _quotas(data, settings), strict=True):
        images = selection.select(shard, quota, classifier.preprocessing)
        outside = (images.labels < 0) | (images.labels >= classifier.num_classes)
        if outside.any():
            first = int(outside.nonzero()[0])
            raise InputError(
                f"sample {images.keys[first]!r} of {shard.path} has label "
                f"{int(images.labels[first])}, but {classifier.name} knows "
                f"0..{classifier.num_classes - 1}; give labelled data with the classifier's classes"
            )
        yield from zip(
            images.pictures.split(settings.batch_size),
            images.labels.split(settings.batch_size),
            strict=True,
        )


def _quotas(data: ShardIndex, settings: SurveySettings) -> list[int]:
    return Selection(settings.max_images, None, settings.seed).quotas(
        [shard.count for shard in data.shards]
    )


def _mean_and_error(values: Tensor) -> dict[str, Any]:
    """Mean and standard error over images."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "se": error}
