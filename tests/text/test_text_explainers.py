"""Explainers of texts: planted words are found, no text depends on its batch, and the
mathematics.
"""

import copy
from typing import Any

import pytest
import torch
from text_toys import BAD, GOOD, toy_reviews
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.iba.bottleneck import NATS_PER_BIT
from lit_iba.randomness import sample_generators
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.explainer import TextExplainer, build_text_explainer
from lit_iba.text.input_iba import WordCritics
from lit_iba.text.lstm import LSTMClassifier
from lit_iba.text.lstm_classifier import LSTMTextClassifier
from lit_iba.text.words import Words

Statistics = dict[int, FeatureStatistics]
TEXTS = [str(review["text"]) for review in toy_reviews(12, 7)]
# The toy's texts have some 10 words of 12 dimensions, reviews 230 of 100: with the mean over a
# text's elements as in the paper, the same price per element is a smaller beta.
METHODS: dict[str, dict[str, Any]] = {
    "input_iba": {"beta_feat": 1.0, "beta_input": 1.0, "generator_steps": 12},
    "input_iba_without_gan": {"beta_feat": 1.0, "beta_input": 1.0, "gan": "none"},
    "iba": {"layer": 1, "beta": 1.0},
    "integrated_gradients": {"steps": 20},
    "lime": {"samples": 200},
    "random": {},
    "constant": {},
    "position": {},
}
SURE = ("integrated_gradients", "constant", "position")  # nothing random in them


class Given:
    """Statistics that are there already."""

    def __init__(self, statistics: Statistics) -> None:
        self.found = statistics

    def statistics(self, classifier: TextClassifier, layer: int) -> FeatureStatistics:
        return self.found[layer]


def build(
    method: str, classifier: TextClassifier, statistics: Statistics, **more: Any
) -> TextExplainer:
    name = method.removesuffix("_without_gan")
    return build_text_explainer(name, classifier, METHODS[method] | more, Given(statistics))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["input_iba", "input_iba_without_gan", "integrated_gradients", "lime"]
)
def test_the_word_that_decides_is_found(
    method: str, toy_classifier: LSTMTextClassifier, toy_statistics: Statistics
) -> None:
    texts = TEXTS[:6] if method == "input_iba" else TEXTS  # the GAN takes them one by one
    found = build(method, toy_classifier, toy_statistics).attribute(texts)
    hits = [heatmap.highest(1)[0][0] in (GOOD if heatmap.target else BAD) for heatmap in found]
    assert sum(hits) >= len(texts) - 1, [heatmap.highest(2) for heatmap in found]


@pytest.mark.parametrize("method", METHODS)
def test_a_text_does_not_depend_on_its_batch(
    method: str, toy_classifier: LSTMTextClassifier, toy_statistics: Statistics
) -> None:
    few = {"generator_steps": 4, "steps": 8} if method == "input_iba" else {}
    explainer = build(method, toy_classifier, toy_statistics, **few)
    texts = sorted(TEXTS, key=len)[::4]
    before = copy.deepcopy(toy_classifier.network.state_dict())
    together = explainer.attribute(texts)
    tolerance = (
        0 if method == "input_iba" else 1e-5
    )  # the GAN makes percents of a rounding: there must be no other rounding
    for text, expected in zip(texts, together, strict=True):
        alone = explainer.attribute([text])[0]
        assert alone.tokens == expected.tokens
        torch.testing.assert_close(
            alone.values,
            expected.values,
            rtol=tolerance,
            atol=tolerance * float(expected.values.abs().max()),
        )
    for name, values in toy_classifier.network.state_dict().items():
        assert torch.equal(values, before[name])
    assert all(p.grad is None and not p.requires_grad for p in toy_classifier.network.parameters())
    other = build(method, toy_classifier, toy_statistics, seed=1, **few).attribute(texts)
    assert torch.equal(other[0].values, together[0].values) == (method in SURE)


def test_statistics_are_over_words_and_leave_out_padding(
    toy_classifier: LSTMTextClassifier, toy_statistics: Statistics
) -> None:
    network, every = toy_classifier.network, {0: [], 4: []}  # type: dict[int, list[Tensor]]
    for review in toy_reviews(100, 0):
        numbers = toy_classifier.words([str(review["text"])]).numbers
        embeddings = network.embedding(numbers)
        every[0].append(embeddings[0])
        every[4].append(network.layers(embeddings, 0, 4)[0])
    for layer, parts in every.items():
        words = torch.cat(parts).double()
        assert toy_statistics[layer].count == len(words)
        torch.testing.assert_close(
            toy_statistics[layer].mean, words.mean(dim=0), rtol=1e-5, atol=1e-7
        )
        torch.testing.assert_close(
            toy_statistics[layer].std, words.std(dim=0), rtol=1e-5, atol=1e-7
        )


def test_input_iba_is_the_plain_loop_of_its_mathematics(
    toy_classifier: LSTMTextClassifier, toy_statistics: Statistics
) -> None:
    """One text, one noise copy after the other, proposition 3 as a KL divergence of torch's normal
    distributions.
    """
    settings = {
        "gan": "none",
        "beta_feat": 2.0,
        "beta_input": 3.0,
        "steps": 4,
        "feature_steps": 3,
        "copies": 2,
        "layer": 3,
    }
    explainer = build_text_explainer("input_iba", toy_classifier, settings, Given(toy_statistics))
    found = explainer.attribute(
        [TEXTS[0], TEXTS[1] + " near the house"], target=1, keys=["a", "b"]
    )[0].values

    words = toy_classifier.words([TEXTS[0]])
    generator = sample_generators(0, ["a"], torch.device("cpu"))[0]
    network, length = toy_classifier.network, len(words.tokens[0])
    embeddings = network.embedding(words.numbers)[0].detach()  # (T, D)

    def fitted(
        i: Tensor, layer: int, g: Tensor, beta: float, steps: int, rate: float
    ) -> tuple[Tensor, Tensor]:
        mean = toy_statistics[layer].mean.float()
        std = toy_statistics[layer].std.clamp_min(0.01).float()
        alpha = torch.full_like(i, 5.0, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=rate)

        def divergence() -> Tensor:
            mask = torch.sigmoid(alpha)
            p = torch.distributions.Normal(mask * i + (1 - mask) * mean, (1 - mask) * std)
            q = torch.distributions.Normal(
                g * mask * i + (1 - g * mask) * mean, (1 - g * mask) * std
            )
            return torch.distributions.kl_divergence(p, q)

        for _ in range(steps):
            noise = torch.randn((2, *i.shape), generator=generator)
            mask, loss = torch.sigmoid(alpha), beta * divergence().mean()
            for copy_noise in noise:
                z = mask * i + (1 - mask) * (mean + std * copy_noise)
                logits = network.head(network.layers(z[None], layer, 4), torch.tensor([length]))
                loss = loss - logits.log_softmax(dim=1)[0, 1] / 2
            adam.zero_grad()
            loss.backward()
            adam.step()
        return alpha.detach(), divergence().detach().sum(dim=1) / NATS_PER_BIT

    features = network.layers(embeddings[None], 0, 3)[0]
    _, bits = fitted(features, 3, torch.zeros(()), 2.0, 3, 1.0)
    prior = (0.05 + 0.9 * bits / bits.max())[:, None]
    _, expected = fitted(embeddings, 0, prior, 3.0, 4, 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_every_text_has_its_own_critic(toy_classifier: LSTMTextClassifier) -> None:
    words = toy_classifier.words(TEXTS[:3])
    critics = WordCritics(words, 5, 4, sample_generators(0, ["a", "b", "c"], torch.device("cpu")))
    features = torch.randn(2, 3, words.numbers.shape[1], 5) * words.mask[..., None]
    scores = critics(features)
    for i, length in enumerate(words.lengths.tolist()):
        mixing, looking = (
            critics.mixing[4 * i : 4 * i + 4, :, 0],
            critics.looking[4 * i : 4 * i + 4],
        )
        for s in range(2):
            x = torch.nn.functional.leaky_relu(
                features[s, i, :length] @ mixing.T, 0.2
            )  # (T, width)
            around = torch.cat([torch.zeros(1, 4), x, torch.zeros(1, 4)])
            y = torch.stack(
                [torch.einsum("oik,ki->o", looking, around[t : t + 3]) for t in range(length)]
            )
            expected = (
                torch.nn.functional.leaky_relu(y, 0.2) * critics.weighing[i, :, :length].T
            ).sum()
            torch.testing.assert_close(scores[s, i], expected)


def test_integrated_gradients_are_complete(toy_classifier: LSTMTextClassifier) -> None:
    for baseline in ("unk", "zero"):
        explainer = build_text_explainer(
            "integrated_gradients", toy_classifier, {"steps": 500, "baseline": baseline}
        )
        words = toy_classifier.words(TEXTS[:4])
        embeddings = toy_classifier.embeddings(words)
        logits = toy_classifier.logits(embeddings, words)
        empty = toy_classifier.logits(toy_classifier.fill(baseline).expand_as(embeddings), words)
        for i, heatmap in enumerate(explainer.attribute(TEXTS[:4])):
            promised = float(logits[i, heatmap.target] - empty[i, heatmap.target])
            # What is missing is the sum's distance from the integral: the toy's cells switch within
            # a small part of the path.
            assert heatmap.total == pytest.approx(promised, rel=0.02, abs=0.02)


def test_lime_without_penalty_finds_the_weights_of_a_linear_classifier(
    toy_classifier: LSTMTextClassifier,
) -> None:
    class Linear(LSTMTextClassifier):
        def logits(self, features: Tensor, words: Words, layer: int = 0) -> Tensor:
            return features[..., 0].sum(dim=1)[:, None] * torch.tensor([-1.0, 1.0])

    torch.manual_seed(0)
    network = LSTMClassifier(len(toy_classifier.vocabulary), embedding_size=3, hidden_size=2)
    classifier = Linear(network, toy_classifier.vocabulary, 50)
    explainer = build_text_explainer(
        "lime", classifier, {"samples": 100, "score": "logit", "penalty": 0.0}
    )
    embeddings = classifier.embeddings(classifier.words(TEXTS[:1]))[0, :, 0]
    expected = embeddings - classifier.fill("unk")[0]
    torch.testing.assert_close(
        explainer.attribute(TEXTS[:1], 1)[0].values, expected, rtol=1e-4, atol=1e-5
    )


def test_what_is_wrong_is_said(
    toy_classifier: LSTMTextClassifier, toy_statistics: Statistics
) -> None:
    given = Given(toy_statistics)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("imput_iba", {}, "did you mean 'input_iba'"),
        ("input_iba", {"beta_imput": 1.0}, "did you mean 'beta_input'"),
        ("input_iba", {"gan": "maybe"}, "gan is 'maybe'"),
        ("iba", {"layer": 5}, "LSTM layers 1 to 4"),
        ("iba", {"statistics": toy_statistics[2]}, "layer 4 is asked for"),
        ("iba", {"steps": 0}, "steps is 0"),
        ("lime", {"baseline": "mean"}, "baseline is 'mean'"),
        ("integrated_gradients", {"points": 3}, "'points' is not a known setting"),
    ]
    for name, settings, message in cases:
        with pytest.raises(InputError, match=message):
            build_text_explainer(name, toy_classifier, settings, given)
    with pytest.raises(InputError, match="needs statistics"):
        build_text_explainer("iba", toy_classifier)
    with pytest.raises(InputError, match="text 2 has no words"):
        build_text_explainer("random", toy_classifier).attribute(["fine", " "])
    with pytest.raises(InputError, match="target class 2 is out of range"):
        build_text_explainer("random", toy_classifier).attribute(["fine"], 2)
    last = LSTMClassifier(
        len(toy_classifier.vocabulary), embedding_size=12, hidden_size=16, pooling="last"
    )
    other = LSTMTextClassifier(last, toy_classifier.vocabulary, 50)
    with pytest.raises(InputError, match="read at the last word only"):
        build_text_explainer("iba", other, {"statistics": toy_statistics[4]})
    with pytest.raises(InputError, match="another classifier"):
        build_text_explainer("iba", other, {"statistics": toy_statistics[1], "layer": 1})
