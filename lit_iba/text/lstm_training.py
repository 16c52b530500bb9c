"""Training the LSTM on reviews (InputIBA, section 4.1; the settings are ours, since neither paper
nor code has a recipe).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_iba.checks import check_counts, check_literals
from lit_iba.errors import InputError
from lit_iba.limits import check_limit
from lit_iba.text.data import IMDBDataModule
from lit_iba.text.lstm import LSTMClassifier, Pooling
from lit_iba.text.vocabulary import UNKNOWN as UNKNOWN_WORD
from lit_iba.text.vocabulary import Vocabulary
from lit_iba.training.checkpoint import KIND_KEY

VOCABULARY_KEY, TEXT_KEY = "lit_iba_vocabulary", "lit_iba_text"
UNKNOWN = 1


class SentimentTraining(L.LightningModule):
    """Cross-entropy training of an :class:`LSTMClassifier` with Adam; clip gradients with
    ``trainer.gradient_clip_val``.

    The vocabulary comes from the data module. It goes into the checkpoint, and as
    ``vocabulary.json`` into the run's folder.

    Args:
        embedding_size: Of :class:`LSTMClassifier`, as the four that follow.
        hidden_size: Of a layer in one direction.
        depth: Layers.
        dropout: Between layers and before the last one.
        pooling: How the words' features become one.
        word_dropout: Share of the words that become ``<unk>`` in training, so that the network
            knows what metrics and baselines put in a word's place.
        learning_rate: Of Adam.
        weight_decay: Of Adam (decoupled).
        glove: A text file of word vectors to begin with, a word and ``embedding_size`` numbers a
            line; None begins at random.
        num_classes: Number of classes; the reviews' labels are 0 to one less.

    Example:
        >>> from lit_iba.text import SentimentTraining
        >>> training = SentimentTraining(embedding_size=8, hidden_size=8, depth=2, word_dropout=0.1)
        >>> training.hparams["hidden_size"]
        8
    """

    def __init__(
        self,
        embedding_size: int = 100,
        hidden_size: int = 256,
        depth: int = 4,
        dropout: float = 0.5,
        pooling: Pooling = "mean",
        word_dropout: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        glove: str | None = None,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_literals(SentimentTraining.__init__, locals())
        check_counts(2, num_classes=num_classes)
        check_limit("CLASSES", num_classes, "num_classes")
        if not 0 <= word_dropout < 1:
            raise InputError(f"word_dropout is {word_dropout}; it must be in [0, 1)")
        self.shape: dict[str, Any] = {
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "depth": depth,
            "pooling": pooling,
            "classes": num_classes,
        }
        self.word_dropout, self.learning_rate, self.weight_decay = (
            word_dropout,
            learning_rate,
            weight_decay,
        )
        self.dropout, self.glove = dropout, glove
        self.network: LSTMClassifier | None = None
        self.scores = nn.ModuleDict({"cross_entropy": MeanMetric(), "accuracy": MeanMetric()})

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Word numbers (B, T) and lengths (B,) to logits (B, K)."""
        assert self.network is not None
        return self.network(words, lengths)

    def setup(self, stage: str) -> None:
        """Build the network for the data module's vocabulary.

        Raises:
            InputError: The data module has none or other classes, or the GloVe file does not fit.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, IMDBDataModule):
            raise InputError(
                f"SentimentTraining needs an IMDBDataModule as data, not {type(data).__name__}"
            )
        self.vocabulary, self.max_length = data.vocabulary, data.max_length
        self.class_names = data.check_classes(self.shape["classes"])
        if self.network is None:
            self.network = LSTMClassifier(len(self.vocabulary), dropout=self.dropout, **self.shape)
            if self.glove is not None and stage == "fit":
                load_glove(self.glove, self.vocabulary, self.network.embedding)
        if stage == "fit" and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.vocabulary.save(Path(self.trainer.default_root_dir) / "vocabulary.json")

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Cross-entropy of one batch; empty slots weigh nothing."""
        words = batch["words"]
        forget = (
            torch.rand(words.shape, device=words.device, dtype=torch.float32) < self.word_dropout
        ) & (words != 0)
        logits = self(words.masked_fill(forget, UNKNOWN), batch["length"])
        losses = F.cross_entropy(logits, batch["label"].clamp_min(0), reduction="none")
        loss = (losses * batch["weight"]).sum() / len(losses)
        self.log("train/cross_entropy", loss, prog_bar=True, batch_size=len(losses))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Loss and hits."""
        logits, labels = self(batch["words"], batch["length"]), batch["label"].clamp_min(0)
        self.scores["cross_entropy"].update(
            F.cross_entropy(logits, labels, reduction="none"), batch["weight"]
        )  # type: ignore[operator]
        self.scores["accuracy"].update((logits.argmax(dim=1) == labels).float(), batch["weight"])  # type: ignore[operator]

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )

    def on_validation_epoch_end(self) -> None:
        """Log the scores, reduced over all processes."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores, reduced over all processes."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        for name, metric in self.scores.items():
            self.log(f"{stage}/{name}", metric.compute(), prog_bar=True)  # type: ignore[operator]
            metric.reset()  # type: ignore[operator]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which class wrote the checkpoint, its words and classes, and how texts are cut."""
        checkpoint[KIND_KEY] = type(self).__name__
        checkpoint[VOCABULARY_KEY] = self.vocabulary.to_json()
        checkpoint[TEXT_KEY] = {
            "max_length": self.max_length,
            "shape": self.shape,
            "class_names": self.class_names,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, other words, another network or other classes.

        Raises:
            InputError: One of them differs.
        """
        kind = checkpoint.get(KIND_KEY)
        if kind != type(self).__name__:
            raise InputError(
                f"the checkpoint was written by {kind or 'another program'}, not by"
                " SentimentTraining"
            )
        saved = Vocabulary.from_json(checkpoint[VOCABULARY_KEY], "the checkpoint")
        self.vocabulary.check(saved.sha256, "the checkpoint")
        if checkpoint[TEXT_KEY]["shape"] != self.shape:
            raise InputError(
                f"the checkpoint's network is {checkpoint[TEXT_KEY]['shape']}, not {self.shape};"
                " use its config"
            )
        names = checkpoint[TEXT_KEY].get("class_names", self.class_names)
        if names != self.class_names:
            raise InputError(
                f"the checkpoint's classes are {names}, not {self.class_names}; give them as"
                " data.class_names"
            )


@torch.no_grad()
def load_glove(path: str | Path, vocabulary: Vocabulary, embedding: nn.Embedding) -> int:
    """Put word vectors of a GloVe file into an embedding; words that it lacks keep theirs.

    Returns:
        How many words of the vocabulary the file has.

    Raises:
        InputError: The file is missing, a line is broken, or it has none of the words.
    """
    path, size, found = Path(path), embedding.embedding_dim, 0
    if not path.is_file():
        raise InputError(
            f"GloVe file {path} does not exist; give a text file such as glove.6B.{size}d.txt"
        )
    with path.open(encoding="utf-8") as file:
        for line_number, line in enumerate(file, start=1):
            word, *numbers = line.rstrip("\n").split(" ")
            if word != UNKNOWN_WORD and word not in vocabulary:
                continue
            try:
                vector = torch.tensor([float(number) for number in numbers])
            except ValueError as error:
                raise InputError(
                    f"{path}:{line_number} is no word vector ({error}); fetch the file again"
                ) from error
            if len(vector) != size:
                raise InputError(
                    f"{path}:{line_number} has {len(vector)} numbers, but embedding_size is {size}"
                )
            embedding.weight[vocabulary.numbers([word])[0]] = vector
            found += 1
    if not found:
        raise InputError(
            f"{path} has none of the vocabulary's {len(vocabulary)} words; is it in lower case?"
        )
    return found
