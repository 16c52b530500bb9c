"""Streaming statistics equal the direct ones, in any order and any grouping."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, InputError
from lit_iba.classifier import Layout


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


def test_pooled_statistics_are_those_of_all_positions_of_a_channel() -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    images = torch.randn(3, 3, 64, 64)
    features = classifier.model.layer2(classifier.model.layer1(images)).double()
    every = features.movedim(1, 0).flatten(1)  # (channels, images and positions)
    found = FeatureStatistics.estimate(classifier, "layer2", images, batch_size=2, pooled=True)
    assert found.shape == features.shape[1:]
    assert torch.allclose(
        found.mean, every.mean(dim=1)[:, None, None].expand(found.shape), atol=1e-6
    )
    assert torch.allclose(found.std, every.std(dim=1)[:, None, None].expand(found.shape), atol=1e-6)
    active = (every != 0).double().mean(dim=1)
    assert torch.allclose(found.active, active[:, None, None].expand(found.shape))
    pixels = FeatureStatistics.estimate(classifier, "input", images, pooled=True)
    colours = images.double().movedim(1, 0).flatten(1)
    assert torch.allclose(pixels.std[:, 5, 7], colours.std(dim=1), atol=1e-6)


def test_tokens_without_a_position_get_the_statistics_of_the_others() -> None:
    statistics = FeatureStatistics((1 + 4, 6))
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    tokens[:, 0] = 100.0  # the class token
    statistics.update(tokens)
    pooled = statistics.pooled(Layout("BTC", 2, 2, prefix=1))
    assert torch.allclose(pooled.mean, tokens[:, 1:].mean(dim=(0, 1)).expand(5, 6))
    assert torch.allclose(pooled.std, tokens[:, 1:].flatten(0, 1).std(dim=0).expand(5, 6))


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


def test_what_is_no_batch_of_images_is_refused_in_one_sentence(
    small_classifier: FrozenClassifier, images: Tensor, statistics: FeatureStatistics
) -> None:
    """Pictures of 0 to 255 would be measured as they are, and give noise of that size."""
    pictures = (images * 255).to(torch.uint8)
    cases: dict[str, Any] = {
        r"batch of images is a tuple; give .*images for images, labels": [(images, torch.zeros(6))],
        "batch of images is a dict": [{"image": images}],
        "normalised .*got torch.uint8": pictures,
        r"float tensor \(B, 3, H, W\)": images[0],
        r"of the batch contains NaN": images * torch.nan,
        r"\(64, 8, 8\) do not fit statistics of \(64, 16, 16\)": [images, images[..., ::2, ::2]],
    }
    for message, wrong in cases.items():
        with pytest.raises(InputError, match=message):
            FeatureStatistics.estimate(small_classifier, "layer2", wrong)
    with pytest.raises(InputError, match="batch_size is 0"):
        FeatureStatistics.estimate(small_classifier, "layer2", images, batch_size=0)
    with pytest.raises(InputError, match="do not fit statistics"):
        FeatureStatistics((3,)).merge(statistics)
