"""The command line's functions for texts; like ``lit_iba.commands``, it imports nothing heavy before it must."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_iba.errors import InputError

if TYPE_CHECKING:
    from lit_iba.text.benchmark import StoredWordStatistics
    from lit_iba.text.classifier import TextClassifier


def text_benchmark(
    data: str,
    checkpoint: str,
    explainers: dict[str, dict[str, Any]],
    metrics: dict[str, dict[str, Any]],
    out: str,
    max_texts: int | None = None,
    target: str = "label",
    batch_size: int = 8,
    statistics_data: str | None = None,
    statistics_texts: int = 1000,
    statistics_folder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    report: bool = True,
) -> None:
    """Explain reviews word by word and judge the values; started again, heatmaps that are there are not made again.

    Args:
        data: Reviews: a folder with pos/ and neg/, or a ``.jsonl`` file.
        checkpoint: Of the text classifier.
        explainers: Settings by name; another name with ``explainer: NAME`` among the settings is an alias.
        metrics: Settings by name; likewise with ``metric: NAME``.
        out: Folder of the run.
        max_texts: At most so many reviews.
        target: ``"label"`` or ``"predicted"``.
        batch_size: Texts that are explained together.
        statistics_data: Reviews that word statistics are estimated on, such as the training reviews.
        statistics_texts: How many of them.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``.
        seed: Of the draw of reviews and of the metrics' random sets.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        report: Whether to write the report at the end.
    """
    from lit_iba.report import write_report
    from lit_iba.text.benchmark import TextBenchmark, draw
    from lit_iba.text.reviews import read_reviews

    run = TextBenchmark(
        text_classifier_from(checkpoint, device), draw(read_reviews(data), max_texts, seed), explainers, metrics, out,
        word_statistics_of(statistics_data, statistics_texts, statistics_folder or f"{out}/statistics"), target=target,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    run.run()
    if report:
        for path in write_report(run.out, "Attribution methods on reviews"):
            print(f"wrote {path}")


def text_classifier_from(checkpoint: str | None, device: str) -> TextClassifier:
    """The text classifier of a checkpoint."""
    import torch

    from lit_iba.text.classifier import TextClassifier

    if checkpoint is None:
        raise InputError("name the text classifier: --checkpoint runs/imdb_lstm/checkpoints/best.ckpt")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return TextClassifier.from_checkpoint(checkpoint, device)


def word_statistics_of(data: str | None, texts: int, folder: str) -> StoredWordStatistics:
    """Where word statistics come from."""
    from lit_iba.text.benchmark import StoredWordStatistics

    return StoredWordStatistics(folder, data, texts)
