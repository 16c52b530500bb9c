"""Reviews of more than two classes, from training to explanations and benchmark."""

import json
from pathlib import Path

import pytest
import torch
from run_folder_toys import read_or_refused
from text_toys import three_kinds, write_reviews

from lit_iba.cli.main import main
from lit_iba.errors import InputError
from lit_iba.text import LSTMClassifier, Vocabulary
from lit_iba.text.data import IMDBDataModule
from lit_iba.text.lstm_classifier import LSTMTextClassifier
from lit_iba.text.lstm_training import TEXT_KEY, SentimentTraining
from lit_iba.training.checkpoint import read_checkpoint

CONFIG = str(Path(__file__).parents[2] / "configs" / "train" / "imdb_lstm.yaml")


def fit(folder: Path, *more: str, reviews: int = 180, command: str = "fit") -> int:
    train = write_reviews(folder / "train.jsonl", three_kinds(reviews, 0))
    small = ["--model.embedding_size", "8", "--model.hidden_size", "8", "--model.depth", "1"]
    fast = ["--model.learning_rate", "0.03", "--model.dropout", "0", "--trainer.max_epochs", "8"]
    place = ["--data.train", str(train), "--trainer.default_root_dir", str(folder / "run")]
    quiet = [
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
    ]
    data = ["--data.batch_size", "20", "--data.test", str(train)]
    words = [command, "--config", CONFIG, *small, *fast, *place, *quiet, *data, *more]
    return main(words, "train.py")


@pytest.mark.parametrize("names", [None, ["bad", "good", "neither"]])
def test_reviews_of_three_classes_are_learned_explained_and_judged(
    tmp_path: Path, names: list[str] | None
) -> None:
    given = [] if names is None else ["--data.class_names", json.dumps(names)]
    assert fit(tmp_path, "--model.num_classes", "3", *given) == 0
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    classifier = LSTMTextClassifier.from_checkpoint(path)
    assert classifier.class_names == (names or ["0", "1", "2"])
    test = three_kinds(60, 1)
    words = classifier.words([str(review["text"]) for review in test])
    logits = classifier.logits(classifier.embeddings(words), words)
    labels = torch.tensor([int(str(review["label"])) for review in test])
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.8
    common = ["--checkpoint", str(path), "--device", "cpu", "--out", str(tmp_path / "out")]
    file = str(write_reviews(tmp_path / "test.jsonl", test[:6]))
    target = (names or ["0", "1", "2"])[2]
    asked = ["--explainer", "integrated_gradients", "--text_file", file, "--target", target]
    assert main(["explain", *common, *asked], "evaluate.py") == 0
    said = json.loads((tmp_path / "out" / "texts.integrated_gradients.json").read_text())
    assert [one["target"] for one in said] == [target] * 6
    methods = ["--explainers", '{"iba": {"steps": 2}, "random": {}}', "--metrics", "deletion: {}"]
    run = ["--data", file, "--statistics_data", str(tmp_path / "train.jsonl")]
    assert main(["text-benchmark", *common, *methods, *run], "evaluate.py") == 0
    assert set(read_or_refused(tmp_path / "out", tmp_path)["results"]["deletion"]) == {
        "iba",
        "random",
    }


def test_labels_and_names_that_do_not_fit_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "review 0-2 of * has label 2, but there are 2 classes, from 0; correct it, or"
        " give all classes": [],
        "review 0-2 of * 2 classes*data.class_names": [
            *["--model.num_classes", "3", "--data.class_names", '["a", "b"]'],
        ],
        "3 class names were given for 4 classes": [
            *["--model.num_classes", "4", "--data.class_names", '["a", "b", "c"]'],
        ],
        "num_classes is 1; it must be a whole number of at least 2": ["--model.num_classes", "1"],
        "name at least two classes": ["--data.class_names", '["a"]'],
    }
    for message, more in cases.items():
        assert fit(tmp_path, *more, reviews=20) == 2
        said = capsys.readouterr().err
        assert all(part in said for part in message.split("*")), (message, said)
        assert not (tmp_path / "run").exists()


def test_a_checkpoint_keeps_its_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--model.num_classes", "3", "--trainer.max_epochs", "1"]
    assert fit(tmp_path, *few, "--data.class_names", '["a", "b", "c"]', reviews=30) == 0
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    test = [*few, "--ckpt_path", str(best)]
    assert fit(tmp_path, *test, reviews=30, command="test") == 2
    assert "classes are ['a', 'b', 'c'], not ['0', '1', '2']" in capsys.readouterr().err
    named = [*test, "--data.class_names", '["a", "b", "c"]']
    assert fit(tmp_path, *named, reviews=30, command="test") == 0
    checkpoint = read_checkpoint(best)
    for names in (5, ["a"], ["a", "b", 5], None):
        checkpoint[TEXT_KEY]["class_names"] = names
        torch.save(checkpoint, tmp_path / "wrong.ckpt")
        with pytest.raises(InputError, match=r"wrong\.ckpt has entries that training does not"):
            LSTMTextClassifier.from_checkpoint(tmp_path / "wrong.ckpt")
    del checkpoint[TEXT_KEY]["class_names"]  # as it was before
    torch.save(checkpoint, tmp_path / "old.ckpt")
    classifier = LSTMTextClassifier.from_checkpoint(tmp_path / "old.ckpt")
    assert classifier.class_names == ["0", "1", "2"]


def test_names_follow_the_network_and_the_data(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["a great film"])
    network = LSTMClassifier(len(vocabulary), 3, embedding_size=4, hidden_size=4, depth=1)
    assert LSTMTextClassifier(network, vocabulary, 9).class_names == ["0", "1", "2"]
    with pytest.raises(InputError, match="2 class names were given for 3 classes"):
        LSTMTextClassifier(network, vocabulary, 9, ["a", "b"])
    with pytest.raises(InputError, match="classes 1 must be at least 2"):
        LSTMClassifier(9, 1)
    assert SentimentTraining(num_classes=3).shape["classes"] == 3
    data = IMDBDataModule(test=str(write_reviews(tmp_path / "a.jsonl", three_kinds(9, 0))))
    data.setup("test")
    assert data.class_names == ["0", "1", "2"]
