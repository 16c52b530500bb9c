"""What the tests of reports share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_run import fake_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder below the test's own folder; arguments as of ``fake_run``."""
    return lambda **settings: fake_run(tmp_path / "run", **settings)
