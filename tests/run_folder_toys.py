"""What holds for the folder of every kind of run."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_iba import InputError
from lit_iba.report.run_folder import RunFolder


def read_or_refused(out: Path, elsewhere: Path) -> dict[str, Any]:
    """The results in a run's folder, after a copy of them with another schema was refused with one
    sentence.
    """
    found = RunFolder.read(out)
    assert list(found)[:3] == ["schema", "created", "command"]
    (elsewhere / "results.json").write_text(json.dumps(found | {"schema": 2}))
    with pytest.raises(
        InputError, match="has schema 2, but this version reads schema 1; run"
    ) as refused:
        RunFolder.read(elsewhere)
    assert "\n" not in str(refused.value)
    return found
