"""Every test here runs with the second device installed, and generators that know their device."""

from collections.abc import Iterator

import pytest
import second_device
import torch

from lit_iba.classifier import FrozenClassifier


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The second device."""
    second_device.install()
    monkeypatch.setattr(torch, "Generator", second_device.Generator)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)  # nothing runs behind the host's back
    second_device.waits.clear()
    with second_device.DrawsOfTheCPU():
        yield torch.device(second_device.NAME)


@pytest.fixture
def network() -> FrozenClassifier:
    """A narrow network with fixed random weights, for pictures of 32 pixels; anew for each test, which may move it."""
    from device_toys import narrow

    return narrow()
