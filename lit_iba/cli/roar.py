"""``roar``: remove the pixels that methods find relevant, and retrain."""

from __future__ import annotations

from typing import Any, Literal


def roar(
    train: str | list[str],
    test: str | list[str],
    explainers: dict[str, dict[str, Any]],
    out: str,
    classifier: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    percents: list[float] = [10, 30, 50, 70, 90],  # noqa: B006 - never changed
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    size: int = 32,
    batch_size: int = 64,
    max_train: int | None = None,
    max_test: int | None = None,
    target: Literal["label", "predicted"] = "predicted",
    statistics_images: int = 1000,
    gallery: int = 12,
    fresh: bool = False,
    accelerator: str = "auto",
    report: bool = True,
) -> None:
    """Remove the pixels that methods find relevant and retrain; started again, it does only what is missing.

    Args:
        train: Shards of training pictures.
        test: Shards of test pictures.
        explainers: Settings by name; another name with ``explainer: NAME`` among the settings is an alias.
        out: Folder of the run.
        classifier: ``model`` and ``weights`` of the network that is explained; without it, one is trained by the recipe.
        recipe: ``network``, ``epochs``, ``batch_size``, ``learning_rate``, ``weight_decay``, ``decay_every``, ``decay``,
            ``validation_fraction``, ``augment``.
        percents: How much is removed, in percent of the pixels.
        seeds: A network is trained for each.
        size: Side of the pictures, where no classifier says it.
        batch_size: Pictures explained together.
        max_train: At most so many training pictures.
        max_test: At most so many test pictures.
        target: ``"predicted"`` or ``"label"``, whose shape in test pictures the retrained network can read.
        statistics_images: How many training pictures feature statistics are estimated from.
        gallery: Test pictures kept for the report.
        fresh: Whether to delete what an earlier run left in ``out``.
        accelerator: As in ``lightning.Trainer``; one device.
        report: Whether to write the report at the end.
    """
    from lightning import Fabric

    from lit_iba.cli.classifier import classifier_from
    from lit_iba.evaluation.roar import Roar
    from lit_iba.report import write_report

    run = Roar(
        train, test, explainers, out, classifier=None if classifier is None else classifier_from(classifier, None, "cpu"),
        recipe=recipe, percents=percents, seeds=seeds, size=size, batch_size=batch_size, max_train=max_train,
        max_test=max_test, target=target, statistics_images=statistics_images, gallery=gallery, fresh=fresh,
    )  # fmt: skip
    run.run(Fabric(accelerator=accelerator, devices=1))
    if report:
        for path in write_report(run.out):
            print(f"wrote {path}")
