"""``view``: a local page on which a reader looks at maps and asks the classifier itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_iba.errors import InputError

if TYPE_CHECKING:
    from lit_iba.view import ExplorerSession

ARGUMENTS = [
    ("what", "+", "the folder of a benchmark; or photographs, with --classifier.model and .weights")
]
EXPLAINERS = ["per_sample_iba", "grad_cam", "saliency"]
PACKAGES = ("starlette", "uvicorn")


def view(
    what: list[str],
    explainer: str | list[str] | None = None,
    classifier: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    target: str | None = None,
    statistics_data: str | list[str] | None = None,
    statistics_images: int = 1000,
    statistics_folder: str | None = None,
    batch_size: int = 8,
    device: str = "auto",
    port: int | None = None,
) -> None:
    """A local page: maps side by side, and what the classifier sees as pixels are removed.

    Args:
        what: Folder of a benchmark with its gallery, or photographs, or names of examples such as
            chelsea.
        explainer: For photographs, names of explainers with commas between them; by default
            per_sample_iba, grad_cam and saliency.
        classifier: ``model`` and ``weights``; a run remembers its own, but not where its weights
            have gone.
        settings: For photographs, settings of the explainer, or of several under the name of each.
        target: For photographs, the class to explain, by index or name; by default the predicted
            one.
        statistics_data: Shards that feature statistics of Per-Sample IBA are estimated on; without
            them and where none are kept, each picture has its own.
        statistics_images: How many of their images.
        statistics_folder: Where statistics are kept; by default that of the run, or of ``explain``.
        batch_size: Photographs that are explained together.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        port: Of 127.0.0.1; by default a free one.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"view needs {' and '.join(missing)}, which are not installed; pip install"
            " 'lit_iba[view]'"
        )
    from lit_iba.checks import check_counts
    from lit_iba.cli.devices import device_named
    from lit_iba.cli.explain_photographs import stored_statistics
    from lit_iba.data.examples import EXAMPLES
    from lit_iba.view import ExplorerSession, serve

    check_counts(batch_size=batch_size, statistics_images=statistics_images)
    folder = Path(what[0])
    if len(what) == 1 and folder.is_dir():
        given = (explainer, settings, target)
        if any(given):
            raise InputError(
                "a run has its explainers, settings and targets already; leave out explainer,"
                " settings and target, or give photographs"
            )
        stored = stored_statistics(
            folder / "statistics", statistics_data, statistics_images, statistics_folder
        )
        session = ExplorerSession.of_run(folder, classifier, device_named(device), stored)
    else:
        if len(what) == 1 and not folder.exists() and what[0] not in EXAMPLES:
            raise InputError(
                f"{folder} is neither a run folder nor a photograph; check the path, or try one of"
                f" the examples ({', '.join(EXAMPLES)})"
            )
        stored = stored_statistics(
            Path("outputs/explain/statistics"),
            statistics_data,
            statistics_images,
            statistics_folder,
        )
        names = explainer.split(",") if isinstance(explainer, str) else list(explainer or [])
        session = _of_photographs(
            what, names or EXPLAINERS, classifier, settings, target, stored, batch_size, device
        )
    serve(session, port, _announce)
    print("stopped")


def _announce(address: str) -> None:
    print(f"open {address}\nCtrl-C ends it.", flush=True)


def _of_photographs(
    paths: list[str],
    names: list[str],
    classifier: Mapping[str, Any] | None,
    settings: dict[str, Any] | None,
    target: str | None,
    stored: Any,
    batch_size: int,
    device: str,
) -> ExplorerSession:
    import torch
    from rich.progress import Progress

    from lit_iba.cli.classifier import classifier_from
    from lit_iba.cli.explain import settings_of
    from lit_iba.cli.explain_photographs import OWN, PhotographRun, asked_of
    from lit_iba.cli.photographs import asked_target, distinct_stems, load_picture
    from lit_iba.view import ExplorerSession, LiveClassifier

    explainers = settings_of(names, dict(settings or {}))
    record = None if classifier is None else dict(classifier)
    network = classifier_from(record, next(iter(explainers.values())), device)
    files = [Path(path) for path in paths]
    pictures = torch.stack([load_picture(path, network) for path in files])
    wanted = None if target is None else asked_target(target, network)
    targets, probabilities = asked_of(network, pictures, wanted, batch_size)
    heatmaps, made, notices, own = {}, {}, [], False
    with Progress(transient=True) as bar:
        for name, given in explainers.items():
            run = PhotographRun(name, given, network, stored, bar)
            heatmaps[name] = run.heatmaps(pictures, targets, batch_size)
            made[name] = run.cls, run.settings
            notices += run.chosen_layer(several=len(explainers) > 1)
            own = own or run.own
    live = LiveClassifier(network, pictures, None, targets, stored)
    titles = [f"{live.described(i)} {float(p):.0%}" for i, p in enumerate(probabilities.tolist())]
    notices += [OWN] if own else []
    return ExplorerSession.of_photographs(
        live, distinct_stems(files), titles, heatmaps, made, notices
    )
