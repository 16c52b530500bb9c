"""What the examples in docstrings may take as given: the boring names, and a folder of tiny data to
stand in.
"""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from PIL import Image

from lit_iba import Benchmark, FeatureStatistics, FrozenClassifier
from lit_iba.data import QuickstartSettings, ShardDataModule, make_quickstart
from lit_iba.export import export_checkpoint
from lit_iba.iba import ReadoutTraining
from lit_iba.text import LSTMClassifier, LSTMTextClassifier, Vocabulary
from lit_iba.text.iba import word_statistics
from lit_iba.varsal import VarSalTraining

SENTENCES = ["A great film.", "A boring film.", "The film was great fun.", "The end was awful."]


def shared_folder(folder: Path) -> Path:
    """Write ``digits/train``, ``digits/val`` and ``digits/test`` (shards), ``reviews.jsonl``,
    ``photographs`` and ``runs``.
    """
    make_quickstart(folder / "digits", QuickstartSettings(train=16, val=4, test=8))
    rows = [{"text": text, "label": 1 - i % 2} for i, text in enumerate(SENTENCES)]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("cat", "dog"):
        (folder / "photographs" / name).mkdir(parents=True)
        Image.new("RGB", (80, 72), "white").save(folder / "photographs" / name / "0.jpg")
    _transformer(folder / "distilbert")
    _trained(folder / "runs")
    last = folder / "runs" / "readout" / "last.ckpt"
    export_checkpoint(last, folder / "runs" / "exported", ["safetensors"], progress=False)
    explainers, metrics = {"saliency": {}, "random": {}}, {"bounding_box": {}}
    classifier = FrozenClassifier("small_cnn", "random")
    Benchmark(
        classifier, folder / "digits" / "test", explainers, metrics, folder / "runs" / "digits"
    ).run()
    return folder


def _transformer(folder: Path) -> None:
    """Write a small DistilBERT and its tokenizer, where transformers are installed."""
    try:
        import tokenizers
        import transformers
    except ImportError:
        return
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, "a", "gre", "##at", "film", "!"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    size = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 20}
    config = transformers.DistilBertConfig(vocab_size=len(pieces), **size)
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def _trained(runs: Path) -> None:
    """Write ``readout/last.ckpt`` and ``varsal/last.ckpt``, each after one step of training."""
    data = ShardDataModule(train=str(runs.parent / "digits" / "train"), batch_size=4, num_workers=0)
    network = {"model": "small_cnn", "weights": "random"}
    for name, training in (
        (
            "readout",
            ReadoutTraining(
                network, layer="layer2", taps=["layer2", "layer3"], statistics_images=8
            ),
        ),
        ("varsal", VarSalTraining(network, channels=[4, 4])),
    ):
        quiet = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
        }
        trainer = Trainer(max_steps=1, limit_val_batches=0, enable_checkpointing=False, **quiet)
        trainer.fit(training, data)
        trainer.save_checkpoint(runs / name / "last.ckpt")


def shared_names() -> dict[str, Any]:
    """``classifier``, ``images``, ``targets``, ``statistics``, and the same for texts."""
    classifier = FrozenClassifier("small_cnn", "random")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    samples = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    vocabulary = Vocabulary.build(SENTENCES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LSTMClassifier(len(vocabulary), embedding_size=8, hidden_size=8, depth=2)
    text_classifier = LSTMTextClassifier(network, vocabulary, max_length=20)
    return {
        "classifier": classifier,
        "images": images,
        "targets": torch.tensor([3, 7]),
        "statistics": FeatureStatistics.estimate(classifier, "layer2", samples),
        "text_classifier": text_classifier,
        "text_statistics": word_statistics(text_classifier, SENTENCES, [0, 2]),  # by layer
    }
