"""Tests that need a CUDA device; skipped where there is none. Classifiers and settings are those of
``tests/devices``.

``LIT_IBA_REHEARSE=1`` runs them on the CPU instead: that proves nothing about CUDA, but that the
tests themselves run.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for shared in (
    "devices",
    "cluster",
    "evaluation",
    "export",
):  # toys that live beside the tests which need no GPU
    sys.path.append(str(Path(__file__).parents[1] / shared))
sys.path.append(str(Path(__file__).parents[1]))


REHEARSAL = os.environ.get("LIT_IBA_REHEARSE") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark, and skip where there is no such device."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if not (torch.cuda.is_available() or REHEARSAL):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def exact_arithmetic() -> Iterator[None]:
    """Float32 without rounding to TensorFloat-32, so that results can be compared with the
    CPU's.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def device() -> torch.device:
    """The GPU."""
    return torch.device("cpu") if REHEARSAL else torch.device("cuda", 0)


@pytest.fixture(scope="session")
def accelerator() -> str:
    """What Lightning calls it."""
    return "cpu" if REHEARSAL else "cuda"
