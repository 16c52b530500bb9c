"""The model card of an export, ``explainer.md``: what was trained, on what and for which
classifier, its scores beside those of the controls, its limits and its licence.

Nothing is guessed: what neither the checkpoint nor the run's folder knows, the card calls unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lit_iba.metrics.registered import METRICS, metric_class

_NO_CHECKPOINT = "Unknown: the explainer was exported from memory, without a checkpoint."


def card(description: Mapping[str, Any]) -> str:
    """Markdown for the content of an ``explainer.json``."""
    classifier = description["classifier"]
    checkpoint = description["checkpoint"] or {}
    run = checkpoint.get("run") or {}
    name = description["explainer"]["name"]
    parts = {
        f"{_plain(name)} for {_plain(classifier['model'])}": _explainer(description),
        "Classifier": _classifier(classifier),
        "Training": _training(checkpoint, run) if checkpoint else iter([_NO_CHECKPOINT]),
        "Scores": _scores(name, run),
        "Limits": _limits(description, checkpoint, run),
        "Licence": _licence(description.get("license")),
    }
    texts = [f"{'##' if n else '#'} {title}\n\n" for n, title in enumerate(parts)]
    bodies = ("\n".join(lines) for lines in parts.values())
    return "\n\n".join(text + body for text, body in zip(texts, bodies, strict=True)) + "\n"


def _explainer(description: Mapping[str, Any]) -> Iterator[str]:
    explainer, version = description["explainer"], description["packages"].get("lit_iba")
    yield f"A trained explainer, exported by lit_iba {version}; `README.md` says how to load it."
    yield ""
    yield f"- Class: {_code(explainer['class'])}"
    yield f"- SHA-256 of its tensors: {_code(explainer['sha256'])}"
    for output in description["outputs"]:
        yield f"- Output {_code(output['name'])} in {output['unit']}: {output['meaning']}"
    for key, value in explainer["settings"].items():
        yield f"- Setting {_code(key)}: {_code(value)}"


def _classifier(classifier: Mapping[str, Any]) -> Iterator[str]:
    yield f"- Model: {_code(classifier['model'])}"
    yield f"- Weights: {_code(classifier['weights'])}"
    yield f"- SHA-256 of its parameters: {_code(classifier['sha256'])}"
    yield "- It was frozen, and is not changed. A classifier of other weights is refused."


def _training(checkpoint: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    plan, settings = run.get("plan") or {}, checkpoint.get("training") or {}
    yield f"- Checkpoint: {_known(checkpoint.get('file'))}"
    yield f"- SHA-256 of the checkpoint: {_known(checkpoint.get('sha256'))}"
    yield f"- Date of the checkpoint's file: {_known(run.get('dated'))}"
    yield f"- Optimiser steps: {_known(checkpoint.get('global_step'))}"
    yield f"- Epoch: {_known(checkpoint.get('epoch'))}"
    yield f"- Data: {_known(run.get('data'), 'no config.yaml lies in the folder of the run')}"
    yield f"- Samples in the data: {_known(plan.get('total'))}"
    yield f"- Batch size of a process: {_known(plan.get('batch_size'))}"
    yield f"- Processes: {_known(plan.get('world'))}"
    yield f"- Seed of the order of samples: {_known(plan.get('seed'))}"
    yield f"- Seed of the run: {_known(run.get('seed'), 'the config states none')}"
    missing = "no command.txt lies in the folder of the run"
    yield f"- Command: {_known(run.get('command'), missing)}"
    if not settings:
        yield "- Settings: unknown"
    for key, value in settings.items():
        yield f"- Setting {_code(key)}: {_code(value)}"


def _scores(name: str, run: Mapping[str, Any]) -> Iterator[str]:
    scores = run.get("scores") or []
    if not scores:
        yield "Unknown: the training logged none with `EvaluationMetrics`."
        return
    evaluation = run.get("evaluation") or {}
    yield "From the last evaluation of the training, each score with its standard error."
    yield f"Images: {_most(evaluation)} of the validation data."
    yield ""
    controls = list(dict.fromkeys(control for row in scores for control in row["controls"]))
    head = ["metric", "better", "step", _plain(name), *(_plain(c) for c in controls)]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in scores:
        others = [row["controls"].get(control) for control in controls]
        metric = row["metric"]
        better = metric_class(metric).better if metric in METRICS else "unknown"
        cells = [_plain(metric), better, str(row["step"]), *map(_score, [row["score"], *others])]
        yield f"| {' | '.join(cells)} |"


def _most(evaluation: Mapping[str, Any]) -> str:
    if "images" not in evaluation:
        return "an unknown number"
    most = evaluation["images"]
    return "all" if most is None else f"at most {_plain(most)}"


def _limits(
    description: Mapping[str, Any], checkpoint: Mapping[str, Any], run: Mapping[str, Any]
) -> Iterator[str]:
    if any("bit" in output["unit"] for output in description["outputs"]):
        count = (checkpoint.get("training") or {}).get("statistics_images")
        images = f"{_plain(count)} images" if count else "an unknown number of images"
        yield (
            "- Bits are relative to the mean and deviation of the features, measured on"
            f" {images}. Pictures of another kind get other bits; do not compare across data."
        )
    height, width = description["input"]["shape"][-2:]
    yield f"- Pictures have {height} x {width} pixels (height x width); another size is an error."
    names = description["class_names"]
    known = f"{len(names)}, from {_code(names[0])} to {_code(names[-1])}" if names else "unknown"
    yield f"- Classes of the classifier: {known}. It knows no others, nor does the explainer."
    if {"pt2", "onnx"} & set(description["formats"]):
        yield "- The exported program takes no target class."
    controls = {c for row in run.get("scores") or [] for c in row["controls"]}
    if controls:
        yield (
            f"- Controls beside which it was judged: {', '.join(map(_code, sorted(controls)))}."
            " Where their score is as good, within the standard errors, that metric says nothing"
            " for the explainer."
        )
    else:
        yield (
            "- What a control scores is unknown: the training judged none. A score alone says"
            " little."
        )


def _licence(license: str | None) -> Iterator[str]:
    yield f"{_plain(license)}." if license else "Not stated."
    yield "The classifier's own licence holds for what was distilled from it."


def _score(value: list[float | None] | None) -> str:
    score, error = value or (None, None)
    if score is None:
        return "unknown"
    return f"{score:.4g} ± {'unknown' if error is None else f'{error:.2g}'}"


def _known(value: Any, why: str = "") -> str:
    return f"unknown{f' ({why})' if why else ''}" if value is None else _code(value)


def _plain(value: Any) -> str:
    """Text from outside in a line or a cell of its own, with no markup in it."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*[]<>|#!" else c for c in text)


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
