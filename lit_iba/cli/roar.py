"""``roar``: remove the pixels that methods find relevant, and retrain."""

from __future__ import annotations

from typing import Any

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of("lit_iba.evaluation.roar.Roar")
def roar(
    classifier: dict[str, Any] | None = None,
    accelerator: str = "auto",
    report: bool = True,
    **settings: Any,
) -> None:
    """Remove the pixels that methods find relevant and retrain; started again, it does only what is
    missing.

    Args:
        classifier: ``model`` and ``weights`` of the network that is explained; without it, one is
            trained by the recipe.
        accelerator: As in ``lightning.Trainer``; one device.
        report: Whether to write the report at the end.
    """
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.cli.devices import fabric_on
    from lit_iba.evaluation.roar import Roar
    from lit_iba.report import write_report

    fabric = fabric_on(accelerator)
    explained = None if classifier is None else classifier_from(classifier, None, "cpu")
    run = Roar(classifier=explained, **settings)
    run.run(fabric)
    if report:
        for path in write_report(run.out):
            print(f"wrote {path}")
