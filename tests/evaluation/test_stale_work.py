"""Work of an earlier run is used again only where everything it was made of is the same: data,
statistics, code and version.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from benchmark_toys import SIDE, Tiny, benchmark, digit, make_data
from lightning import Fabric
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lit_iba.evaluation.plan
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardIndex, write_shards
from lit_iba.errors import InputError
from lit_iba.resumable import classifier_identity, with_content

SMALL = {"explainers": {"random": {}}, "metrics": {"bounding_box": {}}, "panels": 0, "gallery": 1}
STATISTICS = {"bottleneck": {"explainer": "per_sample_iba", "layer": "conv", "steps": 1}}


def run(data, out, **changes):
    settings = SMALL | changes
    return benchmark(data, out, **settings).run(Fabric(accelerator="cpu", devices=1))


def write(folder: Path, box: int, index: bool) -> None:
    """Two pictures whose boxes differ by one pixel: tars of one size."""
    samples = (
        {
            "key": f"digit{i}",
            "png": digit(i)[0],
            "cls": i,
            "json": {"bbox": [[box, 1, 9, 9]], "width": SIDE, "height": SIDE},
        }
        for i in range(2)
    )
    (folder / "index.json").unlink(missing_ok=True)
    write_shards(samples, folder, "val", 5)
    if not index:
        (folder / "index.json").unlink()


def test_labels_or_boxes_corrected_at_equal_size_are_noticed(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write(data, 1, index=False)
    run(str(data), out)
    size = (data / "val-000000.tar").stat().st_size
    run(str(data), out)  # nothing has changed
    write(data, 2, index=False)
    assert (data / "val-000000.tar").stat().st_size == size
    with pytest.raises(InputError, match=r"another config \(data: .*fresh: true"):
        run(str(data), out)


def test_shards_that_are_not_what_their_index_says_are_refused(tmp_path):
    data = tmp_path / "data"
    write(data, 1, index=True)
    index = (data / "index.json").read_bytes()
    write(data, 2, index=False)
    (data / "index.json").write_bytes(index)
    with pytest.raises(InputError, match=r"val-000000\.tar is not what was indexed"):
        run(str(data), tmp_path / "out")


def test_shards_are_hashed_again_only_when_they_change(tmp_path, monkeypatch):
    write(tmp_path / "data", 1, index=False)
    data, hashed = ShardIndex.load(tmp_path / "data"), []
    content = importlib.import_module("lit_iba.resumable.content")
    whole = content.sha256_of
    monkeypatch.setattr(content, "sha256_of", lambda path: hashed.append(path) or whole(path))
    for _ in range(2):
        with_content(data, tmp_path / "out")
    assert len(hashed) == 1
    tar = data.shards[0].path
    os.utime(tar, ns=(1, 1))
    with_content(data, tmp_path / "out")
    assert len(hashed) == 2
    (tmp_path / "out" / "shard_hashes.json").write_text("[]")
    with_content(data, tmp_path / "out")
    assert len(hashed) == 3
    assert not with_content(data, tmp_path / "other", only=[]).shards[0].sha256


def test_other_statistics_in_the_same_folder_are_noticed(tmp_path):
    data, kept = str(tmp_path / "data"), tmp_path / "statistics"
    make_data(tmp_path / "data", count=3, corrupt=())
    settings = {"explainers": STATISTICS, "statistics_folder": kept}
    run(data, tmp_path / "out", **settings)
    settings["statistics_data"] = None  # only the folder knows
    run(data, tmp_path / "later", **settings)
    run(data, tmp_path / "later", **settings)
    path = kept / "conv.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"mean": tensors["mean"] + 1}, path, metadata=metadata)
    with pytest.raises(InputError, match=r"other settings \(measured\.conv\.safetensors"):
        run(data, tmp_path / "later", **settings)


def test_the_same_statistics_measured_again_are_the_same(tmp_path):
    """A safetensors file's metadata have another order each time it is written."""
    data, kept = str(tmp_path / "data"), tmp_path / "statistics"
    make_data(tmp_path / "data", count=3, corrupt=())
    settings = {"explainers": STATISTICS, "statistics_folder": kept}
    run(data, tmp_path / "out", **settings)
    (file,) = kept.glob("*.safetensors")
    first = file.read_bytes()
    for _ in range(40):
        file.unlink()
        run(data, tmp_path / "out", **settings)
        if file.read_bytes() != first:
            break
    else:
        pytest.skip("the library wrote the same bytes forty times")


def test_another_version_is_noticed(tmp_path, monkeypatch):
    make_data(tmp_path / "data", count=2, corrupt=())
    run(str(tmp_path / "data"), tmp_path / "out")
    monkeypatch.setattr(lit_iba.evaluation.plan, "__version__", "0.0.1")
    with pytest.raises(InputError, match=r"lit_iba: .* then, 0\.0\.1 now"):
        run(str(tmp_path / "data"), tmp_path / "out")


def test_the_code_of_an_own_network_belongs_to_its_identity(tmp_path, monkeypatch):
    """Equal weights, another function: a module that was edited between two runs."""
    monkeypatch.syspath_prepend(tmp_path)
    preprocessing = Preprocessing(resize=None, crop=SIDE)
    found = []
    for factor in (1, 2):
        code = (
            f"from benchmark_toys import Tiny\nFACTOR = {factor}\n\ndef net():\n    return Tiny()\n"
        )
        (tmp_path / "own_net_of_the_user.py").write_text(code)
        sys.modules.pop("own_net_of_the_user", None)
        importlib.invalidate_caches()
        torch.manual_seed(0)
        network = FrozenClassifier("own_net_of_the_user:net", "random", preprocessing=preprocessing)
        found.append(classifier_identity(network))
    sys.modules.pop("own_net_of_the_user", None)
    assert found[0]["sha256"] == found[1]["sha256"]
    assert found[0] != found[1]
    assert "source" not in classifier_identity(FrozenClassifier("small_cnn", "random"))
    assert "source" in classifier_identity(FrozenClassifier(Tiny(), preprocessing=preprocessing))
