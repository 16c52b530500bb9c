"""``sweep``: one explainer with many settings, judged and drawn side by side."""

from __future__ import annotations

from typing import Any, Literal

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of("lit_iba.evaluation.benchmark.Benchmark", leave=("explainers",))
def sweep(
    explainer: str,
    vary: dict[str, Any],
    settings: dict[str, Any] | None = None,
    combine: Literal["each", "all"] = "each",
    train: list[str] | None = None,
    classifier: dict[str, Any] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    report: bool = True,
    **benchmark: Any,
) -> None:
    """Judge one explainer with many settings, and draw what they do; started again, it does only
    what is missing.

    Args:
        explainer: Name of an explainer, or a class path.
        vary: A list of values by setting; one such as model.init_args.beta is an argument of the
            training.
        settings: What the settings are in all combinations, or while another one is varied.
        combine: each varies one setting at a time, all takes every combination.
        train: Configs of a training, which is run for each combination before it is judged.
        classifier: ``model`` and ``weights``.
        accelerator: As in ``lightning.Trainer``.
        devices: Processes that judge; a training has its own setting.
        report: Whether to write the report at the end.
    """
    from lit_iba.cli.apart import fit_apart
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.cli.devices import fabric_on
    from lit_iba.cli.recipes import PREFIX, recipe_path
    from lit_iba.errors import InputError
    from lit_iba.evaluation.sweep import Sweep
    from lit_iba.report import write_report
    from lit_iba.report.sweep import write_sweep

    if not benchmark["metrics"]:
        raise InputError("no metrics are given; name at least one, such as {degradation: {}}")
    configs = [
        str(recipe_path(config.removeprefix(PREFIX))) if config.startswith(PREFIX) else config
        for config in train or []
    ]
    run = Sweep(
        classifier_from(classifier, None, "cpu"),
        explainer,
        vary,
        settings=settings,
        combine=combine,
        train=configs,
        fit=fit_apart,
        **benchmark,
    )
    fabric = fabric_on(accelerator, devices)
    run.train_all()
    fabric.launch()
    run.run(fabric)
    if report and fabric.is_global_zero:
        for path in [*write_report(run.out), *write_sweep(run.out)]:
            print(f"wrote {path}")
