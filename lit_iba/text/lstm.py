"""The classifier of InputIBA's experiments on text: word embeddings, stacked one-way LSTMs, a
linear layer.

The stack can be cut behind any of its layers: :meth:`LSTMClassifier.layers` runs a part of it,
:meth:`LSTMClassifier.head` what follows. Texts are padded at their ends; a one-way LSTM does not
look ahead, so that padding changes nothing before it, and the head leaves it out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lit_iba.checks import check_literals
from lit_iba.errors import InputError
from lit_iba.text.words import positions_within

Pooling = Literal["mean", "max", "last"]
EMBEDDING_START = 0.1  # standard deviation of untrained embeddings


class LSTMClassifier(nn.Module):
    """Words to logits.

    Args:
        vocabulary_size: Number of words, padding and unknown among them.
        classes: Number of classes.
        embedding_size: Dimensions of a word; 100 in the authors' code.
        hidden_size: Units of an LSTM layer; 256 in the authors' code.
        depth: LSTM layers; 4 in the paper.
        dropout: Behind the embeddings and each LSTM, in training only.
        pooling: What the linear layer reads: the ``"mean"`` of the top layer over the words, its
            ``"max"``, or its ``"last"`` state, as in the authors' code.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> import torch
        >>> from lit_iba.text import LSTMClassifier
        >>> network = LSTMClassifier(50, embedding_size=8, hidden_size=8, depth=2)
        >>> network(torch.randint(2, 50, (3, 7)), torch.tensor([7, 5, 2])).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        vocabulary_size: int,
        classes: int = 2,
        embedding_size: int = 100,
        hidden_size: int = 256,
        depth: int = 4,
        dropout: float = 0.5,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        if (
            min(vocabulary_size - 1, classes - 1, embedding_size, hidden_size, depth) < 1
            or not 0 <= dropout < 1
        ):
            raise InputError(
                f"vocabulary_size {vocabulary_size} and classes {classes} must be at least 2,"
                f" embedding_size {embedding_size}, hidden_size {hidden_size} and depth {depth} at"
                f" least 1, dropout {dropout} in [0, 1)"
            )
        check_literals(LSTMClassifier.__init__, locals())
        self.pooling, self.depth = pooling, depth
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=0)
        # torch's start, deviation 1, makes of every rare word a loud one of its own, and few
        # reviews are learned by heart.
        with torch.no_grad():
            self.embedding.weight.mul_(EMBEDDING_START)
        sizes = [embedding_size, *[hidden_size] * depth]
        self.lstm = nn.ModuleList(
            nn.LSTM(sizes[i], sizes[i + 1], batch_first=True) for i in range(depth)
        )  # dropout is a module of its own, so that these compute the same in training mode
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, classes)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Word numbers (B, T), padded with 0, and lengths (B,) to logits (B, K)."""
        return self.head(self.layers(self.embedding(words), 0, self.depth), lengths)

    def layers(self, features: Tensor, start: int, stop: int) -> Tensor:
        """Output of LSTM layer ``stop`` from that of layer ``start``, both (B, T, D); 0 is the
        embeddings.
        """
        for lstm in self.lstm[start:stop]:
            features = lstm(self.dropout(features))[0]
        return features

    def head(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The top layer's output (B, T, D) to logits (B, K)."""
        if self.pooling == "last":
            last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, features.shape[2])
            return self.linear(self.dropout(features.gather(1, last)[:, 0]))
        outside = ~positions_within(lengths, features.shape[1])[..., None]
        if self.pooling == "max":
            pooled = features.masked_fill(outside, -1).amax(dim=1)  # the least that an LSTM can say
        else:
            pooled = features.masked_fill(outside, 0).sum(dim=1) / lengths.clamp_min(1)[:, None]
        return self.linear(self.dropout(pooled))
