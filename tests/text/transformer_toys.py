"""Sequence classifiers of transformers, made from configs without the network, and their
tokenizers.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from text_toys import BAD, FILLING, GOOD, toy_reviews
from torch import nn

from lit_iba.statistics import FeatureStatistics
from lit_iba.text import TokenHeatmap, TransformerTextClassifier, build_text_explainer
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.iba import word_statistics

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPLIT = {"superb": ["sup", "##erb"], "terrible": ["ter", "##ri", "##ble"]}
WHOLE = [word for word in (*GOOD, *BAD, *FILLING) if word not in SPLIT]


def wordpiece() -> Any:
    """BERT's own kind, in lower case: whole words but for two of those that decide."""
    pieces = sorted({piece for parts in SPLIT.values() for piece in parts})
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *WHOLE, *pieces, ".", ",", "!"])}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def byte_level() -> Any:
    """RoBERTa's own kind, by bytes, trained on the spot."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator([str(r["text"]) for r in toy_reviews(50, 0)], trainer)
    made.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return made


def distilbert(layers: int = 2, **settings: Any) -> nn.Module:
    rows = wordpiece().get_vocab_size()
    size = {"dim": 32, "hidden_dim": 64, "n_heads": 2, "max_position_embeddings": 40}
    config = transformers.DistilBertConfig(
        **({"vocab_size": rows, "n_layers": layers, "pad_token_id": 0} | size | settings)
    )
    return _steep(transformers.DistilBertForSequenceClassification(config))


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=wordpiece().get_vocab_size(), **_SIZE)
    return _steep(transformers.BertForSequenceClassification(config))


def roberta() -> nn.Module:
    rows = byte_level().get_vocab_size()
    config = transformers.RobertaConfig(
        vocab_size=rows, pad_token_id=1, bos_token_id=0, eos_token_id=2, **_SIZE
    )
    return _steep(transformers.RobertaForSequenceClassification(config))


def deberta() -> nn.Module:
    rows = wordpiece().get_vocab_size()
    config = transformers.DebertaV2Config(
        vocab_size=rows, relative_attention=True, pos_att_type=["p2c", "c2p"], **_SIZE
    )
    return _steep(transformers.DebertaV2ForSequenceClassification(config))


def albert() -> nn.Module:
    rows = wordpiece().get_vocab_size()
    config = transformers.AlbertConfig(vocab_size=rows, embedding_size=16, **_SIZE)
    return _steep(transformers.AlbertForSequenceClassification(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=wordpiece().get_vocab_size(),
        n_embd=32,
        n_layer=3,
        n_head=2,
        n_positions=40,
        pad_token_id=0,
    )
    return _steep(transformers.GPT2ForSequenceClassification(config))


_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 42,
    "type_vocab_size": 1,
}


def _steep(network: nn.Module) -> nn.Module:
    """Untrained, they hardly look at their input."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def save(folder: Path, network: nn.Module, tokenizer: Any) -> Path:
    """As save_pretrained of both writes them."""
    network.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def train(network: nn.Module, texts: list[str], labels: list[int], epochs: int = 6) -> nn.Module:
    """Adam on whole reviews, of which some words are unknown."""
    tokenizer = wordpiece()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    encodings = tokenizer.encode_batch(texts)
    numbers = torch.tensor([e.ids for e in encodings])
    mask = torch.tensor([e.attention_mask for e in encodings])
    adam, generator = torch.optim.Adam(network.parameters(), 2e-3), torch.Generator()
    generator.manual_seed(0)
    network.train()
    for _ in range(epochs):
        for part in torch.randperm(len(texts), generator=generator).split(24):
            gone = torch.rand(numbers[part].shape, generator=generator) < 0.15
            given = numbers[part].masked_fill(gone & (numbers[part] > 4), 1)
            loss = network(
                input_ids=given, attention_mask=mask[part], labels=torch.tensor(labels)[part]
            ).loss
            adam.zero_grad()
            loss.backward()
            adam.step()
    return network.eval()


TEXTS = [str(review["text"]) for review in toy_reviews(12, 7)]
METHODS: dict[str, dict[str, Any]] = {
    "iba": {"beta": 1.0},
    "input_iba": {"beta_feat": 1.0, "beta_input": 1.0, "gan": "none", "copies": 5},
    "integrated_gradients": {"steps": 20},
    "lime": {"samples": 150},
}


class Given:
    """Statistics that are there already."""

    def __init__(self, statistics: dict[int, FeatureStatistics]) -> None:
        self.found = statistics

    def statistics(self, classifier: TextClassifier, layer: int) -> FeatureStatistics:
        return self.found[layer]


def trained() -> tuple[TransformerTextClassifier, Given]:
    """A DistilBERT that has learned the words that decide, and statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = distilbert().config
        network = transformers.DistilBertForSequenceClassification(config)
        reviews = toy_reviews(240, 0)
        texts = [str(r["text"]) for r in reviews]
        train(network, texts, [int(str(r["label"])) for r in reviews], epochs=10)
    classifier = TransformerTextClassifier(network, wordpiece(), class_names=["bad", "good"])
    return classifier, Given(word_statistics(classifier, texts[:100], [0, 1]))


def explained(
    toy: tuple[TransformerTextClassifier, Given], method: str, texts: list[str], **more: Any
) -> list[TokenHeatmap]:
    settings = METHODS[method] | more
    return build_text_explainer(method, toy[0], settings, toy[1]).attribute(texts)
