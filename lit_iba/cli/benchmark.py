"""``benchmark``: explain a data set and judge the heatmaps."""

from __future__ import annotations

from typing import Any, Literal


def benchmark(
    data: str | list[str],
    explainers: dict[str, dict[str, Any]],
    metrics: dict[str, dict[str, Any]],
    out: str,
    classifier: dict[str, Any] | None = None,
    batch_size: int = 16,
    max_images: int | None = None,
    max_box_fraction: float | None = None,
    target: Literal["label", "predicted"] = "label",
    gallery: int = 12,
    panels: int = 0,
    statistics_data: str | list[str] | None = None,
    statistics_images: int = 1000,
    statistics_folder: str | None = None,
    seed: int = 0,
    fresh: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    report: bool = True,
) -> None:
    """Explain a data set and judge the heatmaps; started again, it does only what is missing.

    Args:
        data: Shards to evaluate: a folder with an index, tars or a pattern.
        explainers: Settings by name; another name with ``explainer: NAME`` among the settings is an alias.
        metrics: Settings by name; likewise with ``metric: NAME``.
        out: Folder of the run.
        classifier: ``model`` and ``weights``.
        batch_size: Images that are explained together.
        max_images: At most so many images.
        max_box_fraction: Only images whose boxes cover less than this share of the picture.
        target: ``"label"`` or ``"predicted"``.
        gallery: Pictures kept for the report.
        panels: Of so many of them, the class score's decomposition by layers is drawn (Grabska-Barwinska, figures 2 and 4).
        statistics_data: Shards that feature statistics are estimated on.
        statistics_images: How many of their images.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``.
        seed: Of the draw of images where ``max_images`` leaves a choice.
        fresh: Whether to delete what an earlier run left in ``out``.
        accelerator: As in ``lightning.Trainer``.
        devices: Processes a machine.
        num_nodes: Machines.
        report: Whether to write the report at the end.
    """
    from lightning import Fabric

    from lit_iba.cli.classifier import classifier_from
    from lit_iba.evaluation import Benchmark
    from lit_iba.report import write_report

    strategy = "ddp" if devices * num_nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
    fabric.launch()
    run = Benchmark(
        classifier_from(classifier, None, "cpu"), data, explainers, metrics, out, batch_size=batch_size,
        max_images=max_images, max_box_fraction=max_box_fraction, target=target, gallery=gallery,
        panels=panels,
        statistics_data=statistics_data, statistics_images=statistics_images, statistics_folder=statistics_folder,
        seed=seed, fresh=fresh,
    )  # fmt: skip
    run.run(fabric)
    if report and fabric.is_global_zero:
        for path in write_report(run.out):
            print(f"wrote {path}")
