"""``survey``: what biases do for classifiers; shards in, tables and plots out."""

from __future__ import annotations

from typing import Any

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of("lit_iba.activity.survey.SurveySettings")
def survey(
    data: str | list[str],
    classifiers: dict[str, dict[str, Any]],
    out: str,
    device: str = "auto",
    **settings: Any,
) -> None:
    """What biases do for classifiers: accuracy without them, and robustness; started again, it does
    only what is missing.

    Args:
        data: Labelled shards: a folder with an index, tars or a pattern.
        classifiers: ``weights`` and, where it is not the name, ``model``, by name.
        out: Folder of the survey.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """
    from lit_iba.activity.survey import SurveySettings, run_survey
    from lit_iba.activity.survey_report import write_survey
    from lit_iba.cli.devices import device_named
    from lit_iba.data import ShardIndex

    lists: dict[str, Any] = {
        name: tuple(value) for name, value in settings.items() if isinstance(value, list)
    }
    chosen = SurveySettings(**(settings | lists))
    results = run_survey(classifiers, ShardIndex.load(data), out, chosen, device_named(device))
    for path in write_survey(results, out):
        print(f"wrote {path}")
