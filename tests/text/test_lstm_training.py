"""The LSTM: padding, cutting, training through the command line, checkpoints and their
vocabulary.
"""

import json
from pathlib import Path

import pytest
import torch
from text_toys import toy_reviews, write_reviews

from lit_iba.cli.main import main
from lit_iba.errors import InputError
from lit_iba.text.lstm import LSTMClassifier
from lit_iba.text.lstm_classifier import LSTMTextClassifier
from lit_iba.text.lstm_training import TEXT_KEY, load_glove
from lit_iba.text.vocabulary import Vocabulary
from lit_iba.training.checkpoint import read_checkpoint

CONFIG = str(Path(__file__).parents[2] / "configs" / "train" / "imdb_lstm.yaml")


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_padding_changes_nothing_and_every_cut_gives_the_same_logits(pooling: str) -> None:
    torch.manual_seed(0)
    network = LSTMClassifier(20, embedding_size=6, hidden_size=5, pooling=pooling).eval()
    words, lengths = torch.randint(2, 20, (3, 7)), torch.tensor([7, 4, 1])
    words[torch.arange(7) >= lengths[:, None]] = 0
    together = network(words, lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            network(words[i : i + 1, :length], lengths[i : i + 1])[0], together[i]
        )
        states = network.layers(network.embedding(words[i : i + 1, :length]), 0, 4)[
            0
        ]  # (length, 5)
        pooled = {"mean": states.mean(dim=0), "max": states.amax(dim=0), "last": states[-1]}[
            pooling
        ]
        torch.testing.assert_close(network.linear(pooled), together[i])
    for layer in range(5):
        features = network.layers(network.embedding(words), 0, layer)
        torch.testing.assert_close(
            network.head(network.layers(features, layer, 4), lengths), together
        )


def test_training_learns_the_words_that_decide(
    toy_run: Path, toy_classifier: LSTMTextClassifier
) -> None:
    reviews = toy_reviews(60, 5)
    words = toy_classifier.words([str(r["text"]) for r in reviews])
    logits = toy_classifier.logits(toy_classifier.embeddings(words), words)
    labels = torch.tensor([int(str(r["label"])) for r in reviews])
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.95
    assert not any(p.requires_grad for p in toy_classifier.network.parameters())
    assert not toy_classifier.network.dropout.training
    assert (
        Vocabulary.load(toy_run / "run" / "vocabulary.json").sha256
        == toy_classifier.vocabulary.sha256
    )


def test_a_checkpoint_goes_with_its_words_and_its_network(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = toy_run / "run" / "checkpoints" / "best.ckpt"
    shape = ["--model.embedding_size", "12", "--model.hidden_size", "16"]
    common = [
        "--ckpt_path",
        str(best),
        "--trainer.accelerator",
        "cpu",
        "--trainer.default_root_dir",
        str(toy_run / "run"),
    ]
    data = [
        "--data.train",
        str(toy_run / "train.jsonl"),
        "--data.test",
        str(toy_run / "test.jsonl"),
    ]
    assert main(["test", "--config", CONFIG, *shape, *data, *common], "train.py") == 0
    assert "test/accuracy" in capsys.readouterr().out
    # The vocabulary file stands for the training reviews.
    alone = [
        "--data.train",
        "null",
        "--data.test",
        data[3],
        "--data.vocabulary",
        str(toy_run / "run" / "vocabulary.json"),
    ]
    assert main(["test", "--config", CONFIG, *shape, *alone, *common], "train.py") == 0
    other = write_reviews(
        tmp_path / "other.jsonl", [*toy_reviews(40, 9), {"label": 1, "text": "new words new words"}]
    )
    wrong = ["--data.train", str(other), "--data.test", data[3]]
    assert main(["test", "--config", CONFIG, *shape, *wrong, *common], "train.py") == 2
    assert "another vocabulary" in capsys.readouterr().err
    assert main(["test", "--config", CONFIG, *data, *common], "train.py") == 2
    assert "use its config" in capsys.readouterr().err


def test_a_run_that_stops_goes_on_as_if_it_had_not(toy_run: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch; the order of the reviews, word dropout and dropout go on
    where they were.
    """
    data = [
        "--data.train",
        str(toy_run / "train.jsonl"),
        "--data.batch_size",
        "50",
        "--trainer.enable_progress_bar",
        "false",
    ]
    small = [
        "--model.embedding_size",
        "4",
        "--model.hidden_size",
        "4",
        "--trainer.accelerator",
        "cpu",
    ]

    def fit(folder: str, *more: str) -> dict[str, torch.Tensor]:
        place = [
            "--trainer.default_root_dir",
            str(tmp_path / folder),
            "--trainer.log_every_n_steps",
            "1",
        ]
        assert main(["fit", "--config", CONFIG, *data, *small, *place, *more], "train.py") == 0
        state: dict[str, torch.Tensor] = read_checkpoint(
            tmp_path / folder / "checkpoints" / "last.ckpt"
        )["state_dict"]
        return state

    whole = fit("whole", "--trainer.max_steps", "10")
    fit("parts", "--trainer.max_steps", "7", "--resume.every_n_steps", "7")
    parts = fit("parts", "--trainer.max_steps", "10", "--ckpt_path", "last")
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=0, atol=0)


def test_glove_vectors_are_read_and_a_bad_file_is_named(tmp_path: Path) -> None:
    vocabulary, embedding = Vocabulary.build(["good film"]), torch.nn.Embedding(4, 3)
    before = embedding.weight.detach().clone()
    path = tmp_path / "glove.txt"
    path.write_text("house 9 9 9\ngood 1 -2 3.5\n")
    assert load_glove(path, vocabulary, embedding) == 1
    good = vocabulary.numbers(["good"])[0]
    assert embedding.weight[good].tolist() == [1, -2, 3.5]
    others = torch.arange(4) != good
    assert torch.equal(embedding.weight[others], before[others])
    cases = {
        "good 1 2\n": "glove.txt:1 has 2 numbers",
        "film 1 x 2\n": "glove.txt:1 is no word vector",
        "a 1 2 3\n": "none",
    }
    for content, message in cases.items():
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            load_glove(path, vocabulary, embedding)


def test_a_changed_checkpoint_is_refused(toy_run: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(toy_run / "run" / "checkpoints" / "best.ckpt")
    words = json.loads(checkpoint["lit_iba_vocabulary"])
    words["words"][2], words["words"][3] = words["words"][3], words["words"][2]
    torch.save(checkpoint | {"lit_iba_vocabulary": json.dumps(words)}, tmp_path / "changed.ckpt")
    with pytest.raises(InputError, match="were changed"):
        LSTMTextClassifier.from_checkpoint(tmp_path / "changed.ckpt")
    assert checkpoint[TEXT_KEY]["max_length"] == 250
