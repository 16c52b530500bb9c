"""A corpus whose sentiment hangs on one word a review, and a classifier that has learned it."""

import json
import random
from pathlib import Path

from lit_iba.cli.main import main

GOOD, BAD = ("great", "wonderful", "superb"), ("awful", "boring", "terrible")
FILLING = (
    "the",
    "film",
    "was",
    "on",
    "a",
    "screen",
    "and",
    "people",
    "in",
    "it",
    "said",
    "about",
    "house",
    "near",
    "river",
)


def toy_reviews(count: int, seed: int) -> list[dict[str, object]]:
    """Reviews of 6 to 14 words, one of which decides."""
    rng = random.Random(seed)
    reviews = []
    for i in range(count):
        words = rng.choices(FILLING, k=rng.randint(5, 13))
        words.insert(rng.randint(0, len(words)), rng.choice(GOOD if i % 2 else BAD))
        reviews.append(
            {"id": f"{seed}-{i}", "label": i % 2, "text": " ".join(words).capitalize() + "."}
        )
    return reviews


def write_reviews(path: Path, reviews: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(review) for review in reviews) + "\n")
    return path


def train_toy(folder: Path) -> Path:
    """Train on the toy corpus through the command line; returns the run's folder."""
    train = write_reviews(folder / "train.jsonl", toy_reviews(240, 0))
    test = write_reviews(folder / "test.jsonl", toy_reviews(40, 1))
    config = Path(__file__).parents[2] / "configs" / "train" / "imdb_lstm.yaml"
    little = [
        "--model.embedding_size",
        "12",
        "--model.hidden_size",
        "16",
        "--data.batch_size",
        "24",
    ]
    fast = ["--model.learning_rate", "0.01", "--model.dropout", "0.1", "--trainer.max_epochs", "12"]
    place = [
        "--data.train",
        str(train),
        "--data.test",
        str(test),
        "--trainer.default_root_dir",
        str(folder / "run"),
    ]
    quiet = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.log_every_n_steps",
        "5",
    ]
    assert main(["fit", "--config", str(config), *little, *fast, *place, *quiet], "train.py") == 0
    return folder / "run"


def three_kinds(count: int, seed: int) -> list[dict[str, object]]:
    """Reviews of three classes, by words of GOOD, of BAD, or of neither."""
    rng = random.Random(seed)
    reviews = []
    for i in range(count):
        words = rng.choices(FILLING[:8], k=6)
        if i % 3 != 2:
            words.insert(rng.randint(0, 6), rng.choice(GOOD if i % 3 else BAD))
        reviews.append({"id": f"{seed}-{i}", "label": i % 3, "text": " ".join(words)})
    return reviews
