"""The store: whole files, of the right settings, or a clear word."""

import logging
import os
import time

import pytest
import torch

from lit_iba.errors import InputError
from lit_iba.resumable.store import ABANDONED_AFTER, ShardStore, sweep_abandoned

PRINT = {
    "explainer": {"class": "grad_cam", "settings": {"layer": "layer4"}},
    "shard": {"bytes": 10},
}


def written(folder):
    store = ShardStore(folder)
    values = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    path = store.write(
        "grad_cam",
        "val-000000",
        {"values": values},
        PRINT,
        {"keys": ["a", "b", "ü"], "unit": "bits"},
    )
    return store, path, values


def test_what_was_written_is_read_back(tmp_path):
    store, path, values = written(tmp_path)
    assert path == tmp_path / "grad_cam" / "val-000000.safetensors"
    tensors, metadata = store.read("grad_cam", "val-000000")
    assert torch.equal(tensors["values"], values)
    assert metadata["keys"] == '["a", "b", "\\u00fc"]'
    assert metadata["unit"] == "bits"
    assert store.complete("grad_cam", "val-000000", PRINT)
    assert not store.complete("grad_cam", "val-000001", PRINT)


def test_file_cut_at_any_length_is_made_again_with_a_message(tmp_path, caplog):
    store, path, _ = written(tmp_path)
    whole = path.read_bytes()
    for length in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with caplog.at_level(logging.WARNING):
            assert not store.complete("grad_cam", "val-000000", PRINT)
        assert "val-000000.safetensors is damaged or cut short" in caplog.text
        assert not path.exists()
        caplog.clear()


def test_file_of_other_settings_is_refused_naming_what_differs_and_the_mend(tmp_path):
    store, path, _ = written(tmp_path)
    other = {
        "explainer": {"class": "grad_cam", "settings": {"layer": "layer3"}},
        "shard": {"bytes": 10},
    }
    with pytest.raises(
        InputError, match=r"explainer\.settings\.layer: layer4 then, layer3 now.*fresh"
    ):
        store.complete("grad_cam", "val-000000", other)
    assert path.exists()


def test_reading_what_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.safetensors cannot be read"):
        ShardStore(tmp_path).read("grad_cam", "nothing")


def test_only_old_parts_of_files_are_swept(tmp_path):
    store, path, _ = written(tmp_path)
    old, young = path.parent / ".x.safetensors.1.part", path.parent / ".y.safetensors.2.part"
    for part in (old, young):
        part.write_bytes(b"half")
    past = time.time() - ABANDONED_AFTER - 60
    os.utime(old, (past, past))
    assert sweep_abandoned(tmp_path) == 1
    assert (old.exists(), young.exists()) == (False, True)
    assert store.complete("grad_cam", "val-000000", PRINT)
