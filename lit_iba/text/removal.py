"""What a text classifier says when some of the words are gone; shared by LIME and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_iba.text.classifier import TextClassifier
from lit_iba.text.words import Words

Score = Callable[[Tensor, Tensor], Tensor]  # logits (N, K) and targets (N,) to a number each


def scores_without(
    classifier: TextClassifier,
    words: Words,
    targets: Tensor,
    removed: Sequence[Tensor],
    fill: Tensor,
    *,
    score: Score,
    forward_batch_size: int,
) -> list[Tensor]:
    """Score versions of texts that lack words, in forward passes across texts and versions alike.

    Args:
        classifier: The frozen classifier.
        words: The texts.
        targets: (B,).
        removed: For each text, which words its versions lack, bool (V, W).
        fill: The embedding in the place of each piece of a missing word (D,), see
            :meth:`TextClassifier.fill`.
        score: From logits and targets to one number per version.
        forward_batch_size: Texts per forward pass.

    Returns:
        For each text, float32 (V,).
    """
    with classifier.frozen.undisturbed(), torch.inference_mode():
        embeddings, lengths = classifier.embeddings(words), words.lengths.tolist()
        word_of = words.word_of.to(embeddings.device)
        versions = torch.tensor([len(gone) for gone in removed])
        text = torch.arange(len(words)).repeat_interleave(versions)
        version = torch.cat([torch.arange(len(gone)) for gone in removed])
        scores = torch.zeros(len(text), device=embeddings.device, dtype=torch.float32)
        for jobs in torch.arange(len(text)).split(forward_batch_size):
            width = max(lengths[i] for i in text[jobs].unique().tolist())
            gone = torch.zeros(len(jobs), width, dtype=torch.bool, device=embeddings.device)
            for row, (i, v) in enumerate(
                zip(text[jobs].tolist(), version[jobs].tolist(), strict=True)
            ):
                inside = word_of[i, : lengths[i]] >= 0
                gone[row, : lengths[i]][inside] = removed[i][v][word_of[i, : lengths[i]][inside]]
            which = text[jobs]
            there = which.to(embeddings.device)
            changed = torch.where(gone[..., None], fill, embeddings[there, :width])
            logits = classifier.logits(changed, words.rows(which, width))
            scores[jobs.to(scores.device)] = score(logits, targets[there]).to(scores)
        return list(scores.split(versions.tolist()))
