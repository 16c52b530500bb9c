"""The weight of the information found by bisection: it keeps what is wanted, and nothing else is
other than with that weight.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, InputError, PerSampleIBA
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.iba.auto_beta import search_beta
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.randomness import sample_generators

KEYS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def sure(images: Tensor) -> FrozenClassifier:
    """A random network with a last layer that tells three images apart, each the more surely."""
    torch.manual_seed(0)
    model, seen = SmallCNN().eval(), []
    handle = model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images)
        handle.remove()
        mean = seen[0].mean(dim=0)
        apart = seen[0][:3] - mean
        apart *= torch.tensor([[4.0], [5.0], [6.0]]) / apart.square().sum(dim=1, keepdim=True)
        model.fc.weight.zero_()[:3] = apart
        model.fc.bias.zero_()[:3] = -apart @ mean
    return FrozenClassifier(model)


@pytest.fixture(scope="module")
def targets() -> Tensor:
    return torch.arange(3)


@pytest.fixture(scope="module")
def measured(sure: FrozenClassifier) -> FeatureStatistics:
    samples = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    return FeatureStatistics.estimate(sure, "layer2", samples)


def iba(sure: FrozenClassifier, measured: FeatureStatistics, **settings: Any) -> PerSampleIBA:
    return PerSampleIBA(sure, "layer2", measured, **{"steps": 6, "copies": 4, **settings})


def masked(explainer: PerSampleIBA, images: Tensor, targets: Tensor, *keys: str) -> MaskedFeature:
    return explainer.masked_feature(images, targets, sample_generators(0, keys, images.device))


def test_the_search_finds_the_largest_weight_that_keeps_it() -> None:
    bounds = torch.tensor([0.01, 0.5, 10.0, 200.0, 1e6])  # kept up to this weight
    tried = []

    def solve(beta: Tensor) -> Tensor:
        tried.append(beta)
        return beta.view(-1, 1, 1).expand(-1, 2, 3)

    alpha, beta = search_beta(solve, lambda a: (a[:, 0, 0] <= bounds).float(), torch.ones(5), 8)
    assert len(tried) == 8
    assert torch.equal(tried[0], torch.full((5,), 10.0))
    assert torch.equal(alpha[:, 0, 0], beta)
    within = 10 ** (4 / 2**8)
    assert (beta[1:4] <= bounds[1:4]).all()
    assert (beta[1:4] * within * 1.001 >= bounds[1:4]).all()
    assert beta[0] == pytest.approx(0.1 * within, rel=1e-4)  # the smallest that was tried
    assert beta[4] == pytest.approx(1000 / within, rel=1e-4)


@pytest.mark.slow
def test_the_wanted_probability_is_kept_and_hardly_more(
    sure: FrozenClassifier, measured: FeatureStatistics, images: Tensor, targets: Tensor
) -> None:
    def kept(state: MaskedFeature) -> Tensor:
        """Over many draws, whatever was drawn while searching."""
        generators = sample_generators(1, KEYS, images.device)
        drawn = [state.logits(generators).softmax(1).gather(1, targets[:, None]) for _ in range(40)]
        return torch.cat(drawn, dim=1).mean(dim=1)

    with torch.no_grad():
        own = sure(images[:3]).softmax(dim=1).diagonal()
    assert (own > 0.8).all()
    more, less = (
        masked(iba(sure, measured, beta="auto", wanted_probability=p), images[:3], targets, *KEYS)
        for p in (0.7, 0.3)
    )
    assert torch.allclose(kept(more), torch.tensor(0.7), atol=0.12)
    assert torch.allclose(kept(less), torch.tensor(0.3), atol=0.12)
    assert (more.nats.flatten(1).sum(1) > less.nats.flatten(1).sum(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("read_after", ["T", "T-1"])
def test_the_map_is_that_of_the_weight_found_in_any_batch(
    sure: FrozenClassifier,
    measured: FeatureStatistics,
    images: Tensor,
    targets: Tensor,
    read_after: str,
) -> None:
    auto = iba(sure, measured, beta="auto", beta_probes=4, read_after=read_after)
    beta = masked(auto, images[:3], targets, *KEYS).beta
    assert beta is not None
    assert len(set(beta.tolist())) > 1
    together = auto.attribute(images[:3], targets, keys=KEYS).values
    for i, key in enumerate(KEYS):
        one = images[i : i + 1], int(targets[i])
        alone = auto.attribute(*one, keys=[key]).values[0]
        given = iba(sure, measured, beta=float(beta[i]), read_after=read_after)
        fixed = given.attribute(*one, keys=[key]).values[0]
        assert torch.equal(alone, fixed)
        assert torch.allclose(together[i], alone, rtol=1e-4, atol=1e-5 * float(alone.max()))


def test_what_a_search_costs_is_bounded(
    sure: FrozenClassifier, measured: FeatureStatistics, images: Tensor, targets: Tensor
) -> None:
    auto = iba(sure, measured, beta="auto", beta_probes=3)
    passes, tail = [], auto.tail
    auto.tail = lambda z, carried: passes.append(len(z)) or tail(z, carried)
    auto.attribute(images[:3], targets)
    assert passes == [3] + 3 * (6 + 1) * [4 * 3]  # once as it is; the steps and a look, each time


def test_a_target_that_has_less_is_to_keep_that(
    sure: FrozenClassifier, measured: FeatureStatistics, images: Tensor, targets: Tensor
) -> None:
    other = (targets + 1) % 10
    found = masked(iba(sure, measured, beta="auto"), images[:3], other, *KEYS)
    assert found.beta is not None
    assert (found.beta > 10).all()  # next to nothing is to be kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": "autp"}, "beta is 'autp'; it must be a number or 'auto'"),
        ({"beta": "auto", "wanted_probability": 1.0}, "must lie between 0 and 1"),
        ({"beta": "auto", "beta_probes": 0}, "beta_probes is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_named(
    sure: FrozenClassifier, measured: FeatureStatistics, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        iba(sure, measured, **settings)
