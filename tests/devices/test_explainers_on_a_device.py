"""Every explainer with its classifier and images on a device: nothing stays on the CPU, and the
numbers are the CPU's.
"""

import pytest
import torch
from device_toys import TRAINED, VARIANTS, build, narrow, pictures
from second_device import waits

from lit_iba.explainer import EXPLAINERS
from lit_iba.randomness import sample_generators

NAMES = sorted({*EXPLAINERS, *VARIANTS, *TRAINED})


@pytest.mark.parametrize("name", NAMES)
def test_an_explainer_gives_on_a_device_what_it_gives_on_the_cpu(
    name: str, device: torch.device
) -> None:
    keys, targets = ["a", "b", "c"], torch.tensor([0, 3, 2])
    on_cpu = narrow()
    expected = build(name, on_cpu).attribute(on_cpu.images(pictures()), targets, keys=keys)
    there = narrow().to(device)
    found = build(name, there).attribute(there.images(pictures()), targets, keys=keys)
    for quantity in ("values", "undrawn", "completeness", "uncertainty"):
        here, value = getattr(expected, quantity), getattr(found, quantity)
        if here is None:
            assert value is None
            continue
        assert value.device.type == device.type
        torch.testing.assert_close(
            value.cpu(), here, rtol=1e-3, atol=1e-3 * float(here.abs().max())
        )


# Where the host may wait for the device while an explainer explains, and why. All others never do.
MAY_WAIT = {
    "baselines/captum_explainer.py": "Captum's own code; and its seed, one number per image",
    "baselines/gradient.py": (
        "Captum sends the steps of integrated gradients, and reads the target of an image alone"
    ),
    "baselines/lime.py": (
        "scikit-learn fits on the CPU; how many superpixels there are decides shapes; kornia's"
        " matrices"
    ),
    "baselines/lrp.py": (
        "inputs of one sign need half the passes, and whether they have one is asked once a layer"
    ),
    "baselines/perturbation.py": "how many tiles there are decides shapes, once a call",
    "baselines/extremal_perturbation.py": "the areas are sent once a call",
    "baselines/pda.py": "places of windows, a few numbers a row of them, beside hundreds of passes",
    "baselines/window_samplers.py": "likewise",
}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("captum")])
def test_the_host_waits_for_no_explainer_but_where_a_reason_is_given(
    name: str, device: torch.device
) -> None:
    explainer = build(name, narrow().to(device))
    images, targets = explainer.classifier.images(pictures(1)), torch.tensor([3]).to(device)
    for _ in range(2):  # what is sent once and kept is no matter
        waits.clear()
        explainer.explain(images, targets, sample_generators(0, ["a"], device))
    assert {place.partition(":")[0] for place in waits} <= MAY_WAIT.keys(), dict(waits)
