"""Every explainer with its classifier and images on a device: nothing stays on the CPU, and the numbers are the CPU's."""

import pytest
import torch
from device_toys import TRAINED, VARIANTS, build, narrow, pictures

from lit_iba.explainer import EXPLAINERS

NAMES = sorted({*EXPLAINERS, *VARIANTS, *TRAINED})


@pytest.mark.parametrize("name", NAMES)
def test_an_explainer_gives_on_a_device_what_it_gives_on_the_cpu(name: str, device: torch.device) -> None:
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
        torch.testing.assert_close(value.cpu(), here, rtol=1e-3, atol=1e-3 * float(here.abs().max()))
