r"""A small DistilBERT for reviews, made on the spot: a WordPiece vocabulary of the reviews, two
layers of 64 dimensions, some minutes on one CPU core. No pretrained weights are needed.

    python benchmarks/text_transformer.py --train train.jsonl --test test.jsonl \
        --out runs/imdb_distilbert

The folder holds config.json, model.safetensors and tokenizer.json, which the text commands take as
``--classifier.model transformers --classifier.folder runs/imdb_distilbert``. Needs transformers.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor

from lit_iba.text.reviews import Review, read_reviews

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNKNOWN, CLS, SEP = range(4)


def wordpiece(texts: list[str], size: int, length: int) -> Any:
    """BERT's kind of tokenizer, trained on texts."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Replace(tokenizers.Regex(r"<br\s*/?>"), " "),
            tokenizers.normalizers.BertNormalizer(lowercase=True),
        ]
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=SPECIAL, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    made.enable_truncation(length)
    made.enable_padding(pad_id=PAD, pad_token="[PAD]")
    return made


def batch(tokenizer: Any, reviews: list[Review]) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers and attention mask (B, T), and labels (B,)."""
    encodings = tokenizer.encode_batch([review.text for review in reviews])
    numbers = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    return numbers, mask, torch.tensor([review.label for review in reviews])


@torch.no_grad()
def accuracy(network: Any, tokenizer: Any, reviews: list[Review]) -> float:
    """Share of the reviews that are told rightly."""
    network.eval()
    hits = 0
    for start in range(0, len(reviews), 50):
        numbers, mask, labels = batch(tokenizer, reviews[start : start + 50])
        logits = network(input_ids=numbers, attention_mask=mask).logits
        hits += int((logits.argmax(dim=1) == labels).sum())
    return hits / len(reviews)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, help="reviews, a folder or a .jsonl file")
    parser.add_argument("--test", required=True, help="reviews that the accuracy is told of")
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--length", type=int, default=128, help="pieces read of a review")
    parser.add_argument("--vocabulary", type=int, default=8000, help="pieces at most")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--word_dropout", type=float, default=0.15, help="share of [UNK] pieces")
    given = parser.parse_args()

    torch.manual_seed(0)
    order = random.Random(0)
    reviews, test = read_reviews(given.train), read_reviews(given.test)
    tokenizer = wordpiece([r.text for r in reviews], given.vocabulary, given.length)
    config = transformers.DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=given.length,
        n_layers=2,
        dim=64,
        n_heads=4,
        hidden_dim=256,
        dropout=0.2,
        attention_dropout=0.1,
        seq_classif_dropout=0.2,
        pad_token_id=PAD,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    network = transformers.DistilBertForSequenceClassification(config)
    adam = torch.optim.AdamW(network.parameters(), given.learning_rate, weight_decay=0.01)
    began, best = time.perf_counter(), 0.0
    order.shuffle(reviews)
    held_out, reviews = reviews[: len(reviews) // 10], reviews[len(reviews) // 10 :]
    for epoch in range(given.epochs):
        network.train()
        # Reviews of like length together, in batches that are shuffled.
        order.shuffle(reviews)
        batches = sorted(reviews, key=lambda review: len(review.text) + order.random())
        parts = [batches[i : i + 16] for i in range(0, len(batches), 16)]
        order.shuffle(parts)
        total = 0.0
        for part in parts:
            numbers, mask, labels = batch(tokenizer, part)
            forget = (torch.rand(numbers.shape) < given.word_dropout) & (numbers > SEP)
            numbers = numbers.masked_fill(forget, UNKNOWN)
            loss = network(input_ids=numbers, attention_mask=mask, labels=labels).loss
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adam.step()
            total += loss.item()
        found = accuracy(network, tokenizer, held_out)
        seconds = time.perf_counter() - began
        print(
            f"epoch {epoch + 1}: cross-entropy {total / len(parts):.3f}, {100 * found:.1f} % of"
            f" {len(held_out)} held-out reviews, {seconds:.0f} s",
            flush=True,
        )
        if found > best:
            best = found
            network.save_pretrained(given.out)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(Path(given.out) / "tokenizer.json"))
    tokenizer.enable_truncation(given.length)
    tokenizer.enable_padding(pad_id=PAD, pad_token="[PAD]")
    kept = transformers.DistilBertForSequenceClassification.from_pretrained(given.out)
    found = accuracy(kept, tokenizer, test)
    error = (found * (1 - found) / len(test)) ** 0.5
    print(f"{100 * found:.1f} ± {100 * error:.1f} % of {len(test)} test reviews")


if __name__ == "__main__":
    main()
