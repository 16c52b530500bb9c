"""Explains reviews by several methods and judges the values of their words: heatmaps and results in
a folder.

The folder is one that ``lit_iba.report`` reads. Started again, the heatmaps that are there already,
by the same settings, are not made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track

from lit_iba import __version__
from lit_iba.checks import check_counts, check_literals
from lit_iba.errors import InputError
from lit_iba.evaluation.entries import class_and_settings
from lit_iba.evaluation.results import summary_table
from lit_iba.files import FolderLock, read_text, sha256_of_content, write_text
from lit_iba.randomness import generator_for, sample_generators
from lit_iba.report.run_folder import RunFolder
from lit_iba.resumable.identity import Recorded, hashes_of_files, source_of
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.explainer import TextExplainer, build_text_explainer, printed_name
from lit_iba.text.iba import word_statistics
from lit_iba.text.metrics import TextMetric, build_text_metric
from lit_iba.text.reviews import Review, read_reviews


class StoredWordStatistics(Recorded):
    """Word statistics that are estimated on reviews once, and kept in a folder; of other reviews
    under the same path they are estimated anew.

    Args:
        folder: Where they are kept.
        data: Reviews to estimate on (see :func:`read_reviews`); None where only what is kept can be
            used.
        texts: How many of them, drawn once and for all.

    Example:
        >>> from lit_iba.text import StoredWordStatistics
        >>> stored = StoredWordStatistics("statistics", "reviews.jsonl")
        >>> stored.statistics(text_classifier, 0).mean.shape  # of the embeddings
        torch.Size([8])
    """

    def __init__(self, folder: str | Path, data: str | None, texts: int = 1000) -> None:
        check_counts(statistics_texts=texts)
        self.folder, self.data, self.texts = Path(folder), data, texts
        self._reviews: list[str] | None = None
        self._used = {}

    def statistics(self, classifier: TextClassifier, layer: int) -> FeatureStatistics:
        """Of one layer.

        Raises:
            InputError: They are not kept, and no reviews are given.
        """
        of = f"layer{layer}_{_hash(classifier.identity)}"
        if self.data is None:
            path = self._only(sorted(self.folder.glob(f"{of}_*.safetensors")))
        else:
            texts = self._texts(classifier.num_classes)
            path = self.folder / f"{of}_{_hash(texts)}.safetensors"
            if not path.is_file():
                word_statistics(classifier, texts, [layer], data=str(self.data))[layer].save(path)
        self._used[path.name] = sha256_of_content(path)
        return FeatureStatistics.load(path)

    def _texts(self, classes: int) -> list[str]:
        """Those to estimate on, as the file holds them now."""
        if self._reviews is None:
            assert self.data is not None
            self._reviews = [r.text for r in draw(read_reviews(self.data, classes), self.texts, 0)]
        return self._reviews

    def _only(self, kept: Sequence[Path]) -> Path:
        if len(kept) != 1:
            there = f"{self.folder} holds those of {len(kept)} sets of reviews" if kept else ""
            raise InputError(
                f"this explainer needs statistics of words{there and f', and {there}'}; give"
                " training reviews as statistics_data"
            )
        return kept[0]


def _kept(path: Path) -> dict[str, Any] | None:
    """The heatmaps that a file holds; None where there is none."""
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(read_text(path, "heatmaps"))
        return {name: found[name] for name in ("fingerprint", "values", "seconds")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it, and its heatmaps are made again"
        ) from error


def _hash(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:12]


def draw(reviews: Sequence[Review], count: int | None, seed: int) -> list[Review]:
    """So many reviews, drawn by the seed, in their own order; all where None."""
    if count is not None:
        check_counts(max_texts=count)
    if count is None or count >= len(reviews):
        return list(reviews)
    chosen = torch.randperm(len(reviews), generator=generator_for(seed, "draw"))[:count]
    return [reviews[i] for i in chosen.sort().values.tolist()]


class TextBenchmark:
    """One run.

    Args:
        classifier: The network to explain.
        reviews: What is explained.
        explainers: Settings by name; another name with ``explainer: NAME`` among the settings is an
            alias.
        metrics: Settings by name; likewise with ``metric: NAME``.
        out: Folder of the run.
        source: Where word statistics come from.
        target: ``"label"`` or ``"predicted"``.
        batch_size: Texts that are explained together.
        seed: Of the random sets of the metrics.

    Raises:
        InputError: A name or setting is wrong.

    Example:
        >>> from lit_iba.text import StoredWordStatistics, TextBenchmark, read_reviews
        >>> source = StoredWordStatistics("statistics", "reviews.jsonl")
        >>> reviews = read_reviews("reviews.jsonl")
        >>> benchmark = TextBenchmark(
        ...     text_classifier, reviews, {"random": {}}, {"deletion": {}}, "run", source
        ... )
        >>> results = benchmark.run()
        lstm, 4 reviews, mean ± standard...
        >>> list(results["results"]["deletion"])
        ['random']
    """

    def __init__(
        self,
        classifier: TextClassifier,
        reviews: Sequence[Review],
        explainers: Mapping[str, dict[str, Any] | None],
        metrics: Mapping[str, dict[str, Any] | None],
        out: str | Path,
        source: StoredWordStatistics,
        *,
        target: Literal["label", "predicted"] = "label",
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        check_literals(TextBenchmark.__init__, locals())
        check_counts(batch_size=batch_size)
        check_counts(0, seed=seed)
        if not reviews or not explainers or not metrics:
            raise InputError(
                "there are no reviews, no explainers or no metrics; name at least one of each"
            )
        self.classifier, self.out, self.batch_size, self.seed = (
            classifier,
            Path(out),
            batch_size,
            seed,
        )
        # Texts of like length together: the shorter ones are padded less.
        self.reviews = sorted(
            reviews, key=lambda review: (int(classifier.words([review.text]).lengths), review.key)
        )
        self.target = target
        self.metrics: dict[str, TextMetric] = {}
        for name, given in metrics.items():
            self.metrics[name] = build_text_metric(*class_and_settings("metric", name, given))
        self.settings = {name: dict(given or {}) for name, given in explainers.items()}
        self.explainers: dict[str, TextExplainer] = {}
        self.files: dict[str, dict[str, str]] = {}  # that each explainer was given, by their hashes
        for name, settings in self.settings.items():
            kind, rest = class_and_settings("explainer", name, settings)
            with source.recorded() as used:
                self.explainers[name] = build_text_explainer(kind, classifier, rest, source)
            self.files[name] = used | hashes_of_files(rest)
        self.source = source

    def run(self) -> dict[str, Any]:
        """Do what is missing, and write the results.

        Returns:
            The content of ``results.json``.
        """
        lock = FolderLock(self.out)
        try:
            heatmaps, seconds = {}, {}
            for name in self.explainers:
                heatmaps[name], seconds[name] = self._heatmaps(name)
            rows = {name: self._rows(metric, heatmaps) for name, metric in self.metrics.items()}
            return self._write(rows, seconds)
        finally:
            lock.release()

    def _said(self) -> list[list[Any]]:
        """What the reviews are."""
        return [[review.key, review.label, review.text] for review in self.reviews]

    def _batches(self) -> list[list[Review]]:
        return [
            self.reviews[i : i + self.batch_size]
            for i in range(0, len(self.reviews), self.batch_size)
        ]

    def _targets(self, batch: Sequence[Review]) -> torch.Tensor:
        if self.target == "label":
            return torch.tensor([review.label for review in batch], device=self.classifier.device)
        words = self.classifier.words([review.text for review in batch])
        with torch.no_grad():
            return self.classifier.logits(self.classifier.embeddings(words), words).argmax(dim=1)

    def _heatmaps(self, name: str) -> tuple[list[torch.Tensor], float]:
        """Values of each review's words by one explainer, and seconds a review; from the folder
        where they are there.
        """
        path = self.out / "heatmaps" / f"{name}.json"
        made_of = json.dumps(
            [
                __version__,
                self.classifier.identity,
                type(self.explainers[name]).__qualname__,
                source_of(type(self.explainers[name])),
                self.settings[name],
                self.target,
                self.files[name],
                self._said(),
            ],
            default=str,
        )
        fingerprint = hashlib.sha256(made_of.encode()).hexdigest()
        if (kept := _kept(path)) and kept["fingerprint"] == fingerprint:
            values = [torch.tensor(row, dtype=torch.float32) for row in kept["values"]]
            return values, kept["seconds"]
        began, found, tokens = time.perf_counter(), [], []
        for batch in track(self._batches(), description=name, transient=True):
            keys = [review.key for review in batch]
            explained = self.explainers[name].attribute(
                [r.text for r in batch], self._targets(batch), keys=keys
            )
            found += [heatmap.values for heatmap in explained]
            tokens += [heatmap.tokens for heatmap in explained]
        seconds = (time.perf_counter() - began) / len(self.reviews)
        content = {
            "fingerprint": fingerprint,
            "seconds": seconds,
            "keys": [review.key for review in self.reviews],
            "tokens": tokens,
            "values": [values.tolist() for values in found],
        }
        write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
        return found, seconds

    def _rows(
        self, metric: TextMetric, heatmaps: dict[str, list[torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in heatmaps}
        start = 0
        for batch in track(self._batches(), description=metric.name, transient=True):
            here = {name: values[start : start + len(batch)] for name, values in heatmaps.items()}
            generators = sample_generators(
                self.seed, [review.key for review in batch], self.classifier.device
            )
            words = self.classifier.words([review.text for review in batch])
            for name, rows in metric.rows(
                self.classifier, words, self._targets(batch), here, generators
            ).items():
                parts[name].append(rows)
            start += len(batch)
        return {name: torch.cat(rows) for name, rows in parts.items()}

    def _write(
        self, rows: dict[str, dict[str, torch.Tensor]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        config = {
            "explainers": self.settings,
            "metrics": {n: m.settings for n, m in self.metrics.items()},
        }
        content = RunFolder.heading() | {
            "classifier": self.classifier.identity,
            "data": {
                "images": len(self.reviews),
                "used": len(self.reviews),
                "kind": "reviews",
                "target": self.target,
                "statistics": str(self.source.data),
                "statistics_texts": self.source.texts,
                "statistics_files": {name: files for name, files in self.files.items() if files},
                "identity": hashlib.sha256(json.dumps(self._said()).encode()).hexdigest(),
            },
            "explainers": {
                name: {
                    "class": f"{type(e).__module__}.{type(e).__qualname__}",
                    "label": printed_name(name, type(e)),
                    "control": type(e).control,
                    "settings": self.settings[name],
                    "unit": e.unit,
                    "signed": e.signed,
                    "seconds_per_image": seconds[name],
                }
                for name, e in self.explainers.items()
            },
            "metrics": {
                name: {
                    "class": type(metric).__qualname__,
                    "settings": metric.settings,
                    "definition": metric.definition,
                    "better": metric.better,
                }
                for name, metric in self.metrics.items()
            },
            "results": {
                name: {
                    method: self.metrics[name].summarize(found).to_dict()
                    for method, found in by_method.items()
                }
                for name, by_method in rows.items()
            },
        }
        scores = (
            (review.key, method, name, "score", score)
            for name, by_method in rows.items()
            for method, found in by_method.items()
            for review, score in zip(
                self.reviews, self.metrics[name].scores(found).tolist(), strict=True
            )
        )
        RunFolder.write_rows(self.out, scores)
        RunFolder.write_config(self.out, config)
        written = RunFolder.write(self.out, content)
        Console().print(summary_table(written))
        return written
