"""The explorer of photographs: files and a classifier in, a session of their maps out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from lit_iba.cli.classifier import classifier_from
from lit_iba.cli.explain import settings_of
from lit_iba.cli.explain_photographs import asked_of, photograph_runs
from lit_iba.cli.photographs import asked_target, distinct_stems, load_picture
from lit_iba.evaluation.surroundings import StoredStatistics
from lit_iba.view import ExplorerSession, LiveClassifier


def photograph_session(
    paths: list[str],
    names: list[str],
    classifier: dict[str, Any] | None,
    settings: dict[str, Any] | None,
    target: str | None,
    stored: StoredStatistics | None,
    batch_size: int,
    device: str,
) -> ExplorerSession:
    """Explain every photograph by every explainer; arguments are those of the command.

    Raises:
        InputError: A photograph is missing or damaged, or a name or setting is wrong.
    """
    explainers = settings_of(names, dict(settings or {}))
    network = classifier_from(classifier, next(iter(explainers.values())), device)
    files = [Path(path) for path in paths]
    pictures = torch.stack([load_picture(path, network) for path in files])
    wanted = None if target is None else asked_target(target, network)
    targets, probabilities = asked_of(network, pictures, wanted, batch_size)
    with Progress(transient=True) as bar:
        runs = photograph_runs(explainers, network, pictures, stored, bar)
        heatmaps = {run.name: run.heatmaps(targets, batch_size) for run in runs}
    made = {run.name: (run.cls, run.settings) for run in runs}
    notices = [note for run in runs for note in run.notes(several=len(runs) > 1)]
    live = LiveClassifier(network, pictures, None, targets, stored)
    titles = [f"{live.described(i)} {float(p):.0%}" for i, p in enumerate(probabilities.tolist())]
    return ExplorerSession.of_photographs(
        live, distinct_stems(files), titles, heatmaps, made, notices
    )
