"""Transformers on the command line: reviews explained and judged, from a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folder_toys import read_or_refused
from text_toys import toy_reviews, write_reviews
from transformer_toys import distilbert, save, wordpiece

from lit_iba.cli.main import main

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "imdb_distilbert.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reviews and a model, which is not trained."""
    folder = tmp_path_factory.mktemp("place")
    write_reviews(folder / "reviews.jsonl", toy_reviews(8, 3))
    save(folder / "model", distilbert(max_position_embeddings=12), wordpiece())
    return folder


def test_explain_writes_the_text_in_words_and_its_pieces(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "The SUPERB film, near the river; people said it was  terrible!"
    given = ["--classifier.model", "transformers", "--classifier.folder", str(place / "model")]
    places = ["--statistics_data", str(place / "reviews.jsonl"), "--out", str(tmp_path / "out")]
    settings = ["--explainer", "iba", "--settings", '{"beta": 0.1, "steps": 2}', "--device", "cpu"]
    assert main(["explain", *given, *places, *settings, "--text", text], "evaluate.py") == 0
    printed = " ".join(capsys.readouterr().out.split())  # the terminal breaks lines
    assert "apart from them" in printed
    assert "tokens at the end were not read" in printed
    assert " ".join(text.split()) in printed
    (found,) = json.loads((tmp_path / "out" / "texts.iba.json").read_text())
    assert found["tokens"][:4] == ["The", "SUPERB", "film", ","]
    assert [text[a:b] for a, b in found["spans"]] == found["tokens"]
    assert found["pieces"][:4] == ["[CLS]", "the", "sup", "##erb"]
    assert found["piece_words"][:4] == [-1, 0, 1, 1]
    assert found["values"][1] == pytest.approx(sum(found["piece_values"][2:4]), rel=1e-4)
    page = (tmp_path / "out" / "texts.iba.html").read_text()
    assert ">SUPERB</span>" in page
    assert "terrible!</span></p>" in page  # pale, because it was not read


def test_the_config_runs_and_what_is_wrong_with_a_classifier_is_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    given |= {
        "data": str(place / "reviews.jsonl"),
        "statistics_data": str(place / "reviews.jsonl"),
        "max_texts": 4,
        "report": False,
    }
    given["classifier"]["folder"] = str(place / "model")
    given["explainers"]["input_iba"] |= {"steps": 2, "feature_steps": 2, "copies": 2}
    for name in ("iba", "iba_without_cls"):
        given["explainers"][name] |= {"steps": 2, "copies": 2}
    given["explainers"]["integrated_gradients"] |= {"steps": 3}
    given["explainers"]["lime"] |= {"samples": 5}
    given["metrics"]["sensitivity_n"] |= {"masks": 4}
    Path("run.yaml").write_text(yaml.safe_dump(given))
    command = ["text-benchmark", "--config", "run.yaml", "--device", "cpu"]
    assert main(command, "evaluate.py") == 0
    results = read_or_refused(Path(given["out"]), tmp_path)
    assert results["classifier"]["model"] == "DistilBertForSequenceClassification"
    for by_explainer in results["results"].values():
        assert set(by_explainer) == set(given["explainers"])
    correlation = results["results"]["sensitivity_n"]
    assert correlation["constant"]["score"] == 0
    capsys.readouterr()
    for changes, message in (
        (["--classifier.folder", "nowhere"], "nowhere is no folder"),
        (["--classifier.model", "bert"], "give model: transformers"),
        (["--classifier.max_lenght", "8"], "did you mean 'max_length'"),
        (["--classifier.max_length", "13"], "has 12 positions"),
        (["--checkpoint", "some.ckpt"], "name the text classifier"),
    ):
        assert main([*command, *changes], "evaluate.py") == 2, changes
        assert message in capsys.readouterr().err
