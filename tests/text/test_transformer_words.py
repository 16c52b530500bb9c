"""Pieces of a text become words: their letters, values, and what is cut."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from text_toys import BAD, GOOD
from transformer_toys import (
    TEXTS,
    Given,
    byte_level,
    distilbert,
    explained,
    roberta,
    transformers,
    wordpiece,
)

from lit_iba.errors import InputError
from lit_iba.perturbation import target_logits
from lit_iba.text import TransformerTextClassifier, build_text_explainer
from lit_iba.text.iba import word_statistics
from lit_iba.text.pieces import PieceReader
from lit_iba.text.removal import scores_without
from lit_iba.text.render import gaps, html_page, terminal_text
from lit_iba.text.reviews import read_reviews


@pytest.mark.parametrize("tokenizer", [wordpiece, byte_level])
def test_words_reproduce_the_text_and_pieces_add_up_to_words(
    tokenizer: Callable[[], Any],
) -> None:
    text = "  It's a  SUPERB\tfilm — naïve, terrible!?  "
    make = distilbert if tokenizer is wordpiece else roberta
    classifier = TransformerTextClassifier(make(), tokenizer())
    read = classifier.words([text]).read[0]
    assert [w for w in read.words if w.isalpha()] == [
        *(["It", "s"] if tokenizer is wordpiece else ["It"]),
        *["a", "SUPERB", "film", "naïve", "terrible"],
    ]
    heatmap = build_text_explainer("integrated_gradients", classifier, {"steps": 4}).attribute(
        [text], 1
    )[0]
    pieces = list(zip(gaps(heatmap), [*heatmap.tokens, ""], strict=True))
    assert "".join(before + word for before, word in pieces) == text
    assert terminal_text(heatmap).plain == text
    for number, value in enumerate(heatmap.values.tolist()):
        parts = [v for _, v, word in heatmap.pieces if word == number]
        assert value == pytest.approx(sum(parts), abs=1e-5)
    assert len(heatmap.special) == 2
    page = html_page([("one", [heatmap])], ["bad", "good"])
    assert "SUPERB</span>\tfilm" not in page  # each word has a span of its own
    assert "SUPERB" in page


def test_a_mask_is_averaged_over_pieces_and_bits_are_summed(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    text = ["people said it was superb"]
    for output, how in (("bits", sum), ("mask", lambda parts: sum(parts) / len(parts))):
        heatmap = explained(toy, "input_iba", text, output=output, steps=3, feature_steps=2)[0]
        for number, value in enumerate(heatmap.values.tolist()):
            parts = [v for _, v, word in heatmap.pieces if word == number]
            assert value == pytest.approx(how(parts), rel=1e-5)
        assert len([1 for _, _, word in heatmap.pieces if word == 4]) == 2


def test_integrated_gradients_of_words_sum_to_the_change_without_them(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    for baseline in ("unk", "mask", "zero"):
        heatmap = explained(toy, "integrated_gradients", TEXTS[:1], steps=200, baseline=baseline)[0]
        words = toy[0].words(TEXTS[:1])
        whole, nothing = scores_without(
            toy[0],
            words,
            torch.tensor([heatmap.target]),
            [torch.stack([torch.zeros(words.counts[0]), torch.ones(words.counts[0])]) > 0],
            toy[0].fill(baseline),  # type: ignore[arg-type]
            score=target_logits,
            forward_batch_size=4,
        )[0].tolist()
        assert heatmap.total == pytest.approx(whole - nothing, abs=0.02)


def test_a_removed_word_is_unknown_in_all_its_pieces(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    classifier, targets = toy[0], torch.tensor([0, 1])
    words = classifier.words(["it was terrible in the house", "superb"])
    gone = [torch.eye(6)[2:4] > 0, torch.ones(1, 1) > 0]
    found = scores_without(
        classifier,
        words,
        targets,
        gone,
        classifier.fill("unk"),
        score=target_logits,
        forward_batch_size=2,
    )
    for i, positions, score in (
        (0, (3, 4, 5), found[0][0]),
        (0, (6,), found[0][1]),
        (1, (1, 2), found[1][0]),
    ):
        ids = words.numbers[i : i + 1, : words.lengths[i]].clone()
        ids[0, list(positions)] = wordpiece().token_to_id("[UNK]")
        with torch.no_grad():
            expected = classifier.network(ids).logits[0, targets[i]]
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_what_is_cut_is_said_and_is_what_transformers_would_cut() -> None:
    classifier = TransformerTextClassifier(distilbert(), wordpiece(), max_length=8)
    text = "people said it was terrible about the house"
    read = classifier.words([text]).read[0]
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=wordpiece())
    assert own(text, truncation=True, max_length=8)["input_ids"] == [
        int(n) for n in classifier.words([text]).numbers[0]
    ]
    assert read.pieces[-3:] == ["ter", "##ri", "[SEP]"]
    assert read.cut == 4  # ##ble about the house
    heatmap = build_text_explainer("position", classifier).attribute([text])[0]
    assert "4 tokens at the end were not read" in html_page([("one", [heatmap])], ["a", "b"])
    assert terminal_text(heatmap).plain == text


def test_where_special_tokens_are_those_of_the_mean_text_all_passes_by_the_words(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    found = explained(toy, "iba", TEXTS, special="mean")
    beside = explained(toy, "iba", TEXTS)
    told = [h for h in found if h.total > 1]  # a class that is said of nothing needs no bits
    assert len(told) >= 6
    assert all(h.highest(1)[0][0].lower() in (GOOD if h.target else BAD) for h in told)
    assert not any(value for h in found for _, value in h.special)
    assert sum(h.total for h in found) > sum(h.total for h in beside)


def test_statistics_are_of_words_and_of_each_special_token(
    toy: tuple[TransformerTextClassifier, Given],
) -> None:
    classifier, texts = toy[0], TEXTS[:5]
    found = word_statistics(classifier, texts, [0, 1], batch_size=2)
    rows: list[list[torch.Tensor]] = [[], [], []]
    for text in texts:
        words = classifier.words([text])
        features = classifier.features(classifier.embeddings(words), words, 1)[0]
        rows[0].append(features[1:-1])
        rows[1].append(features[:1])
        rows[2].append(features[-1:])
    for role, parts in enumerate(rows):
        every = torch.cat(parts).double()
        torch.testing.assert_close(found[1].mean[role], every.mean(dim=0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[1].std[role], every.std(dim=0), rtol=1e-4, atol=1e-6)
    assert found[0].mean.shape == (32,)  # at the embeddings special tokens are not restricted
    with pytest.raises(InputError, match="at least two texts"):
        word_statistics(classifier, texts[:1], [1])


@pytest.mark.realdata
@pytest.mark.parametrize("tokenizer", [wordpiece, byte_level])
def test_real_reviews_are_reproduced_letter_by_letter(
    tokenizer: Callable[[], Any], realdata: Path
) -> None:
    made = tokenizer()
    reader, own = (
        PieceReader(made, 128),
        transformers.PreTrainedTokenizerFast(tokenizer_object=made),
    )
    for review in read_reviews(realdata / "imdb_test500.jsonl")[:50]:
        read, numbers = reader.read(review.text, 0)
        given = list(zip(read.gaps(), [*read.words, ""], strict=True))
        assert "".join(before + word for before, word in given) == review.text
        left_out = {c for before, _ in given[:-1] for c in before if c.isprintable()}
        assert left_out <= {" "}  # BERT drops control characters
        whole = own(review.text)["input_ids"]
        assert numbers == own(review.text, truncation=True, max_length=128)["input_ids"]
        assert read.cut == max(0, len(whole) - 128)


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "text.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code
    exec(compile(code[1], "text.md", "exec"), {"__name__": "example"})
    assert "['The', 'film', 'was', 'superb', '.']" in capsys.readouterr().out
