"""Streaming statistics equal the direct ones, in any order and any grouping."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_iba import FeatureStatistics, FrozenClassifier, InputError


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 99),
)
def test_streaming_and_merging_give_the_direct_mean_and_deviation(
    sizes: list[int], offset: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [
        torch.randn(n, 3, 2, generator=generator, dtype=torch.float64) + offset for n in sizes
    ]
    everything = torch.cat(batches)
    streamed, halves = FeatureStatistics((3, 2)), [FeatureStatistics((3, 2)) for _ in range(2)]
    for i, batch in enumerate(batches):
        streamed.update(batch)
        halves[i % 2].update(batch)
    halves[1].merge(halves[0])
    for found in (streamed, halves[1]):
        assert found.count == len(everything)
        assert torch.allclose(found.mean, everything.mean(dim=0), rtol=1e-12)
        if len(everything) > 1:
            assert torch.allclose(found.std, everything.std(dim=0), rtol=1e-8)


def test_estimate_runs_the_classifier_up_to_the_layer(tmp_path: Path) -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    images = torch.randn(10, 3, 64, 64)
    statistics = FeatureStatistics.estimate(classifier, "layer2", images, batch_size=3)
    expected = classifier.model.layer2(classifier.model.layer1(images))
    assert torch.allclose(statistics.mean, expected.double().mean(dim=0), atol=1e-6)
    assert torch.allclose(statistics.active, (expected != 0).double().mean(dim=0))
    nonzero_rms = (
        expected.double().square().sum(dim=0) / (expected != 0).sum(dim=0).clamp_min(1)
    ).sqrt()
    assert torch.allclose(statistics.rms_of_nonzero, nonzero_rms, atol=1e-6)
    statistics.save(tmp_path / "s.safetensors")
    loaded = FeatureStatistics.load(tmp_path / "s.safetensors", classifier, "layer2")
    assert torch.equal(loaded.mean, statistics.mean)
    assert loaded.identity == statistics.identity


def test_statistics_of_something_else_are_refused(tmp_path: Path) -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    other = FrozenClassifier(
        classifier.model.__class__(10, width=8), preprocessing=classifier.preprocessing
    )
    path = tmp_path / "s.safetensors"
    FeatureStatistics.estimate(classifier, "layer2", torch.randn(2, 3, 64, 64)).save(path)
    with pytest.raises(InputError, match=r"s\.safetensors was made with small_cnn"):
        FeatureStatistics.load(path, other, "layer2")
    with pytest.raises(InputError, match="behind layer 'layer2', but 'layer1'"):
        FeatureStatistics.load(path, classifier, "layer1")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"s\.safetensors is damaged"):
        FeatureStatistics.load(path)
    with pytest.raises(InputError, match="no images"):
        FeatureStatistics.estimate(classifier, "layer2", [])
