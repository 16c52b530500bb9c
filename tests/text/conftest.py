"""The toy classifier, trained once."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from text_toys import toy_reviews, train_toy

from lit_iba.statistics import FeatureStatistics
from lit_iba.text.iba import word_statistics
from lit_iba.text.lstm_classifier import LSTMTextClassifier

if TYPE_CHECKING:
    from transformer_toys import Given

    from lit_iba.text import TransformerTextClassifier


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.jsonl, test.jsonl and the training's run."""
    return train_toy(tmp_path_factory.mktemp("toy")).parent


@pytest.fixture(scope="session")
def toy_classifier(toy_run: Path) -> LSTMTextClassifier:
    """What was trained."""
    return LSTMTextClassifier.from_checkpoint(toy_run / "run" / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="session")
def toy_statistics(toy_classifier: LSTMTextClassifier) -> dict[int, FeatureStatistics]:
    """Word statistics of all layers."""
    return word_statistics(toy_classifier, [str(r["text"]) for r in toy_reviews(100, 0)], range(5))


@pytest.fixture(scope="session")
def toy() -> "tuple[TransformerTextClassifier, Given]":
    """A transformer that was trained once; skipped where transformers is not installed."""
    from transformer_toys import trained

    return trained()
