"""Every explainer: copied, pickled, given no images, and put on networks of other precisions."""

import copy
import pickle
from typing import NoReturn

import pytest
import torch
from device_toys import TRAINED, VARIANTS, build, narrow, pictures
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from lit_iba import Attribution, FrozenClassifier, InputError, build_explainer
from lit_iba.explainer import EXPLAINERS, Explainer

NAMES = sorted({*EXPLAINERS, *VARIANTS, *TRAINED})
KEYS, TARGETS = ["a", "b", "c"], torch.tensor([0, 3, 2])
# A threshold, or a fit of few samples, makes much of the rounding of a network's weights.
LEAPS = ("lime (slic)",)


def of_precision(dtype: torch.dtype) -> FrozenClassifier:
    given = narrow()
    model = copy.deepcopy(given.model).to(dtype)
    return FrozenClassifier(model, preprocessing=given.preprocessing)


def values(explainer: Explainer, images: Tensor) -> Tensor:
    return explainer.attribute(images, TARGETS, keys=KEYS).values


@pytest.mark.parametrize("name", NAMES)
def test_it_is_copied_and_pickled_and_takes_no_images(name: str) -> None:
    explainer = build(name, narrow())
    images = explainer.classifier.images(pictures(3))
    wanted = values(explainer, images)
    for other in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        assert torch.equal(values(other, images), wanted)
    for target in (TARGETS[:0], None):
        nothing = explainer.attribute(images[:0], target, keys=[])
        assert nothing.values.shape == (0, *images.shape[-2:])
        assert nothing.unit == explainer.unit


class NothingYet:
    """Surroundings in which nothing must be estimated."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} is asked for before the settings are known to be right")


@pytest.mark.parametrize("name", sorted(EXPLAINERS))
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("layr", "'layr' is not a known setting of .*; (did you mean|known: )"),
        ("sed", "'sed' is not a known setting of .*did you mean 'seed'"),
    ],
)
def test_a_misspelt_setting_is_refused_before_anything_is_estimated(
    name: str, wrong: str, said: str
) -> None:
    settings = {"captum": {"method": "Saliency"}}.get(name, {})
    if name in ("readout_iba", "real_time_saliency"):  # a checkpoint says what they take
        said = f"{name} needs a checkpoint"
    if (name, wrong) == ("captum", "sed"):  # whose own settings are all that are left to it
        said = "'sed' is not a known setting of Captum's Saliency"
    with pytest.raises(InputError, match=said):
        build_explainer(name, narrow(), {**settings, wrong: 3}, NothingYet())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_in_another_precision_has_the_same_map(name: str) -> None:
    images = narrow().images(pictures(3))
    wanted = values(build(name, narrow()), images).double()
    double = build(name, of_precision(torch.float64))
    together = values(double, images).double()
    largest = float(wanted.abs().max())
    torch.testing.assert_close(together, wanted, rtol=2e-3, atol=2e-3 * largest)
    for i, key in enumerate(KEYS):  # whose numbers must not be drawn in another precision
        alone = double.attribute(images[i : i + 1], TARGETS[i : i + 1], keys=[key]).values[0]
        torch.testing.assert_close(alone.double(), wanted[i], rtol=2e-3, atol=2e-3 * largest)
    for dtype in (torch.bfloat16, torch.float16):
        half = values(build(name, of_precision(dtype)), images).double()
        assert torch.isfinite(half).all()
        if largest and name not in LEAPS:
            both = torch.stack([half.flatten(), wanted.flatten()])
            assert float(wanted.std()) == 0 or float(torch.corrcoef(both)[0, 1]) > 0.9


# Captum draws in torch's default.
IN_THE_DEFAULT = ("captum (GradientShap)",)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in IN_THE_DEFAULT])
def test_torchs_default_dtype_changes_no_map(name: str) -> None:
    classifier = narrow()
    images = classifier.images(pictures(3))
    before = build(name, classifier)
    wanted = values(before, images)
    fresh = narrow()  # nothing is kept of it yet
    torch.set_default_dtype(torch.float64)
    try:
        made = build(name, fresh)
        if name in TRAINED:  # its weights are drawn in the default
            made.trained.load_state_dict(before.trained.state_dict())  # type: ignore[attr-defined]
        found, built = values(before, images), values(made, images)
    finally:
        torch.set_default_dtype(torch.float32)
    largest = float(wanted.abs().max())
    for other in (found, built):
        torch.testing.assert_close(other, wanted, rtol=1e-3, atol=1e-3 * largest, check_dtype=False)


@pytest.mark.parametrize("name", ["saliency", "activity"])
def test_any_map_is_smoothed_in_pixels_of_a_picture_of_224(
    name: str, small_classifier: FrozenClassifier, images: Tensor
) -> None:
    sharp = build_explainer(name, small_classifier).attribute(images, 1).values
    explainer = build_explainer(name, small_classifier, {"smooth": 7.0})
    for other in (explainer, copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        found = other.attribute(images, 1).values
        torch.testing.assert_close(found, gaussian_blur(sharp, 17, 2.0), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="smooth is -1"):
        build_explainer(name, small_classifier, {"smooth": -1})


def test_the_deviation_of_a_smoothed_map_is_not_claimed(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    class Sure(Explainer):
        asks = False

        def explain(
            self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
        ) -> Attribution:
            return Attribution(images[:, 0], uncertainty=images[:, 1].abs())

    explainer = Sure(small_classifier)
    assert explainer.attribute(images).uncertainty is not None
    explainer.smooth = 1.0
    assert explainer.attribute(images).uncertainty is None
