"""Latency: passes counted against known numbers, memory against hand-counted tensors, and a clock
that can be trusted.
"""

import time

import pytest
import torch
from explainer_toys import Edges, shuffled
from metric_toys import sample
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer

from lit_iba import FrozenClassifier, InputError, PerSampleIBA
from lit_iba.classifier import Preprocessing
from lit_iba.explainer import build_explainer
from lit_iba.metrics import build_metric
from lit_iba.metrics.judged import Subject
from lit_iba.metrics.latency import Ledger, operations_of_a_pass


def measured(explainer, images, targets, **settings):
    metric = build_metric("latency", settings)
    maps = torch.zeros(len(images), *images.shape[-2:])
    metric.update(
        explainer.classifier,
        images,
        targets,
        maps,
        subject=Subject(explainer, lambda c, _: explainer),
    )
    return metric


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_operations_are_those_of_torchs_own_counter(name):
    classifier = FrozenClassifier(name, "random")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(image)
    assert operations_of_a_pass(classifier, image) == counter.get_total_flops() > 1e9
    with torch.inference_mode(), Ledger() as ledger:
        classifier(image)
    assert ledger.forward == counter.get_total_flops()


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("make", [Encoder, lambda: VisionTransformer(32, 8, 2, 2, 16, 24)])
def test_a_pass_of_a_transformer_is_one_with_gradients_and_without(make):
    classifier = FrozenClassifier(make(), preprocessing=Preprocessing(crop=32))
    images = torch.randn(3, 3, 32, 32)
    bare = operations_of_a_pass(classifier, images)
    for run in (classifier, classifier.folded()):
        for wanted in (True, False):
            with Ledger() as ledger, torch.set_grad_enabled(wanted):
                run(images.clone().requires_grad_(wanted))
            assert ledger.forward == 3 * bare


def test_passes_are_counted_forward_and_backward():
    images, targets, _ = sample(3)
    classifier = shuffled()
    for name, settings, passes in (
        ("gradient", {}, 1),
        ("integrated_gradients", {"steps": 7}, 7),
        ("smoothgrad", {"samples": 5}, 5),
    ):
        explainer = build_explainer(name, classifier, settings)
        scores = measured(explainer, images, targets, batch_size=2, repeats=1).compute().extra
        assert scores["forward_passes"] == pytest.approx(passes), name
        assert scores["backward_passes"] == pytest.approx(passes), name
    none = measured(Edges(classifier), images, targets).compute().extra
    assert none["forward_passes"] == none["backward_passes"] == none["gigaflop"] == 0
    occlusion = measured(build_explainer("occlusion", classifier, {"tile": 4}), images, targets)
    assert occlusion.compute().extra["forward_passes"] == pytest.approx(9 + 1, abs=1)
    assert occlusion.compute().extra["backward_passes"] == 0


def test_a_bottleneck_runs_only_the_layers_behind_it(small_classifier, statistics, images):
    explainer = PerSampleIBA(
        small_classifier, "layer2", statistics, steps=3, copies=2, smoothing_sigma=0.0
    )
    scores = measured(explainer, images[:1], torch.tensor([1])).compute().extra
    behind = small_classifier.split("layer2")
    r, carried = behind.head(images[:1])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        behind.tail(r, carried)
    share = counter.get_total_flops() / operations_of_a_pass(small_classifier, images)
    assert scores["forward_passes"] == pytest.approx((1 - share) + 3 * 2 * share, rel=1e-3)
    assert scores["backward_passes"] == pytest.approx(3 * 2 * share, rel=1e-3)


def test_memory_is_that_of_the_tensors_alive_at_once():
    given = torch.zeros(500)
    with Ledger() as ledger:
        a = given + 1  # 2000 bytes
        view = a.view(5, 100)
        b = view * 2  # 4000
        del a
        c = b + view  # 6000
        del view, b  # 2000
        given.view(-1).t()  # made outside
        c.add_(1)
    assert (ledger.peak, ledger.bytes) == (6000, 2000)
    del c
    assert ledger.bytes == 0
    images, targets, _ = sample(1)
    peak = measured(build_explainer("gradient", shuffled()), images, targets).rows()["peak_bytes"]
    assert 6 * 12 * 12 * 4 * 3 < float(peak) < 1e6


class Sleeper(Edges):
    """Takes long the first time, and then a known time per image."""

    calls = 0

    def explain(self, images, targets, generators):
        type(self).calls += 1
        time.sleep(0.5 if self.calls == 1 else 0.02 * len(images))
        return super().explain(images, targets, generators)


def test_seconds_are_an_images_median_after_warming_up():
    images, targets, _ = sample(5)
    Sleeper.calls = 0
    metric = measured(Sleeper(shuffled()), images, targets, batch_size=2, repeats=3)
    result = metric.compute()
    assert Sleeper.calls == 1 + 3 * (3 + 1)
    assert metric.rows()["together"].tolist() == [2, 2, 2, 2, 1]
    assert 0.018 < result.score < 0.06
    assert result.n == 5
    assert result.extra["median_seconds"] == pytest.approx(result.score, rel=0.5)
    with pytest.raises(InputError, match="repeats"):
        build_metric("latency", {"repeats": 0})


def test_the_median_of_two_is_between_them():
    metric = build_metric("latency")
    rows = {name: torch.ones(2) for name in metric.scalars}
    rows["seconds"] = torch.tensor([1.0, 3.0])
    assert metric.summarize(rows).extra["median_seconds"] == 2
