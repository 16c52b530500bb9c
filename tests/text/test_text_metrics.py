"""Metrics of words against loops that remove words one set after the other."""

import copy
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr
from text_toys import toy_reviews

from lit_iba.errors import InputError
from lit_iba.randomness import sample_generators
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.metrics import SensitivityN, build_text_metric

TEXTS = [str(review["text"]) for review in toy_reviews(5, 11)] + ["great"]


@pytest.fixture(scope="module")
def case(toy_classifier: TextClassifier) -> dict[str, Any]:
    words = toy_classifier.words(TEXTS)
    values = [
        torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in words.lengths.tolist()
    ]
    constant = [torch.ones(n) for n in words.lengths.tolist()]
    return {
        "words": words,
        "targets": torch.tensor([0, 1, 1, 1, 0, 1]),
        "heatmaps": {"a": values, "flat": constant},
    }


def logits_without(
    classifier: TextClassifier, text: str, gone: list[int], baseline: str
) -> torch.Tensor:
    """Words replaced in the text itself, or their embeddings by zeros."""
    words = classifier.words([text])
    if baseline == "unk":
        words.numbers[0, gone] = 1
        return classifier.network(words.numbers, words.lengths)[0]
    embeddings = classifier.network.embedding(words.numbers)
    embeddings[0, gone] = 0
    return classifier.network.head(classifier.network.layers(embeddings, 0, 4), words.lengths)[0]


@pytest.mark.parametrize("baseline", ["unk", "zero"])
def test_sensitivity_n_is_the_loop(
    baseline: str, toy_classifier: TextClassifier, case: dict[str, Any]
) -> None:
    metric = SensitivityN((20, 50), masks=12, baseline=baseline, forward_batch_size=7)
    keys = list("abcdef")
    rows = metric.rows(
        toy_classifier, **case, generators=sample_generators(0, keys, torch.device("cpu"))
    )
    assert not rows["flat"].any()  # all sets of a size have the same sum
    for i, (text, key) in enumerate(zip(TEXTS, keys, strict=True)):
        sets = metric.sets(
            len(case["words"].tokens[i]), sample_generators(0, [key], torch.device("cpu"))[0]
        )
        whole = logits_without(toy_classifier, text, [], baseline)[case["targets"][i]]
        for k, percent in enumerate((20, 50)):
            wanted = max(1, round(len(case["words"].tokens[i]) * percent / 100))
            sums, drops = [], []
            for chosen in sets[k]:
                gone = chosen.nonzero().flatten().tolist()
                assert len(gone) == wanted
                sums.append(float(case["heatmaps"]["a"][i][gone].sum()))
                drops.append(
                    float(
                        whole
                        - logits_without(toy_classifier, text, gone, baseline)[case["targets"][i]]
                    )
                )
            expected = pearsonr(sums, drops).statistic if len(case["words"].tokens[i]) > 1 else 0.0
            assert float(rows["a"][i, k]) == pytest.approx(expected, abs=1e-4)
    assert float(metric.scores(rows["a"])[0]) == pytest.approx(float(rows["a"][0].mean()))


@pytest.mark.parametrize("name", ["insertion", "deletion"])
@pytest.mark.parametrize("baseline", ["unk", "zero"])
def test_insertion_and_deletion_are_the_loop(
    name: str, baseline: str, toy_classifier: TextClassifier, case: dict[str, Any]
) -> None:
    metric = build_text_metric(name, {"points": 4, "baseline": baseline, "forward_batch_size": 5})
    rows = metric.rows(toy_classifier, **case, generators=[])["a"]
    for i, text in enumerate(TEXTS):
        values = case["heatmaps"]["a"][i].tolist()
        order = sorted(range(len(values)), key=lambda j: -values[j])
        curve = []
        for point in range(5):
            touched = order[: round(point * len(values) / 4)]
            gone = [j for j in order if j not in touched] if name == "insertion" else touched
            logits = logits_without(toy_classifier, text, gone, baseline)
            curve.append(float(logits.softmax(dim=0)[case["targets"][i]]))
        torch.testing.assert_close(rows[i], torch.tensor(curve), rtol=1e-4, atol=1e-5)
        area = sum((curve[k] + curve[k + 1]) / 2 for k in range(4)) / 4
        assert float(metric.scores(rows)[i]) == pytest.approx(area, abs=1e-5)
    result = metric.summarize(rows)
    scores = metric.scores(rows)
    assert result.score == pytest.approx(float(scores.mean()))
    assert result.standard_error == pytest.approx(float(scores.std() / len(TEXTS) ** 0.5))


def test_rows_depend_neither_on_the_batch_nor_on_its_size(
    toy_classifier: TextClassifier, case: dict[str, Any]
) -> None:
    metric = SensitivityN((30, 60), masks=9)
    generators = lambda keys: sample_generators(3, keys, torch.device("cpu"))  # noqa: E731
    together = metric.rows(toy_classifier, **case, generators=generators(list("abcdef")))["a"]
    alone = copy.copy(case) | {
        "words": toy_classifier.words(TEXTS[2:3]),
        "targets": case["targets"][2:3],
    }
    alone["heatmaps"] = {"a": case["heatmaps"]["a"][2:3]}
    torch.testing.assert_close(
        metric.rows(toy_classifier, **alone, generators=generators(["c"]))["a"][0],
        together[2],
        rtol=1e-3,
        atol=1e-3,
    )


def test_settings_are_checked() -> None:
    for name, settings, message in [
        ("sensitivity", {}, "did you mean 'sensitivity_n'"),
        ("sensitivity_n", {"masks": 1}, "masks 1"),
        ("sensitivity_n", {"percents": [0]}, r"percents \[0\]"),
        ("insertion", {"baseline": "blur"}, "baseline is 'blur'"),
        ("deletion", {"points": 0}, "points is 0"),
        ("deletion", {"steps": 3}, "'steps' is not a known setting of deletion; known: base"),
    ]:
        with pytest.raises(InputError, match=message):
            build_text_metric(name, settings)


@pytest.mark.parametrize("name", ["deletion", "sensitivity_n"])
def test_a_callers_autocast_changes_no_score(
    name: str, toy_classifier: TextClassifier, case: dict[str, Any]
) -> None:
    found = []
    for cast in (False, True):
        generators = sample_generators(0, list("abcdef"), torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            metric = build_text_metric(name, {})
            found.append(metric.rows(toy_classifier, **case, generators=generators))
    for method, wanted in found[0].items():
        torch.testing.assert_close(found[1][method], wanted, rtol=0, atol=0, equal_nan=True)
