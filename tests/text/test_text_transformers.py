"""Sequence classifiers of transformers: cut where they are said to be, read piece by piece, and
explained by words.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from text_toys import BAD, GOOD
from torch import nn
from transformer_toys import (
    METHODS,
    SPLIT,
    TEXTS,
    Given,
    albert,
    bert,
    byte_level,
    deberta,
    distilbert,
    explained,
    gpt2,
    roberta,
    save,
    tokenizers,
    transformers,
    wordpiece,
)

from lit_iba.errors import InputError
from lit_iba.text import TransformerTextClassifier, build_text_explainer
from lit_iba.text.iba import word_statistics
from lit_iba.text.words import Words

KINDS = [
    (distilbert, wordpiece),
    (bert, wordpiece),
    (roberta, byte_level),
    (deberta, wordpiece),
    (gpt2, wordpiece),
]


@pytest.mark.parametrize("method", METHODS)
def test_the_word_that_decides_is_found_in_one_piece_or_in_several(
    method: str, toy: tuple[TransformerTextClassifier, Given]
) -> None:
    found = explained(toy, method, TEXTS)
    best = [heatmap.highest(1)[0][0].lower() for heatmap in found]
    assert all(word in (GOOD if h.target else BAD) for word, h in zip(best, found, strict=True)), (
        best
    )
    assert set(SPLIT) <= set(best)  # these are read in two and three pieces
    special = [dict(heatmap.special) for heatmap in found]
    assert all(list(one) == ["[CLS]", "[SEP]"] for one in special)
    # At the embeddings special tokens tell nothing; at a layer [CLS] has read the text.
    assert any(one["[CLS]"] > 1 for one in special) == (method == "iba")
    if method in ("iba", "input_iba"):  # not all of it passes by the words
        assert max(heatmap.highest(1)[0][1] for heatmap in found) > 5


def test_the_gan_finds_it_and_each_text_is_fitted_alone(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    settings = {"gan": "wgan", "generator_steps": 8, "critic_steps": 2, "copies": 10}
    text = next(t for t in TEXTS if "awful" in t.lower())
    together = explained(toy, "input_iba", [TEXTS[1], text], **settings)[1]
    assert together.highest(1)[0][0].lower() == "awful"
    assert not any(value for _, value in together.special)
    alone = explained(toy, "input_iba", [text], **settings)[0]
    assert torch.equal(alone.values, together.values)


def test_special_tokens_are_never_masked_at_the_embeddings(
    toy: tuple[TransformerTextClassifier, Given], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, seen = toy[0], []  # type: TransformerTextClassifier, list[torch.Tensor]
    logits, features = classifier.logits, classifier.features

    def record(x: torch.Tensor, words: Words) -> None:
        seen.append((x - classifier.embeddings(words))[words.roles > 0].detach())

    def of_logits(x: torch.Tensor, words: Words, layer: int = 0) -> torch.Tensor:
        if layer == 0:
            record(x, words)
        return logits(x, words, layer)

    def of_features(x: torch.Tensor, words: Words, layer: int) -> torch.Tensor:
        record(x, words)
        return features(x, words, layer)

    monkeypatch.setattr(classifier, "logits", of_logits)
    monkeypatch.setattr(classifier, "features", of_features)
    few = {"steps": 2, "feature_steps": 1, "generator_steps": 1, "critic_steps": 1, "copies": 2}
    explained(toy, "input_iba", TEXTS[:1], gan="wgan", **few)
    explained(toy, "integrated_gradients", TEXTS[:1], steps=2)
    explained(toy, "lime", TEXTS[:1], samples=3)
    assert len(seen) > 6
    assert not any(changes.any() for changes in seen)


@pytest.mark.parametrize("method", METHODS)
def test_a_text_depends_neither_on_its_batch_nor_on_its_padding(
    method: str, toy: tuple[TransformerTextClassifier, Given]
) -> None:
    texts = sorted(TEXTS, key=len)[:: len(TEXTS) - 1]
    few = {"lime": {"samples": 20}, "input_iba": {"steps": 10}}.get(method, {})
    for text, expected in zip(texts, explained(toy, method, texts, **few), strict=True):
        alone = explained(toy, method, [text], **few)[0]
        largest = float(expected.values.abs().max())
        torch.testing.assert_close(alone.values, expected.values, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize(("make", "tokenizer"), KINDS)
def test_every_cut_gives_the_networks_own_logits_and_padding_never_matters(
    make: Callable[[], nn.Module], tokenizer: Callable[[], Any]
) -> None:
    network = make().train()
    network.requires_grad_(True)
    state = copy.deepcopy(network.state_dict())
    classifier = TransformerTextClassifier(network, tokenizer())
    words = classifier.words(["people said it was superb", "awful.", "a film on the river"])
    with torch.no_grad():
        expected = (
            copy.deepcopy(network).eval()(words.numbers, attention_mask=words.mask.long()).logits
        )
    garbage = lambda x: torch.where(words.mask[..., None], x, 100 * torch.randn_like(x))  # noqa: E731
    embeddings = classifier.embeddings(words)
    torch.testing.assert_close(classifier.logits(garbage(embeddings), words), expected)
    for layer in range(1, classifier.depth + 1):
        features = classifier.features(embeddings, words, layer)
        torch.testing.assert_close(classifier.logits(garbage(features), words, layer), expected)
        alone = words.part(slice(1, 2))
        torch.testing.assert_close(
            classifier.features(classifier.embeddings(alone), alone, layer)[0],
            features[1, : alone.numbers.shape[1]],
        )
        if layer < classifier.depth:
            assert classifier.check_layer(layer) == layer
    # The top is read at [CLS], or by GPT-2 at the last position.
    with pytest.raises(InputError, match="one position only"):
        classifier.check_layer(-1)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])
    # It follows the user's weights, and knows that they have changed.
    before = classifier.identity["sha256"]
    explainer = build_text_explainer("integrated_gradients", classifier)
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(1.5)
    after = classifier.logits(classifier.embeddings(words), words)
    assert not torch.allclose(after, expected, atol=1e-3)
    assert classifier.identity["sha256"] != before
    with pytest.raises(InputError, match="weights have changed"):
        explainer.attribute(["a film"])


def test_an_explanation_in_inference_mode_and_half_precision(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    half = TransformerTextClassifier(distilbert().to(torch.bfloat16), wordpiece())
    assert half.embeddings(half.words(["a film"])).dtype is torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = explained(toy, "iba", TEXTS[:1])[0]
    torch.testing.assert_close(found.values, explained(toy, "iba", TEXTS[:1])[0].values)


def test_a_folder_is_loaded_from_safetensors_alone(tmp_path: Path) -> None:
    network = distilbert()
    folder = save(tmp_path / "saved", network, wordpiece())
    classifier = TransformerTextClassifier.from_folder(folder, class_names=["bad", "good"])
    words = classifier.words(["A superb film."])
    with torch.no_grad():
        expected = network(words.numbers).logits
    torch.testing.assert_close(classifier.logits(classifier.embeddings(words), words), expected)
    config = json.loads((folder / "config.json").read_text())
    for name, changes, message in (
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
        ("config.json", {"architectures": ["DistilBertModel"]}, "ForSequenceClassification"),
        ("config.json", {"dim": 48}, "cannot be loaded|lacks"),
        ("tokenizer.json", "{}", "holds no tokenizer"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("model.safetensors", "no", "cannot be loaded"),
        ("model.safetensors", None, "safetensors only"),
    ):
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        for part in ("config.json", "tokenizer.json", "model.safetensors"):
            (broken / part).write_bytes((folder / part).read_bytes())
        if changes is None:
            (broken / name).unlink()
        elif isinstance(changes, str):
            (broken / name).write_text(changes)
        else:
            (broken / name).write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=message):
            TransformerTextClassifier.from_folder(broken)
    # Weights that are not there would be made up at random.
    bare = transformers.DistilBertModel(network.config)
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    wordpiece().save(str(tmp_path / "bare" / "tokenizer.json"))
    with pytest.raises(InputError, match=r"lacks 4 weights .* such as (pre_)?classifier"):
        TransformerTextClassifier.from_folder(tmp_path / "bare")


def test_what_is_wrong_is_said() -> None:
    classifier = TransformerTextClassifier(distilbert(), wordpiece())
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: TransformerTextClassifier(distilbert(), "none.json"), "does not exist"),
        (lambda: TransformerTextClassifier(distilbert(), nn.Linear(1, 1)), "is a Linear"),
        (lambda: TransformerTextClassifier(nn.Linear(1, 1), wordpiece()), "network is a Linear"),
        (
            lambda: TransformerTextClassifier(distilbert(vocab_size=20), wordpiece()),
            r"numbers up to \d+, but the embeddings of DistilBert\w+ 20 rows",
        ),
        (
            lambda: TransformerTextClassifier(distilbert(), wordpiece(), max_length=41),
            "has 40 positions",
        ),
        (lambda: TransformerTextClassifier(distilbert(), wordpiece(), max_length=2), "at least 3"),
        (lambda: TransformerTextClassifier(distilbert(num_labels=1), wordpiece()), "1 outputs"),
        (
            lambda: TransformerTextClassifier(distilbert(), wordpiece(), class_names=["a"]),
            "1 class names were given for 2",
        ),
        (lambda: classifier.words(["fine", " "]), "text 2 has no words"),
        (lambda: classifier.words([]), "give at least one"),
        (lambda: classifier.words("fine"), "list of strings"),
        (lambda: classifier.check_layer(3), "transformer layers 1 to 2"),
        (lambda: build_text_explainer("iba", classifier), "needs statistics"),
        (
            lambda: TransformerTextClassifier(albert(), wordpiece()).check_layer(1),
            "no list of modules that run once each",
        ),
        (
            lambda: TransformerTextClassifier(distilbert(), plain).fill("mask"),
            "no token for 'mask'",
        ),
    ]
    for act, message in cases:
        with pytest.raises(InputError, match=message):
            act()
    statistics = word_statistics(classifier, TEXTS[:3], [1])[1]
    other = TransformerTextClassifier(distilbert(), byte_level_of_few())
    with pytest.raises(InputError, match="another classifier"):
        build_text_explainer("iba", other, {"statistics": statistics})


@pytest.mark.parametrize("library", ["transformers", "tokenizers"])
def test_what_is_not_installed_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, tokenizer = distilbert(), wordpiece()
    monkeypatch.setitem(sys.modules, library, None)
    act = {
        "transformers": lambda: TransformerTextClassifier.from_folder(tmp_path),
        "tokenizers": lambda: TransformerTextClassifier(network, tokenizer),
    }[library]
    with pytest.raises(InputError, match=r'pip install "lit_iba\[transformers\]"'):
        act()


def byte_level_of_few() -> Any:
    """Another tokenizer that fits the same embeddings."""
    made = wordpiece()
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    return made
