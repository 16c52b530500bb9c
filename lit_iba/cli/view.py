"""``view``: a local page on which a reader looks at maps and asks the classifier itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_iba.errors import InputError

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
        target: For photographs, the class to explain, by name or index; by default the predicted
            one.
        statistics_data: Shards that feature statistics of Per-Sample IBA are estimated on; without
            them, a run has those that it keeps, and a photograph its own.
        statistics_images: How many of their images.
        statistics_folder: Where statistics are kept; by default that of the run, or of ``explain``.
            Named without statistics_data, it holds those of an earlier command.
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
    from lit_iba.cli.view_photographs import photograph_session
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
        session = photograph_session(
            what, names or EXPLAINERS, classifier, settings, target, stored, batch_size, device
        )
    serve(session, port, _announce)
    print("stopped")


def _announce(address: str) -> None:
    print(f"open {address}\nCtrl-C ends it.", flush=True)
