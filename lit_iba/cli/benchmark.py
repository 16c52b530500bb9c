"""``benchmark``: explain a data set and judge the heatmaps."""

from __future__ import annotations

from typing import Any

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of("lit_iba.evaluation.benchmark.Benchmark")
def benchmark(
    data: str | list[str] | dict[str, Any],
    classifier: dict[str, Any] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    report: bool = True,
    **settings: Any,
) -> None:
    """Explain a data set and judge the heatmaps; started again, it does only what is missing.

    Args:
        data: The shards: a folder, a pattern or a list of tars; or any other data set, or a
            ``PipelineDataModule`` with ``test``, by its class path (``{class_path: ..., init_args:
            {...}}``), which is kept as shards in ``out/data`` once.
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
    if isinstance(data, dict):
        from lit_iba.data import PipelineDataModule

        kept = f"{settings['out']}/data"
        if fabric.is_global_zero:
            PipelineDataModule.of(data, "test").write_shards("test", kept)
        fabric.barrier()
        data = kept
    run = Benchmark(classifier_from(classifier, None, "cpu"), data, **settings)
    run.run(fabric)
    if report and fabric.is_global_zero:
        for path in write_report(run.out):
            print(f"wrote {path}")
