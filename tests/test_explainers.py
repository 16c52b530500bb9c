"""Every explainer: copied, pickled, given no images, and put on networks of other precisions."""

import copy
import pickle

import pytest
import torch
from device_toys import TRAINED, VARIANTS, build, narrow, pictures
from torch import Tensor

from lit_iba import FrozenClassifier
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
