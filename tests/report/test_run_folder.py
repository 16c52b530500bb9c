"""The files of a run: written and read in one place."""

from pathlib import Path

import pytest

import lit_iba
from lit_iba.report.run_folder import RunFolder, read_run

PACKAGE = Path(lit_iba.__file__).parent


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    content = {
        "explainers": {
            "a": {"class": "a", "unit": "bits", "signed": True, "seconds_per_image": 0.5}
        },
        "metrics": {
            "m": {"class": "m", "settings": {"tile": 8}, "definition": "Said.", "better": "lower"}
        },
        "results": {"m": {"a": {"score": 0.25, "standard_error": float("nan"), "n": 1}}},
    }
    RunFolder.write_config(tmp_path, {"second": 1, "first": [2]})
    RunFolder.write_rows(tmp_path, [("key", "a", "m", "score", 0.25)])
    written = RunFolder.write(tmp_path, RunFolder.heading() | content)
    assert written == RunFolder.read(tmp_path)
    assert written["results"]["m"]["a"]["standard_error"] is None
    run = read_run(tmp_path)
    assert (run.created, run.command) == (written["created"], written["command"])
    assert run.config == "second: 1\nfirst:\n- 2\n"
    assert run.rows == {"m": {"a": {"score": {"key": 0.25}}}}
    assert run.explainers["a"].signed
    assert run.metrics["m"].better == "lower"
    assert run.results["m"]["a"].score == 0.25


@pytest.mark.parametrize("room", ["evaluation", "text", "varsal"])
def test_no_room_that_runs_knows_the_format_itself(room: str) -> None:
    told = (
        '"schema"',
        '"results.json"',
        '"rows.csv"',
        '"config.yaml"',
        '"command.txt"',
        '"gallery.safetensors"',
    )
    for path in (PACKAGE / room).rglob("*.py"):
        assert not [name for name in told if name in path.read_text(encoding="utf-8")], path
