"""Every test here runs with the second device installed, and generators that know their device."""

from collections.abc import Iterator

import pytest
import second_device
import torch

# Before any test of any folder runs: autograd counts the devices once, at the first backward pass
# of a process. Not beside a GPU, which would no longer be the process's accelerator then.
if not torch.cuda.is_available():
    second_device.install()


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The second device."""
    if torch.cuda.is_available():
        pytest.skip("a GPU is here, on which the tests of tests/cuda show more")
    monkeypatch.setattr(torch, "Generator", second_device.Generator)
    monkeypatch.setattr(
        torch.accelerator, "synchronize", lambda device: None
    )  # nothing runs behind the host's back
    second_device.waits.clear()
    with second_device.DrawsOfTheCPU():
        yield torch.device(second_device.NAME)
