"""Results that were written when a class of ours stood in another module are read, not refused and
not made again.
"""

import json
from pathlib import Path

import pytest
from benchmark_toys import EXPLAINERS, benchmark, make_data
from safetensors.torch import load_file, safe_open, save_file

from lit_iba.errors import InputError
from lit_iba.registry import class_named
from lit_iba.resumable.store import MOVED_CLASSES, ShardStore, as_of_today

OLD, NEW = (
    "lit_iba.metrics.bits_and_accuracy.BitsAndAccuracy",
    "lit_iba.iba.bits_and_accuracy.BitsAndAccuracy",
)


def written_by_an_older_version(path: Path) -> None:
    """Rename the class in a file's fingerprint."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert NEW in metadata["fingerprint"]
    save_file(load_file(path), path, metadata={k: v.replace(NEW, OLD) for k, v in metadata.items()})


def test_every_moved_class_is_where_the_table_says() -> None:
    for path in MOVED_CLASSES.values():
        assert class_named(path, "class", {}, object).__name__ == path.rpartition(".")[2]


def test_old_names_are_found_wherever_they_stand() -> None:
    stored = {
        "metrics": {"a": {"class": OLD, "settings": {"k": [OLD, 1, None]}}},
        "other": "my_file.MyMap",
    }
    now = {
        "metrics": {"a": {"class": NEW, "settings": {"k": [NEW, 1, None]}}},
        "other": "my_file.MyMap",
    }
    assert as_of_today(stored) == now


def test_a_run_of_the_older_layout_goes_on_without_doing_anything_again(tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", count=6, corrupt=()), tmp_path / "run"
    changes = {
        "explainers": {"bottleneck": EXPLAINERS["bottleneck"]},
        "metrics": {"bits_and_accuracy": {}},
    }
    before = benchmark(data, out, **changes).run()
    rows = sorted((out / "rows").rglob("*.safetensors"))
    assert rows
    for path in rows:
        written_by_an_older_version(path)
    config = out / "config.yaml"
    config.write_text(config.read_text().replace(NEW, OLD))
    assert OLD in config.read_text()
    times = [path.stat().st_mtime_ns for path in rows]
    after = benchmark(data, out, **changes).run()
    assert [path.stat().st_mtime_ns for path in rows] == times
    assert after["results"] == before["results"]


def test_a_class_that_is_another_one_is_refused_with_one_sentence(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    fingerprint = {"metric": {"class": "my_file.Mine", "settings": {}}}
    store.write("rows", "val-000000", {}, fingerprint, {"keys": json.dumps([])})
    with pytest.raises(InputError, match=r"metric\.class: my_file\.Mine then, my_file\.Other now"):
        store.complete("rows", "val-000000", {"metric": {"class": "my_file.Other", "settings": {}}})
