"""A file appears whole or not at all, and whoever fails to write it names it."""

import errno
import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lit_iba.cli.sentences import as_sentence
from lit_iba.files import sha256_of, sha256_of_content, whole_file


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as part:
            part.write_text("new")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_systems_refusal_in_a_librarys_words_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(OSError, match="No space") as refused, whole_file(path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(5000))


@pytest.mark.parametrize("write", [_array, lambda path: path.write_bytes(bytes(9000))])
def test_a_disk_that_fills_while_a_file_is_written_is_said_of_that_file(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    """Writing through a file that is open, Python does not name it; NumPy gives no number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "map.npy"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match=r"map\.npy") as refused, whole_file(path) as part:
            write(part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sentence = str(as_sentence(refused.value))
    assert sentence.startswith(f"{path} cannot be used (")
    assert "disk" in sentence
    assert list(tmp_path.iterdir()) == []


def test_the_content_of_tensors_does_not_depend_on_the_order_of_its_header(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    told = {"data": "x", "layer": "y", "version": "1"}
    path = tmp_path / "kept.safetensors"

    def written(content: bytes) -> tuple[str, str]:
        path.write_bytes(content)
        return sha256_of(path), sha256_of_content(path)

    whole = save(tensors, told)
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    orders = []
    for backwards in (False, True):
        names = sorted(header["__metadata__"], reverse=backwards)
        turned = {**header, "__metadata__": {n: header["__metadata__"][n] for n in names}}
        said = json.dumps(turned).encode()
        orders.append(written(len(said).to_bytes(8, "little") + said + body))
    assert orders[0][0] != orders[1][0]
    assert orders[0][1] == orders[1][1] == written(whole)[1]
    others = [
        save({**tensors, "b": torch.zeros(2, 3)}, told),
        save({"a": tensors["a"], "c": tensors["b"]}, told),
        save(tensors, {**told, "layer": "z"}),
    ]
    assert len({orders[0][1], *(written(other)[1] for other in others)}) == 4
    for other in (b"", b"no header at all", whole[:20]):  # what is no such file is its bytes
        found = written(other)
        assert found[0] == found[1]
