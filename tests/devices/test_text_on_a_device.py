"""The explainers and metrics of texts on a device."""

from typing import Any

import pytest
import second_device
import torch

from lit_iba.randomness import sample_generators
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.explainer import TEXT_EXPLAINERS, build_text_explainer
from lit_iba.text.iba import word_statistics
from lit_iba.text.lstm import LSTMClassifier
from lit_iba.text.lstm_classifier import LSTMTextClassifier
from lit_iba.text.metrics import TEXT_METRICS, build_text_metric
from lit_iba.text.vocabulary import Vocabulary

TEXTS = ["the film was great", "a boring house near the river", "great"]
SETTINGS: dict[str, dict[str, Any]] = {
    "input_iba": {"generator_steps": 1, "steps": 2, "feature_steps": 2},
    "iba": {"layer": 1},
    "integrated_gradients": {"steps": 3},
    "lime": {"samples": 20},
}


@pytest.fixture(autouse=True)
def single_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """An LSTM that the device can run."""
    monkeypatch.setattr(torch._VF, "lstm", second_device.lstm, raising=False)


def classifier(device: torch.device | str) -> TextClassifier:
    vocabulary = Vocabulary.build(TEXTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LSTMClassifier(len(vocabulary), embedding_size=6, hidden_size=8, depth=2)
    return LSTMTextClassifier(network.to(device), vocabulary, 50)


class Nearby:
    """Statistics of the texts themselves."""

    def statistics(self, classifier: TextClassifier, layer: int) -> FeatureStatistics:
        return word_statistics(classifier, TEXTS, [layer])[layer]


@pytest.mark.parametrize("name", TEXT_EXPLAINERS)
def test_a_text_explainer_gives_on_a_device_what_it_gives_on_the_cpu(
    name: str, device: torch.device
) -> None:
    found, expected = (
        build_text_explainer(name, classifier(where), SETTINGS.get(name), Nearby()).attribute(
            TEXTS, 1
        )
        for where in (device, "cpu")
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one.values, other.values, rtol=1e-2, atol=1e-2 * float(other.values.abs().max())
        )


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_a_text_metric_gives_on_a_device_what_it_gives_on_the_cpu(
    name: str, device: torch.device
) -> None:
    settings = {"masks": 3} if name == "sensitivity_n" else {"points": 3}
    rows = []
    for where in (device, torch.device("cpu")):
        judge, texts = build_text_metric(name, settings), classifier(where).words(TEXTS)
        maps = {"a": [torch.arange(float(len(tokens))) for tokens in texts.tokens]}
        targets, generators = (
            torch.tensor([0, 1, 1], device=where),
            sample_generators(0, ["a", "b", "c"], where),
        )
        rows.append(judge.rows(classifier(where), texts, targets, maps, generators)["a"])
    torch.testing.assert_close(rows[0].cpu(), rows[1], rtol=1e-2, atol=1e-3)
