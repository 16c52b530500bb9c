"""Bits and accuracy under a bottleneck, against a plain loop over draws of Z."""

import math

import pytest
import torch

from lit_iba import InputError, PerSampleIBA, ReadoutIBA
from lit_iba.explainer import build_explainer
from lit_iba.iba.bottleneck import mask_from_logits
from lit_iba.metrics import build_metric
from lit_iba.metrics.judged import Subject
from lit_iba.randomness import sample_generators
from lit_iba.statistics import estimate_layers

KEYS = ["a", "b", "c", "d"]
TARGETS = torch.tensor([1, 5, 3, 3])


def judged(explainer, images, batches=(4,), **settings):
    metric = build_metric("bits_and_accuracy", settings)
    for part in torch.arange(4).split(list(batches)):
        keys = [KEYS[i] for i in part]
        maps = explainer.attribute(images[part], TARGETS[part], keys=keys).values
        metric.update(
            explainer.classifier,
            images[part],
            TARGETS[part],
            maps,
            keys=keys,
            subject=Subject(explainer, lambda c, _: explainer),
        )
    return metric


def test_rows_are_those_of_a_plain_loop(small_classifier, statistics, images):
    explainer = PerSampleIBA(small_classifier, "layer2", statistics, steps=4, copies=3, beta=1.0)
    rows = judged(explainer, images[:4], samples=6, seed=2).rows()
    mean, std = statistics.mean.float(), statistics.std.float().clamp_min(0.01)
    active = (statistics.active > 0.01).float()
    taps = small_classifier.taps(["layer2"])
    layer = dict(small_classifier.model.named_modules())["layer2"]
    maps = explainer.attribute(images[:4], TARGETS, keys=KEYS)
    for i, key in enumerate(KEYS):
        (own,) = sample_generators(0, [key], images.device)
        r = taps(images[i : i + 1])["layer2"]
        masked = explainer.masked_feature(images[i : i + 1], TARGETS[i : i + 1], [own])
        lam = masked.keep
        bits = -(torch.log2(1 - lam)) + 0.5 * (
            (1 - lam) ** 2 + (lam * (r - mean) / std) ** 2 - 1
        ) / math.log(2)
        assert float(rows["bits"][i]) == pytest.approx(float((bits * active).mean()), rel=1e-3)
        assert float(rows["total_bits"][i]) == pytest.approx(float(maps.total[i]), rel=1e-3)
        (generator,) = sample_generators(2, [f"bits_and_accuracy/{key}"], images.device)
        first = five = 0
        for _ in range(6):
            eps = mean + std * torch.randn(mean.shape, generator=generator)
            z = torch.where(active > 0, lam * r + (1 - lam) * eps, mean)
            handle = layer.register_forward_hook(lambda _m, _i, _o, z=z: z)
            logits = small_classifier(images[i : i + 1])[0]
            handle.remove()
            place = int((logits > logits[TARGETS[i]]).sum())
            first, five = first + (place < 1), five + (place < 5)
        assert float(rows["accuracy_top1"][i]) == pytest.approx(first / 6)
        assert float(rows["accuracy_top5"][i]) == pytest.approx(five / 6)
        logits = small_classifier(images[i : i + 1])[0]
        assert float(rows["original_top1"][i]) == float(logits.argmax() == TARGETS[i])
    assert 0 < float(rows["accuracy_top5"].mean()) < 1 or float(rows["accuracy_top1"].mean()) < 1


def test_neither_batches_nor_the_heatmaps_noise_matter(small_classifier, statistics, images):
    explainer = PerSampleIBA(small_classifier, "layer2", statistics, steps=3, copies=2)
    whole, parts = judged(explainer, images[:4]), judged(explainer, images[:4], (1, 2, 1))
    for row, values in whole.rows().items():
        torch.testing.assert_close(parts.rows()[row], values, rtol=1e-4, atol=1e-4)
    assert parts.compute().score == pytest.approx(whole.compute().score, rel=1e-3)
    assert whole.scores(whole.rows())["score"].mean() == pytest.approx(
        whole.compute().score, rel=1e-5
    )


def test_more_beta_leaves_fewer_bits_and_the_initial_column_is_the_printed_one(
    small_classifier, statistics, images
):
    results = [
        judged(
            PerSampleIBA(small_classifier, "layer2", statistics, beta=beta, copies=2), images[:4]
        ).compute()
        for beta in (0.01, 10.0, 1000.0)
    ]
    assert results[0].score > results[1].score > results[2].score
    assert results[0].extra["accuracy_top1"] >= results[2].extra["accuracy_top1"]
    start = PerSampleIBA(
        small_classifier,
        "layer2",
        statistics,
        steps=1,
        read_after="T-1",
        active_threshold=-1.0,
        smoothing_sigma=0.0,
    )
    masked = start.masked_feature(
        images[:1], TARGETS[:1], sample_generators(0, ["a"], images.device)
    )
    expected, _ = mask_from_logits(torch.full_like(masked.r, 5.0), 0.0, masked.layout)
    assert torch.equal(masked.keep, expected)
    # As if the features were standardised: half of (r - mean)^2 / std^2 is 0.5 then, whatever the
    # images.
    spread = float(((masked.r - masked.noise.mean) / masked.noise.std).square().mean())
    initial = judged(start, images[:4], batches=(1, 1, 1, 1)).rows()["nats_as_printed"][0]
    assert float(initial) - 0.5 * 0.99331**2 * (spread - 1) == pytest.approx(
        2.5, abs=0.01
    )  # S0 table 4, "initial"


def test_a_readout_has_a_bottleneck_and_a_gradient_has_none(small_classifier, images):
    data = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = ["layer1", "layer2", "fc"]
    readout = ReadoutIBA(
        small_classifier,
        "layer2",
        layers,
        estimate_layers(small_classifier, layers, data),
        hidden=(8, 8),
    )
    metric = judged(readout, images[:4], samples=2)
    maps = readout.attribute(images[:4], TARGETS, keys=KEYS)
    torch.testing.assert_close(metric.rows()["total_bits"], maps.total, rtol=1e-4, atol=1e-4)
    assert not any(p.grad is not None for p in readout.network.parameters())
    with pytest.raises(InputError, match="Gradient has none"):
        judged(build_explainer("gradient", small_classifier), images[:4])
