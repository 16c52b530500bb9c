"""``uncertainty``: what a map's uncertainty says about its error; shards in, tables, plots and a
page out.
"""

from __future__ import annotations

from typing import Any

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of("lit_iba.varsal.uncertainty_run.UncertaintySettings")
def uncertainty(
    data: str | list[str],
    out: str,
    explainer: str = "varsal",
    settings: dict[str, Any] | None = None,
    classifier: dict[str, Any] | None = None,
    corruptions: list[str] | None = None,
    device: str = "auto",
    **measuring: Any,
) -> None:
    """What a map's uncertainty says about its error, on clean and corrupted images; started again,
    it does only what is missing.

    Args:
        data: Shards: a folder with an index, tars or a pattern.
        out: Folder of the run.
        explainer: Name, or a class path, of an explainer with a posterior.
        settings: Settings of the explainer, such as ``checkpoint``.
        classifier: ``model`` and ``weights``; a checkpoint among the settings knows its own.
        corruptions: brightness, contrast, motion_blur, gaussian_blur, gaussian_noise,
            impulse_noise; by default all.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.data import ShardIndex
    from lit_iba.varsal.uncertainty_page import write_uncertainty
    from lit_iba.varsal.uncertainty_results import results_of, table_rows
    from lit_iba.varsal.uncertainty_run import UncertaintySettings, run_uncertainty

    measuring |= {} if corruptions is None else {"corruptions": corruptions}
    lists: dict[str, Any] = {
        name: tuple(value) for name, value in measuring.items() if isinstance(value, list)
    }
    chosen = UncertaintySettings(**(measuring | lists))
    found = classifier_from(classifier, settings, device)
    measured = run_uncertainty(
        found, explainer, dict(settings or {}), ShardIndex.load(data), out, chosen
    )
    for path in write_uncertainty(
        results_of(measured, chosen), table_rows(measured, chosen), measured.figure, out
    ):
        print(f"wrote {path}")
