"""Prediction difference analysis: its Gaussians against dense formulas, its map against a plain
loop over windows.
"""

import math
from pathlib import Path

import pytest
import torch
from counterfactual_toys import curved, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from lit_iba import InputError, Preprocessing, build_explainer
from lit_iba.baselines.patches import PatchStatistics
from lit_iba.baselines.pda import PDA
from lit_iba.baselines.window_samplers import WindowConditional
from lit_iba.data import write_shards
from lit_iba.data.quickstart import quickstart_samples
from lit_iba.evaluation import StoredStatistics
from lit_iba.randomness import sample_generators


def smooth_pictures(count: int, side: int) -> Tensor:
    """Pictures whose neighbouring pixels have to do with each other."""
    return torch.nn.functional.avg_pool2d(3 * pictures(count, side + 2), 3, stride=1)


def measured(side: int) -> PatchStatistics:
    return PatchStatistics.estimate(smooth_pictures(30, 16), side, per_image=20)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 39), again=st.integers(1, 39))
def test_a_stream_in_parts_gives_the_covariance_of_the_whole(cut: int, again: int) -> None:
    patches = 5 + pictures(40, 4)
    parts = [PatchStatistics(4) for _ in range(2)]
    first, second = sorted((cut, again))
    parts[0].update(patches[first:second])
    parts[0].update(patches[second:])
    parts[1].update(patches[:first])
    parts[1].merge(parts[0])
    for channel in range(3):
        flat = patches[:, channel].flatten(1).double()
        assert torch.allclose(parts[1].mean[channel], flat.mean(dim=0))
        assert torch.allclose(parts[1].covariance[channel], torch.cov(flat.T))
        assert torch.equal(parts[1].low[channel], flat.amin(dim=0))
        assert torch.equal(parts[1].high[channel], flat.amax(dim=0))
    assert parts[1].count == 40


def test_patches_do_not_depend_on_how_images_are_batched() -> None:
    images = smooth_pictures(12, 10)
    whole = PatchStatistics.estimate(images, 4, per_image=5)
    parts = PatchStatistics.estimate(iter(images.flip(0).split(5)), 4, per_image=5)
    assert torch.allclose(whole.covariance, parts.covariance)
    assert whole.count == 60


@pytest.mark.parametrize(("top", "left"), [(2, 2), (0, 3), (4, 4)])
def test_the_conditional_is_the_dense_formula_and_makes_up_the_joint(top: int, left: int) -> None:
    statistics = measured(7)
    conditional = WindowConditional(statistics, 3, top, left)
    hidden = [y * 7 + x for y in range(top, top + 3) for x in range(left, left + 3)]
    around = [i for i in range(49) if i not in hidden]
    patch = smooth_pictures(1, 7)
    x2 = patch.flatten(2)[0].double()
    noise = torch.zeros(1, 1, 3, 3, 3)
    for channel in range(3):
        sigma = (
            statistics.covariance[channel]
            + torch.eye(49) * 1e-6 * statistics.covariance[channel].diagonal().mean()
        )
        mu = statistics.mean[channel]
        s12, s22 = sigma[hidden][:, around], sigma[around][:, around]
        mean = mu[hidden] + s12 @ torch.linalg.inv(s22) @ (x2[channel, around] - mu[around])
        covariance = sigma[hidden][:, hidden] - s12 @ torch.linalg.inv(s22) @ s12.T
        clipped = mean.clamp(statistics.low[channel, hidden], statistics.high[channel, hidden])
        assert torch.allclose(
            conditional.sample(patch, noise)[0, 0, channel].flatten().double(), clipped, atol=1e-5
        )
        factor = conditional.factor[channel].double()
        assert torch.allclose(factor @ factor.T, covariance, atol=1e-5)
        # log p(patch) = log p(around) + log p(window | around)
        joint = MultivariateNormal(mu, sigma).log_prob(x2[channel])
        known = MultivariateNormal(mu[around], s22).log_prob(x2[channel, around])
        given_around = MultivariateNormal(mean, scale_tril=factor).log_prob(x2[channel, hidden])
        assert torch.allclose(joint, known + given_around, rtol=1e-3)


def test_samples_stay_in_the_range_of_the_data() -> None:
    statistics = measured(7)
    conditional = WindowConditional(statistics, 3, 2, 2)
    samples = conditional.sample(smooth_pictures(2, 7), 100 * torch.randn(2, 5, 3, 3, 3))
    hidden = torch.arange(49).view(7, 7)[2:5, 2:5]
    for name, inside in (
        ("low", samples >= statistics.low[:, hidden].float()),
        ("high", samples <= statistics.high[:, hidden].float()),
    ):
        assert inside.all(), name


@pytest.mark.parametrize(
    ("sampler", "stride"), [("conditional", 1), ("conditional", 2), ("marginal", 3)]
)
def test_the_map_is_the_plain_loop_over_windows(sampler: str, stride: int) -> None:
    side, k, border, samples = 11, 3, 2, 4
    classifier, images, targets = curved(side), smooth_pictures(2, side), torch.tensor([1, 3])
    statistics, references = measured(k + 2 * border), smooth_pictures(6, side) + 0.1
    explainer = PDA(
        classifier,
        statistics,
        references,
        sampler=sampler,
        window=k,
        border=border,
        stride=stride,
        samples=samples,
        laplace=1000,
        forward_batch_size=7,
    )
    heatmap = explainer.attribute(images, target=targets, keys=["a", "b"])
    assert heatmap.signed

    def evidence(p: float) -> float:
        p = (p * 1000 + 1) / (1000 + 4)
        return math.log2(p / (1 - p))

    starts = sorted({*range(0, side - k + 1, stride), side - k})
    for i, generator in enumerate(sample_generators(0, ["a", "b"], images.device)):
        target, image = int(targets[i]), images[i]
        total, covered = torch.zeros(side, side), torch.zeros(side, side)
        whole = evidence(float(classifier(image[None]).softmax(1)[0, target]))
        for top in starts:
            if sampler == "conditional":
                noise = torch.randn((len(starts), samples, 3, k, k), generator=generator)
            else:
                which = torch.randint(6, (len(starts), samples), generator=generator)
            for n, left in enumerate(starts):
                y, x = (
                    min(max(start - border, 0), side - (k + 2 * border)) for start in (top, left)
                )
                probability = 0.0
                for s in range(samples):
                    changed = image.clone()
                    if sampler == "conditional":
                        conditional = WindowConditional(statistics, k, top - y, left - x)
                        patch = image[None, :, y : y + k + 2 * border, x : x + k + 2 * border]
                        content = conditional.sample(patch, noise[n, s][None, None])[0, 0]
                    else:
                        content = references[which[n, s], :, top : top + k, left : left + k]
                    changed[:, top : top + k, left : left + k] = content
                    probability += float(classifier(changed[None]).softmax(1)[0, target]) / samples
                total[top : top + k, left : left + k] += whole - evidence(probability)
                covered[top : top + k, left : left + k] += 1
        assert torch.allclose(heatmap.values[i], total / covered, atol=2e-4)


def test_a_config_takes_statistics_from_the_runs_own_images(tmp_path: Path) -> None:
    data = write_shards(quickstart_samples("val", 12), tmp_path / "data", "val", 6)
    classifier, images = curved(64), pictures(1, 64)
    surroundings = StoredStatistics(tmp_path / "statistics", data, images=10)
    reduced = {"window": 2, "border": 1, "stride": 2, "samples": 1}
    first = build_explainer("pda", classifier, reduced, surroundings).attribute(images, target=1)
    kept = PatchStatistics.load(tmp_path / "statistics" / "patches_4.safetensors")
    assert kept.count == 200
    again = build_explainer("pda", classifier, reduced | {"statistics": kept}).attribute(
        images, target=1
    )
    assert torch.equal(first.values, again.values)
    marginal = build_explainer("pda", classifier, reduced | {"sampler": "marginal"}, surroundings)
    assert marginal.attribute(images, target=1).values.isfinite().all()


def test_statistics_are_read_back_as_they_were(tmp_path: Path) -> None:
    statistics = measured(5)
    statistics.save(tmp_path / "patches.safetensors")
    loaded = PatchStatistics.load(tmp_path / "patches.safetensors")
    assert loaded.count == statistics.count
    assert torch.equal(loaded.covariance, statistics.covariance)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "patches.safetensors").read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged or cut short"):
        PatchStatistics.load(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        PatchStatistics.load(tmp_path / "none.safetensors")


def test_what_does_not_fit_is_refused() -> None:
    classifier = curved(16)
    with pytest.raises(InputError, match="needs statistics"):
        build_explainer("pda", classifier)
    with pytest.raises(InputError, match="needs references"):
        build_explainer("pda", classifier, {"sampler": "marginal"})
    with pytest.raises(InputError, match="patches of 5 pixels, but window"):
        PDA(classifier, measured(5))
    with pytest.raises(InputError, match="stride 4 is larger than window 3"):
        PDA(classifier, measured(7), window=3, stride=4)
    with pytest.raises(InputError, match="'conditional', 'marginal'"):
        PDA(classifier, measured(7), window=3, sampler="mean")
    with pytest.raises(InputError, match="samples is 0"):
        PDA(classifier, measured(7), window=3, samples=0)
    with pytest.raises(InputError, match="patches of 7 pixels, but the images are 6 x 16"):
        PDA(classifier, measured(7), window=3).attribute(pictures(1, 16)[:, :, :6], target=1)
    with pytest.raises(InputError, match="give references of its size"):
        PDA(classifier, references=pictures(2, 12), sampler="marginal", window=3).attribute(
            pictures(1, 16), target=1
        )
    with pytest.raises(InputError, match="20 patches are too few"):
        PatchStatistics.estimate(pictures(1, 16), 7)
    with pytest.raises(InputError, match="do not fit into images"):
        PatchStatistics.estimate(pictures(1, 6), 7)
    elsewhere = PatchStatistics.estimate(smooth_pictures(30, 16), 7, preprocessing=Preprocessing())
    with pytest.raises(InputError, match="normalised with mean"):
        PDA(classifier, elsewhere, window=3)
