"""``benchmark``: explain a data set and judge the heatmaps."""

from __future__ import annotations

from typing import Any

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of("lit_iba.evaluation.benchmark.Benchmark")
def benchmark(
    classifier: dict[str, Any] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    report: bool = True,
    **settings: Any,
) -> None:
    """Explain a data set and judge the heatmaps; started again, it does only what is missing.

    Args:
        classifier: ``model`` and ``weights``.
        accelerator: As in ``lightning.Trainer``.
        devices: Processes a machine.
        num_nodes: Machines.
        report: Whether to write the report at the end.
    """
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.cli.devices import fabric_on
    from lit_iba.errors import InputError
    from lit_iba.evaluation import Benchmark
    from lit_iba.report import write_report

    if not settings["metrics"]:
        raise InputError("no metrics are given; name at least one, such as {degradation: {}}")
    fabric = fabric_on(accelerator, devices, num_nodes)
    fabric.launch()
    run = Benchmark(classifier_from(classifier, None, "cpu"), **settings)
    run.run(fabric)
    if report and fabric.is_global_zero:
        for path in write_report(run.out):
            print(f"wrote {path}")
