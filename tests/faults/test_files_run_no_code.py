"""What a file names is looked up, never imported: only the user may have a function called."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lit_iba import FrozenClassifier
from lit_iba.cli.main import main
from lit_iba.errors import InputError
from lit_iba.export import load_exported
from lit_iba.iba import ReadoutIBA

CALLS = (
    "called = []\ndef network(**settings):\n    called.append(settings)\n    raise SystemExit(7)\n"
)


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function within reach of an import, which says so when its module is even imported."""
    (tmp_path / "reached_by_a_file.py").write_text(CALLS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "reached_by_a_file:network"


def test_a_checkpoint_runs_no_function_that_it_names(
    shared: Path, tmp_path: Path, evil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shared / "runs" / "readout" / "last.ckpt"
    checkpoint = torch.load(whole, weights_only=True)
    checkpoint["hyper_parameters"]["classifier"]["model"] = evil
    path = tmp_path / "got.ckpt"
    torch.save(checkpoint, path)
    status = main(["export", str(path), "--out", str(tmp_path / "out")], "evaluate.py")
    error = capsys.readouterr().err
    assert status == 2
    assert f"{path} names a function, '{evil}', as its classifier" in error
    assert "--classifier.model" in error
    assert "reached_by_a_file" not in sys.modules
    assert not (tmp_path / "out").exists()
    ReadoutIBA.load(path, FrozenClassifier("small_cnn", "random"))  # the user's own word counts


def test_an_export_runs_no_function_that_it_names(shared: Path, tmp_path: Path, evil: str) -> None:
    path = tmp_path / "explainer.safetensors"
    shutil.copy(shared / "runs" / "exported" / path.name, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = safetensors.torch.load_file(path)
    for key, text in metadata.items():
        description = json.loads(text)
        description["classifier"]["record"]["model"] = evil
        metadata[key] = json.dumps(description)
    safetensors.torch.save_file(state, path, metadata=metadata)
    with pytest.raises(InputError, match="names a function"):
        load_exported(path)
    assert "reached_by_a_file" not in sys.modules
    load_exported(path, FrozenClassifier("small_cnn", "random"))
