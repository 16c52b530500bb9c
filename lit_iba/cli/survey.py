"""``survey``: what biases do for classifiers; shards in, tables and plots out."""

from __future__ import annotations

from typing import Any


def survey(
    data: str | list[str],
    classifiers: dict[str, dict[str, Any]],
    out: str,
    batch_size: int = 64,
    max_images: int | None = None,
    scales: list[float] | None = None,
    shifts: list[float] | None = None,
    reestimate_images: int = 1000,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """What biases do for classifiers: accuracy without them, and robustness; started again, it does only what is missing.

    Args:
        data: Labelled shards: a folder with an index, tars or a pattern.
        classifiers: ``weights`` and, where it is not the name, ``model``, by name.
        out: Folder of the survey.
        batch_size: Images a forward pass.
        max_images: At most so many images.
        scales: Factors of the normalised input; by default 0.001 to 1000.
        shifts: What is added to the pictures, in units of their range; by default -1 to 1.
        reestimate_images: Over how many images batch norms are measured again for each scale and shift; 0 leaves that out.
        seed: Of the draw of images where ``max_images`` leaves a choice.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """
    from lit_iba.activity.survey import SurveySettings, run_survey
    from lit_iba.activity.survey_report import write_survey
    from lit_iba.cli.classifier import device_named
    from lit_iba.data import ShardIndex

    given = {"scales": scales, "shifts": shifts}
    chosen: dict[str, Any] = {name: tuple(values) for name, values in given.items() if values is not None}
    settings = SurveySettings(batch_size, max_images, reestimate_images=reestimate_images, seed=seed, **chosen)
    results = run_survey(classifiers, ShardIndex.load(data), out, settings, device_named(device))
    for path in write_survey(results, out):
        print(f"wrote {path}")
