"""``uncertainty``: what a map's uncertainty says about its error; shards in, tables, plots and a page out."""

from __future__ import annotations

from typing import Any


def uncertainty(
    data: str | list[str],
    out: str,
    explainer: str = "varsal",
    settings: dict[str, Any] | None = None,
    classifier: dict[str, Any] | None = None,
    corruptions: list[str] | None = None,
    severities: list[int] = [1, 2, 3, 4, 5],  # noqa: B006 - never changed
    samples: int = 19,
    calibrated_severities: list[int] = [0],  # noqa: B006
    percentages: list[float] = [10, 20, 30, 40, 50, 60, 70, 80, 90],  # noqa: B006
    max_images: int | None = None,
    batch_size: int = 16,
    forward_batch_size: int = 32,
    gallery: int = 4,
    resamples: int = 1000,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """What a map's uncertainty says about its error, on clean and corrupted images; started again, it does only what is missing.

    Args:
        data: Shards: a folder with an index, tars or a pattern.
        out: Folder of the run.
        explainer: Name, or a class path, of an explainer with a posterior.
        settings: Settings of the explainer, such as ``checkpoint``.
        classifier: ``model`` and ``weights``; a checkpoint among the settings knows its own.
        corruptions: brightness, contrast, motion_blur, gaussian_blur, gaussian_noise, impulse_noise; by default all.
        severities: Of each corruption, from 1 to 5.
        samples: Maps sampled from the posterior for the calibration; 0 leaves it out.
        calibrated_severities: Where that is done; 0 stands for clean.
        percentages: Of the least salient pixels that are removed to judge a map.
        max_images: At most so many images.
        batch_size: Images that are explained together.
        forward_batch_size: Images a forward pass of the classifier.
        gallery: Images in figure 7.
        resamples: Of the bootstrap.
        seed: Of whatever is random.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.data import ShardIndex
    from lit_iba.varsal.corruptions import STRENGTHS
    from lit_iba.varsal.uncertainty_page import write_uncertainty
    from lit_iba.varsal.uncertainty_results import results_of, table_rows
    from lit_iba.varsal.uncertainty_run import UncertaintySettings, run_uncertainty

    chosen = UncertaintySettings(
        tuple(STRENGTHS if corruptions is None else corruptions), tuple(severities), samples, tuple(calibrated_severities),
        tuple(percentages), max_images, batch_size, forward_batch_size, gallery, resamples, seed,
    )  # fmt: skip
    found = classifier_from(classifier, settings, device)
    measured = run_uncertainty(found, explainer, dict(settings or {}), ShardIndex.load(data), out, chosen)
    for path in write_uncertainty(results_of(measured, chosen), table_rows(measured, chosen), measured.figure, out):
        print(f"wrote {path}")
