"""``explain``: heatmaps of single photographs, or of texts."""

from __future__ import annotations

from typing import Any, Literal

from lit_iba.errors import InputError, unknown_name

ARGUMENTS: list[tuple[str, str | None, str]] = [
    ("images", "*", "photographs to explain, unless texts are given"),
    (
        "--text",
        "+",
        "texts to explain, each in quotes (needs --checkpoint, or --classifier.model transformers"
        " and --classifier.folder)",
    ),
]


def explain(
    images: list[str],
    explainer: str | list[str] | None = None,
    classifier: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    target: str | None = None,
    out: str = "outputs/explain",
    statistics_data: str | list[str] | None = None,
    statistics_images: int = 1000,
    statistics_folder: str | None = None,
    batch_size: int = 8,
    device: str = "auto",
    text: list[str] | None = None,
    text_file: str | None = None,
    checkpoint: str | None = None,
    highlight: Literal["shares", "levels"] = "shares",
) -> None:
    """Heatmaps of single photographs (a page, PNG, overlays, npy, totals) or of texts (coloured
    words, HTML, JSON).

    Args:
        images: Photographs, or names of examples such as chelsea and coffee.
        explainer: Name of an explainer, or a class path; several with commas between them are
            shown beside each other. By default per_sample_iba, and input_iba for texts. Another
            name stands for the ``explainer`` among its settings.
        classifier: ``model`` and ``weights``; a readout's checkpoint knows its own. For texts,
            ``model: transformers`` and ``folder``, in place of ``checkpoint``.
        settings: Settings of the explainer, such as ``layer`` and ``beta``, or ``checkpoint``;
            of several explainers under the name of each.
        target: Class to explain, by name or index; by default the predicted one of each image or
            text.
        out: Folder for the results.
        statistics_data: Shards (for texts: reviews) that feature statistics are estimated on, for
            explainers that need them; without them and ``statistics_folder``, each photograph has
            its own.
        statistics_images: How many of their images or reviews.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``. Named without
            statistics_data, it holds those of an earlier command.
        batch_size: Images or texts that are explained together.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        text: Texts to explain.
        text_file: A file of texts: one a line, or ``.jsonl`` reviews.
        checkpoint: Of the text classifier, as ``train.py fit`` writes it.
        highlight: Ground of the words: ``"shares"``, the stronger the more they say, or
            ``"levels"``, orange from a third and red from two thirds of the largest value, as in
            InputIBA's table 1.
    """
    from lit_iba.checks import check_counts, check_literals

    check_literals(explain, locals())
    check_counts(batch_size=batch_size, statistics_images=statistics_images)
    names = explainer.split(",") if isinstance(explainer, str) else list(explainer or [])
    if text is not None or text_file is not None:
        if images or isinstance(statistics_data, list):
            raise InputError(
                "texts are explained by themselves: leave out photographs, and name one file or"
                " folder of reviews as statistics_data"
            )
        from lit_iba.cli.texts import explain_texts, gather_texts, text_classifier_from
        from lit_iba.text.benchmark import StoredWordStatistics

        network = text_classifier_from(checkpoint, device, classifier)
        texts = gather_texts(text, text_file, network.num_classes)
        statistics = StoredWordStatistics(
            statistics_folder or f"{out}/statistics", statistics_data, statistics_images
        )
        explain_texts(
            texts,
            _only(names) or "input_iba",
            network,
            dict(settings or {}),
            target,
            out,
            statistics,
            batch_size,
            highlight,
        )
        return
    if not images:
        raise InputError(
            "there is nothing to explain: give photographs, or texts as --text or --text_file"
        )
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.cli.explain_photographs import explain_photographs

    explainers = settings_of(names or ["per_sample_iba"], dict(settings or {}))
    explain_photographs(
        images,
        explainers,
        classifier_from(classifier, next(iter(explainers.values())), device),
        target,
        out,
        statistics_data,
        statistics_images,
        statistics_folder,
        batch_size,
    )


def _only(names: list[str]) -> str:
    if len(names) > 1:
        raise InputError(f"texts are explained by one explainer at a time, not by {len(names)}")
    return names[0] if names else ""


def settings_of(names: list[str], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each explainer by name."""
    names = [name.strip() for name in names]
    if len(set(names)) < len(names) or not all(names):
        raise InputError(f"explainers are {', '.join(names)}; name each once, with commas between")
    if len(names) == 1:
        return {names[0]: settings}
    for name, given in settings.items():
        if isinstance(given, dict) and name not in names:
            raise unknown_name("explainer among those that are asked for", name, names)
        if name not in names or not isinstance(given, dict):
            raise InputError(
                f"the setting {name} could be of any of {', '.join(names)}; "
                f"say of which, as in --settings.{names[0]}.{name}"
            )
    return {name: settings.get(name, {}) for name in names}
