"""LIME: exact on linear models, its regressions against their optimality conditions, its
superpixels against loops.
"""

import pytest
import torch
from counterfactual_toys import Additive, curved, frozen, pictures
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines.lime import LIME, segment_means, slic
from lit_iba.randomness import sample_generators

SIDE, TILE = 12, 4


def masks_of(key: str, samples: int, superpixels: int) -> Tensor:
    (generator,) = sample_generators(0, [key], torch.device("cpu"))
    masks = torch.randint(0, 2, (samples, superpixels), generator=generator)
    masks[0] = 1
    return masks


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_it_recovers_the_coefficients_of_a_linear_model(fill: str) -> None:
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    images = pictures(2, SIDE)
    settings = {"samples": 60, "side": TILE, "score": "logit", "penalty": 0, "fill": fill}
    values = (
        build_explainer("lime", frozen(Additive(weight), SIDE), settings)
        .attribute(images, target=1)
        .values
    )
    for i in range(2):
        for top in range(0, SIDE, TILE):
            for left in range(0, SIDE, TILE):
                square = (slice(top, top + TILE), slice(left, left + TILE))
                seen = images[i][:, *square]
                hidden = (
                    seen.mean(dim=(1, 2), keepdim=True) if fill == "mean" else torch.zeros(3, 1, 1)
                )
                expected = ((seen - hidden).mean(dim=0) * weight[square]).sum()
                assert torch.allclose(values[i][square], expected.expand(TILE, TILE), atol=1e-4)


@pytest.mark.parametrize("regression", ["ridge", "lasso"])
def test_the_regression_is_weighted_and_penalised(regression: str) -> None:
    """Scores from a plain loop; then the normal equations of ridge, the subgradient conditions of
    the Lasso.
    """
    classifier, images, samples, penalty = (
        curved(SIDE),
        pictures(1, SIDE),
        50,
        5e-4 if regression == "lasso" else 1.0,
    )
    explainer = LIME(
        classifier,
        samples=samples,
        side=TILE,
        regression=regression,
        penalty=penalty,
        forward_batch_size=7,
    )
    values = explainer.attribute(images, target=2, keys=["a"]).values[0]
    b = values[::TILE, ::TILE].flatten().double()
    masks = masks_of("a", samples, 9)
    scores = []
    for mask in masks:
        shown = images.clone()
        for number in range(9):
            top, left = TILE * (number // 3), TILE * (number % 3)
            if not mask[number]:
                square = shown[..., top : top + TILE, left : left + TILE]
                square[:] = square.mean(dim=(2, 3), keepdim=True)
        scores.append(classifier(shown).softmax(1)[0, 2])
    z, y = masks.double(), torch.stack(scores).double()
    distance = 1 - torch.nn.functional.cosine_similarity(z, torch.ones(1, 9))
    weights = (-(distance**2) / 0.25**2).exp().sqrt()
    z, y = z - (weights @ z) / weights.sum(), y - (weights @ y) / weights.sum()  # the intercept
    slope = z.T @ (weights * (y - z @ b))
    if regression == "ridge":
        assert torch.allclose(slope, penalty * b, atol=1e-6)
    else:
        slope = slope / weights.sum()
        assert (slope.abs() <= penalty * 1.01).all()
        used = b != 0
        assert torch.allclose(slope[used], penalty * b[used].sign(), rtol=1e-3)
        assert 0 < int(used.sum()) < 9


def test_segment_means_are_those_of_a_loop() -> None:
    images = pictures(2, 6)
    segments = torch.randint(0, 5, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    found = segment_means(images, segments)
    for i in range(2):
        for number in range(5):
            inside = segments[i] == number
            assert torch.allclose(
                found[i][:, inside], images[i][:, inside].mean(dim=1, keepdim=True), atol=1e-6
            )


def test_slic_follows_the_colours_and_numbers_without_gaps() -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    bright = x + y > 34  # an edge that no grid of squares follows
    colours = torch.where(bright, 80.0, 20.0).expand(3, -1, -1)
    segments = slic(colours, side=8, compactness=10.0)
    assert segments.unique().tolist() == list(range(int(segments.max()) + 1))
    mixed = sum(
        bool(bright[segments == n].any() and not bright[segments == n].all())
        for n in segments.unique()
    )
    assert mixed == 0
    flat = slic(torch.full((3, 32, 32), 50.0), side=8, compactness=10.0)
    assert len(flat.unique()) == 16


def test_slic_superpixels_share_a_value(small_classifier: FrozenClassifier, images: Tensor) -> None:
    settings = {"samples": 20, "superpixels": "slic", "side": 16}
    values = (
        build_explainer("lime", small_classifier, settings).attribute(images[:1], target=1).values
    )
    assert 2 <= len(values.unique()) <= 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"superpixels": "quickshift"}, "'grid', 'slic'"),
        ({"regression": "ols"}, "'ridge', 'lasso'"),
        ({"score": "odds"}, "'probability', 'logit'"),
        ({"fill": "blur"}, "'mean', 'zero'"),
        ({"samples": 1}, "at least 2"),
        ({"penalty": -1.0}, "penalty is -1.0"),
        ({"kernel_width": 0}, "kernel_width is 0"),
    ],
)
def test_settings_are_checked(
    small_classifier: FrozenClassifier, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_explainer("lime", small_classifier, settings)
