"""The notebooks run as they stand, on data that comes with packages, and show what they gave."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 400_000  # bytes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    assert not said_as_error(notebook)


def said_as_error(notebook: nbformat.NotebookNode) -> list[str]:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [
        str(out) for out in outputs if out.get("name") == "stderr" or out.output_type == "error"
    ]


def test_their_outputs_are_saved_small_and_of_no_machine() -> None:
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        text = path.read_text(encoding="utf-8")
        assert len(text) < LARGEST, path
        assert not re.search(r"/(home|root|work|tmp|usr)/", text), path
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), path
        assert sum(bool(cell.outputs) for cell in code) >= 3, path
        assert not said_as_error(notebook), path
