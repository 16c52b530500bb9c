"""The benchmark of texts uses again what was made of the same reviews and files, no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_iba import InputError
from lit_iba.report import build_tables, read_run
from lit_iba.report.answer import cautions, is_control
from lit_iba.report.naming import method_labels
from lit_iba.report.runs import compare_runs
from lit_iba.text import StoredWordStatistics, TextBenchmark, read_reviews
from lit_iba.text.iba import word_statistics
from lit_iba.text.lstm_classifier import LSTMClassifier, LSTMTextClassifier
from lit_iba.text.vocabulary import Vocabulary

REVIEWS = ["A great film.", "A boring film.", "The film was great fun.", "The end was awful."]
OTHERS = ["awful awful awful awful", "the the the end"] * 3


def write(path: Path, texts: list[str], flip: int = 0) -> Path:
    lines = [
        json.dumps({"text": text, "label": (i + flip) % 2, "id": f"r{i}"})
        for i, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def classifier() -> LSTMTextClassifier:
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(REVIEWS)
    network = LSTMClassifier(len(vocabulary), embedding_size=8, hidden_size=8, depth=2)
    return LSTMTextClassifier(network, vocabulary, max_length=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", REVIEWS)
    write(tmp_path / "test.jsonl", REVIEWS)
    return tmp_path


def run(classifier: Any, folder: Path, out: str, explainers: Any = None, **given: Any) -> Any:
    source = StoredWordStatistics(folder / "statistics", str(folder / "train.jsonl"))
    TextBenchmark(
        classifier,
        read_reviews(folder / "test.jsonl"),
        explainers or {"iba": {"steps": 2, "copies": 2}, "random": {}},
        {"deletion": {"points": 3}},
        folder / out,
        source,
        **given,
    ).run()
    return {
        name: json.loads((folder / out / "heatmaps" / f"{name}.json").read_text())
        for name in explainers or ("iba", "random")
    }


def test_changed_training_reviews_under_the_same_path_are_noticed(
    classifier: LSTMTextClassifier, folder: Path
) -> None:
    before = run(classifier, folder, "run")
    assert run(classifier, folder, "run") == before  # also the seconds: nothing was made again
    write(folder / "train.jsonl", OTHERS)
    after = run(classifier, folder, "run")
    assert after["iba"]["values"] != before["iba"]["values"]
    assert after["iba"]["values"] == run(classifier, folder, "fresh")["iba"]["values"]
    assert after["random"] == before["random"]  # depends on no statistics
    said = json.loads((folder / "run" / "results.json").read_text())["data"]["statistics_files"]
    assert list(said) == ["iba"]


def test_a_statistics_file_with_other_content_is_noticed(
    classifier: LSTMTextClassifier, folder: Path
) -> None:
    path = folder / "words.safetensors"
    explainers = {"iba": {"steps": 2, "copies": 2, "layer": 1, "statistics": str(path)}}
    word_statistics(classifier, REVIEWS, [1])[1].save(path)
    before = run(classifier, folder, "run", explainers)
    assert run(classifier, folder, "run", explainers) == before
    word_statistics(classifier, OTHERS, [1])[1].save(path)
    after = run(classifier, folder, "run", explainers)
    assert after["iba"]["fingerprint"] != before["iba"]["fingerprint"]
    assert after["iba"]["values"] != before["iba"]["values"]


def test_without_reviews_the_statistics_that_are_kept_are_taken(
    classifier: LSTMTextClassifier, folder: Path
) -> None:
    reviews = str(folder / "train.jsonl")
    kept = StoredWordStatistics(folder / "kept", reviews).statistics(classifier, 1)
    found = StoredWordStatistics(folder / "kept", None).statistics(classifier, 1)
    torch.testing.assert_close(found.mean, kept.mean)
    with pytest.raises(InputError, match="give training reviews as statistics_data"):
        StoredWordStatistics(folder / "kept", None).statistics(classifier, 0)
    write(folder / "train.jsonl", OTHERS)
    StoredWordStatistics(folder / "kept", reviews).statistics(classifier, 1)
    with pytest.raises(InputError, match="2 sets of reviews"):
        StoredWordStatistics(folder / "kept", None).statistics(classifier, 1)


def test_a_report_calls_methods_by_their_labels_and_knows_the_controls(
    classifier: LSTMTextClassifier, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explainers = {
        "lime": {"samples": 4},
        "iba": {"explainer": "integrated_gradients", "steps": 2},
        "mine": {"class_path": "lit_iba.text.PositionWords"},
    }
    run(classifier, folder, "run", explainers)
    assert "4 reviews" in capsys.readouterr().out
    found = read_run(folder / "run")
    assert method_labels(found.explainers) == {
        "lime": "LIME",
        "iba": "Integrated gradients (iba)",
        "mine": "mine",
    }
    assert [name for name in explainers if is_control(found, name)] == ["mine"]
    assert not [text for text in cautions(found, build_tables(found)) if "control" in text]
    for name in explainers:
        run(classifier, folder, "bare", {name: explainers[name]})
        bare = read_run(folder / "bare")
        said = [text for text in cautions(bare, build_tables(bare)) if "control" in text]
        assert said == [] if name == "mine" else "of the review scores. Add constant" in said[0]


def test_damaged_heatmaps_are_named(classifier: LSTMTextClassifier, folder: Path) -> None:
    run(classifier, folder, "run", {"random": {}})
    for content in ('{"a', "[]", "{}"):
        (folder / "run" / "heatmaps" / "random.json").write_text(content)
        with pytest.raises(InputError, match=r"random\.json is damaged .*delete it"):
            run(classifier, folder, "run", {"random": {}})


def test_runs_of_other_reviews_with_the_same_ids_are_told_apart(
    classifier: LSTMTextClassifier, folder: Path
) -> None:
    explainers = {"random": {}}
    run(classifier, folder, "a", explainers)
    assert compare_runs(read_run(folder / "a"), [read_run(folder / "a")]).cautions == []
    write(folder / "test.jsonl", OTHERS)
    run(classifier, folder, "b", explainers)
    run(classifier, folder, "c", explainers, target="predicted")
    first, second, third = (read_run(folder / name) for name in "abc")
    assert any("of different data" in text for text in compare_runs(first, [second]).cautions)
    (said,) = compare_runs(second, [third]).cautions
    assert "target label and predicted" in said
