"""Explaining single texts: texts in, coloured text in the terminal and files out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lit_iba.cli.devices import device_named
from lit_iba.errors import InputError, shown, unknown_name
from lit_iba.evaluation.entries import class_and_settings
from lit_iba.files import read_text, write_text
from lit_iba.text.benchmark import StoredWordStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.explainer import TokenHeatmap, build_text_explainer
from lit_iba.text.lstm_classifier import LSTMTextClassifier
from lit_iba.text.render import Highlight, facts, html_page, terminal_text
from lit_iba.text.reviews import read_reviews
from lit_iba.text.transformer import TransformerTextClassifier

TRANSFORMER_SETTINGS = ("model", "folder", "max_length", "class_names")


def text_classifier_from(
    checkpoint: str | None, device: str, classifier: dict[str, Any] | None = None
) -> TextClassifier:
    """The text classifier of a checkpoint, or of a folder of transformers.

    Args:
        checkpoint: Of an LSTM, as ``train.py fit`` writes it.
        device: As on the command line.
        classifier: ``model: transformers`` and ``folder``, and, if wanted, ``max_length`` and
            ``class_names``.

    Raises:
        InputError: Neither or both are given, or a setting is unknown or missing.
    """
    if (checkpoint is None) == (classifier is None):
        raise InputError(
            "name the text classifier: --checkpoint runs/imdb_lstm/checkpoints/best.ckpt, or"
            " --classifier.model transformers --classifier.folder FOLDER"
        )
    if classifier is None:
        return LSTMTextClassifier.from_checkpoint(str(checkpoint), device_named(device))
    settings = dict(classifier)
    model, folder = settings.pop("model", None), settings.pop("folder", None)
    if model != "transformers" or not isinstance(folder, str):
        raise InputError(
            f"the classifier of texts is {classifier}; give model: transformers, and a folder with"
            " config.json, model.safetensors and tokenizer.json"
        )
    for name in settings:
        if name not in TRANSFORMER_SETTINGS:
            raise unknown_name("setting of the classifier", name, TRANSFORMER_SETTINGS)
    return TransformerTextClassifier.from_folder(folder, device_named(device), **settings)


def gather_texts(
    text: list[str] | None, text_file: str | None, classes: int = 2
) -> list[tuple[str, str]]:
    """Names and texts: those given, then those of a file, a text a line or a ``.jsonl`` of reviews
    with labels of so many classes.

    Raises:
        InputError: There are none, or the file does not exist.
    """
    found = [(f"text {i}", one) for i, one in enumerate(text or [], start=1)]
    if text_file is not None:
        path = Path(text_file)
        if not path.is_file():
            raise InputError(
                f"text file {path} does not exist; give a file with a text a line, or a .jsonl file"
            )
        if path.suffix == ".jsonl":
            found += [(review.key, review.text) for review in read_reviews(path, classes)]
        else:
            lines = enumerate(read_text(path, "text file").split("\n"), start=1)
            found += [
                (shown(f"{path.name}:{number}"), line.removesuffix("\r"))
                for number, line in lines
                if line.strip()
            ]
    if not found:
        raise InputError(
            "there are no texts to explain; give some as text, or a text_file that is not empty"
        )
    return found


def explain_texts(
    texts: list[tuple[str, str]],
    explainer_name: str,
    classifier: TextClassifier,
    settings: dict[str, Any],
    target: str | None,
    out: str,
    statistics: StoredWordStatistics,
    batch_size: int,
    highlight: Highlight = "shares",
) -> None:
    """Write ``texts.<explainer>.html`` and ``.json``, and print the texts in colour.

    Raises:
        InputError: A text has no words, or a name or setting is wrong; nothing is written then.
    """
    wanted = None if target is None else class_number(target, classifier)
    for name, text in texts:
        try:
            classifier.words([text])
        except InputError as error:
            raise InputError(f"{name}: it {str(error).removeprefix('text 1 ')}") from error
    kind, rest = class_and_settings("explainer", explainer_name, settings)
    explainer = build_text_explainer(kind, classifier, rest, statistics)
    heatmaps: list[TokenHeatmap] = []
    for start in range(0, len(texts), batch_size):
        heatmaps += explainer.attribute(
            [text for _, text in texts[start : start + batch_size]], wanted
        )
    console = Console()
    for (name, _), heatmap in zip(texts, heatmaps, strict=True):
        console.print(Text(f"{name}  {facts(heatmap, classifier.class_names)}", style="bold"))
        console.print(terminal_text(heatmap, highlight))
    stem = Path(out) / f"texts.{explainer_name.rpartition('.')[2]}"
    named = [(name, [heatmap]) for (name, _), heatmap in zip(texts, heatmaps, strict=True)]
    page = html_page(named, classifier.class_names, highlight)
    write_text(stem.with_name(f"{stem.name}.html"), page)
    content = [
        {
            "name": name,
            "explainer": heatmap.method,
            "target": classifier.class_names[heatmap.target],
            "probability": heatmap.probability,
            "unit": heatmap.unit,
            "total": heatmap.total,
            "tokens": heatmap.tokens,
            "values": heatmap.values.tolist(),
            "known": heatmap.known,
            **_of_pieces(heatmap),
        }
        for (name, _), heatmap in zip(texts, heatmaps, strict=True)
    ]
    write_text(
        stem.with_name(f"{stem.name}.json"),
        json.dumps(content, ensure_ascii=False, indent=1) + "\n",
    )
    print(f"wrote {shown(str(stem))}.html and .json")


def _of_pieces(heatmap: TokenHeatmap) -> dict[str, Any]:
    """Where the words stand in the text, and what their pieces and the special tokens are worth."""
    if heatmap.read is None or heatmap.read.spans is None:
        return {}
    pieces, values, word_of = zip(*heatmap.pieces, strict=True)
    return {
        "text": heatmap.read.text,
        "spans": heatmap.read.spans,
        "cut_pieces": heatmap.read.cut,
        "pieces": pieces,
        "piece_values": values,
        "piece_words": word_of,
    }


def class_number(target: str, classifier: TextClassifier) -> int:
    """A class by number or name.

    Raises:
        InputError: There is none such.
    """
    if target in classifier.class_names:
        return classifier.class_names.index(target)
    if target.isdecimal() and int(target) < classifier.num_classes:
        return int(target)
    raise unknown_name("class of the classifier", target, classifier.class_names)
