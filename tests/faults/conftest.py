"""Small whole files of every kind that the tests of this folder then damage."""

import warnings
from pathlib import Path

import pytest
from docstring_names import shared_folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``digits``, ``photographs``, ``reviews.jsonl`` and ``runs``: nothing is written to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return shared_folder(tmp_path_factory.mktemp("faults"))
