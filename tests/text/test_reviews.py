"""Words, vocabularies, reviews and their batches."""

import json
from pathlib import Path

import pytest
import torch
from text_toys import toy_reviews, write_reviews

from lit_iba.errors import InputError
from lit_iba.text import LSTMClassifier, LSTMTextClassifier, build_text_explainer
from lit_iba.text.data import IMDBDataModule
from lit_iba.text.reviews import read_reviews
from lit_iba.text.vocabulary import Vocabulary, tokenize


def test_words_are_basic_english() -> None:
    # The expected words are those of torchtext's basic_english.
    text = 'It\'s GREAT<br /><br />really; "one-of-a-kind" (see: 10/10)! No, wait... why?'
    assert tokenize(text) == [
        "it",
        "'",
        "s",
        "great",
        "really",
        "one-of-a-kind",
        "(",
        "see",
        "10/10",
        ")",
        "!",
        "no",
        ",",
        "wait",
        ".",
        ".",
        ".",
        "why",
        "?",
    ]
    assert tokenize(" <br> ;") == []


def test_a_vocabulary_keeps_the_most_frequent_words_and_knows_when_it_was_changed(
    tmp_path: Path,
) -> None:
    built = Vocabulary.build(["b a a c", "c a d"], size=3)
    assert built.words == [
        "<pad>",
        "<unk>",
        "a",
        "c",
        "b",
    ]  # b before d: equally frequent, alphabetical
    assert built.numbers(["a", "d", "b"]) == [2, 1, 4]
    assert Vocabulary.build(["b a a c", "c a d"], min_count=2).words[2:] == ["a", "c"]
    built.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json").words == built.words
    text = (tmp_path / "vocabulary.json").read_text()
    for broken, message in (
        (text.replace('"b"', '"e"'), "changed"),
        (text[:40], "holds no vocabulary"),
        (text.replace('"b"', "5"), "holds no vocabulary"),
        (text.replace('"b"', '"\\ud800"'), "holds no vocabulary"),  # half a character
    ):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises(InputError, match=message):
            Vocabulary.load(tmp_path / "broken.json")


def test_reviews_come_from_aclimdb_folders_and_from_lines(tmp_path: Path) -> None:
    for kind in ("pos", "neg"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "train" / kind / f"{i}_7.txt").write_text(f"{kind} {i}")
    found = read_reviews(tmp_path / "train")
    assert [(r.key, r.label, r.text) for r in found][1:3] == [
        ("neg/1_7", 0, "neg 1"),
        ("pos/0_7", 1, "pos 0"),
    ]
    # A line separator inside a text is no end of a line.
    reviews = [{"id": "x", "label": 1, "text": "good\u2028film"}]
    assert read_reviews(write_reviews(tmp_path / "a.jsonl", reviews))[0].text == "good\u2028film"


def test_what_is_wrong_with_reviews_is_said_with_its_place(tmp_path: Path) -> None:
    good = json.dumps({"label": 1, "text": "fine"})
    cases = {
        f"{good}\n{{broken\n": r"reviews.jsonl:2 is no review",
        f"{good}\n\n{json.dumps({'label': 1})}\n": r"reviews.jsonl:3 is no review",
        json.dumps({"label": 2, "text": "fine"}): r"reviews.jsonl:1 has label 2",
        json.dumps({"id": "a7", "label": 0, "text": " <br />"}): r"review a7 has no words",
        f"{json.dumps({'id': 'a', 'label': 0, 'text': 'b'})}\n" * 2: "two reviews alike",
        "\n": "holds no reviews",
    }
    for content, message in cases.items():
        (tmp_path / "reviews.jsonl").write_text(content)
        with pytest.raises(InputError, match=message):
            read_reviews(tmp_path / "reviews.jsonl")
    with pytest.raises(InputError, match="do not exist"):
        read_reviews(tmp_path / "nowhere")
    (tmp_path / "pos").mkdir()
    with pytest.raises(InputError, match="no folder neg/"):
        read_reviews(tmp_path)


def test_batches_are_padded_and_every_epoch_has_its_own_order(tmp_path: Path) -> None:
    path = str(write_reviews(tmp_path / "train.jsonl", toy_reviews(50, 0)))

    def epochs(seed: int) -> list[list[str]]:
        data = IMDBDataModule(path, batch_size=8, val_fraction=0.2, max_length=9, seed=seed)
        data.setup("fit")
        loader = data.train_dataloader()
        return [[key for batch in loader for key in batch["key"] if key] for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 40
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first

    data = IMDBDataModule(path, batch_size=8, val_fraction=0.2, max_length=9)
    data.setup("fit")
    held_out = [key for batch in data.val_dataloader() for key in batch["key"] if key]
    assert not set(held_out) & set(first)
    assert len(held_out) == 10
    reviews = {str(r["id"]): r for r in toy_reviews(50, 0)}
    for batch in data.train_dataloader():
        for i, key in enumerate(batch["key"]):
            expected = (
                data.vocabulary.numbers(tokenize(str(reviews[key]["text"]))[:9]) if key else []
            )
            assert batch["words"][i, : batch["length"][i]].tolist() == expected
            assert not batch["words"][i, batch["length"][i] :].any()
            assert batch["weight"][i] == bool(key)
    # The file's order decides nothing, not even who is held out.
    other = str(write_reviews(tmp_path / "turned.jsonl", toy_reviews(50, 0)[::-1]))
    turned = IMDBDataModule(other, val_fraction=0.2)
    assert {r.key for r in turned.reviews("val") or []} == set(held_out)
    assert torch.equal(torch.tensor(len(turned.vocabulary)), torch.tensor(len(data.vocabulary)))


def test_pad_and_unk_in_texts_are_unknown_words(tmp_path: Path) -> None:
    reviews = [
        review | {"text": f"<unk> <PAD> {review['text']} <unk>"} for review in toy_reviews(40, 0)
    ]
    path = str(write_reviews(tmp_path / "train.jsonl", reviews))
    data = IMDBDataModule(path, batch_size=8, val_fraction=0.2, min_count=1)
    data.setup("fit")
    built = data.vocabulary
    plain = Vocabulary.build([str(r["text"]).replace("<unk>", "").lower() for r in reviews])
    assert set(built.words) <= set(plain.words)
    assert built.words.count("<unk>") == built.words.count("<pad>") == 1
    assert built.numbers(["<unk>", "<pad>"]) == [1, 1]
    assert "<unk>" not in built
    assert "<pad>" not in built
    for batch in data.train_dataloader():
        for row, length in zip(batch["words"], batch["length"].tolist(), strict=True):
            assert not length or row[:2].tolist() == [1, 1]
            assert row[:length].all()  # 0 is padding alone
    with pytest.raises(InputError, match="no word occurs 1 times"):
        Vocabulary.build(["<unk> <pad>"])


def test_a_word_that_says_pad_is_explained_as_an_unknown_one() -> None:
    vocabulary = Vocabulary.build(["a great film"])
    network = LSTMClassifier(len(vocabulary), embedding_size=4, hidden_size=4, depth=1)
    classifier = LSTMTextClassifier(network, vocabulary, 9)
    texts = ["a <pad> film <unk>", "a xylophone film kazoo"]
    words = classifier.words(texts)
    assert words.tokens[0] == ["a", "<pad>", "film", "<unk>"]
    assert [read.known for read in words.read] == [[True, False, True, False]] * 2
    explainer = build_text_explainer("integrated_gradients", classifier, {"steps": 4})
    first, second = explainer.attribute(texts, target=1)
    torch.testing.assert_close(first.values, second.values)
    assert first.probability == second.probability
