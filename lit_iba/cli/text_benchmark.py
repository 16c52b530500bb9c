"""``text-benchmark``: explain reviews word by word and judge the values."""

from __future__ import annotations

from typing import Any

from lit_iba.cli.declared import with_arguments_of


@with_arguments_of(
    "lit_iba.text.benchmark.TextBenchmark", leave=("reviews", "source", "classifier")
)
def text_benchmark(
    data: str,
    out: str,
    checkpoint: str | None = None,
    classifier: dict[str, Any] | None = None,
    max_texts: int | None = None,
    statistics_data: str | None = None,
    statistics_texts: int = 1000,
    statistics_folder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    report: bool = True,
    **settings: Any,
) -> None:
    """Explain reviews word by word and judge the values; started again, heatmaps that are there are
    not made again.

    Args:
        data: Reviews: a folder with pos/ and neg/, or a ``.jsonl`` file.
        out: Folder of the run.
        checkpoint: Of an LSTM, as ``train.py fit`` writes it.
        classifier: In its place ``model: transformers`` and ``folder``, which holds config.json,
            model.safetensors and tokenizer.json; and, if wanted, ``max_length`` and
            ``class_names``.
        max_texts: At most so many reviews.
        statistics_data: Reviews that word statistics are estimated on, such as the training
            reviews.
        statistics_texts: How many of them.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``.
        seed: Of the draw of reviews and of the metrics' random sets.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        report: Whether to write the report at the end.
    """
    from lit_iba.cli.texts import text_classifier_from
    from lit_iba.report import write_report
    from lit_iba.text.benchmark import StoredWordStatistics, TextBenchmark, draw
    from lit_iba.text.reviews import read_reviews

    network = text_classifier_from(checkpoint, device, classifier)
    run = TextBenchmark(
        network,
        draw(read_reviews(data, network.num_classes), max_texts, seed),
        out=out,
        source=StoredWordStatistics(
            statistics_folder or f"{out}/statistics", statistics_data, statistics_texts
        ),
        seed=seed,
        **settings,
    )
    run.run()
    if report:
        for path in write_report(run.out, "Attribution methods on reviews"):
            print(f"wrote {path}")
