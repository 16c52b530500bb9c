"""A folder of small whole files, and beside each of them what is wrong with it: what the rows of
``test_bad_inputs.py`` name.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open

from lit_iba import FeatureStatistics, FrozenClassifier
from lit_iba.classifier import SmallCNN, save_weights
from lit_iba.data import ShardIndex
from lit_iba.text import LSTMClassifier, Vocabulary
from lit_iba.text.lstm_training import TEXT_KEY, VOCABULARY_KEY
from lit_iba.training.checkpoint import KIND_KEY

NETWORK = "{model: small_cnn, weights: random}"
CONFIGS = {
    "benchmark": f"""
classifier: {NETWORK}
data: digits/test
explainers: {{random: {{}}}}
metrics: {{bounding_box: {{}}}}
accelerator: cpu
out: out
""",
    "fit": f"""
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args: {{classifier: {NETWORK}, layer: layer2, taps: [layer2, layer3], statistics_images: 8}}
data:
  class_path: lit_iba.data.ShardDataModule
  init_args: {{train: digits/train, val: digits/val, batch_size: 4}}
trainer: {{max_steps: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false,
  default_root_dir: out, log_every_n_steps: 1}}
""",
    "sweep": f"""
classifier: {NETWORK}
data: digits/test
explainer: smoothgrad
settings: {{samples: 2}}
vary: {{samples: [2, 3]}}
metrics: {{bounding_box: {{}}}}
accelerator: cpu
out: out
""",
    "roar": f"""
train: digits/train
test: digits/test
classifier: {NETWORK}
explainers: {{random: {{}}}}
recipe: {{network: small_cnn, epochs: 1}}
percents: [50]
seeds: [0]
accelerator: cpu
out: out
""",
    "survey": f"""
classifiers: {{small: {NETWORK}}}
data: digits/test
scales: [1.0]
shifts: [0.0]
reestimate_images: 0
device: cpu
out: out
""",
    "uncertainty": """
settings: {checkpoint: varsal.ckpt}
data: digits/test
corruptions: [brightness]
severities: [1]
samples: 0
resamples: 2
percentages: [50]
max_images: 4
device: cpu
out: out
""",
    "texts": """
checkpoint: text.ckpt
data: reviews.jsonl
explainers: {random: {}}
metrics: {deletion: {}}
device: cpu
out: out
""",
}


def make(place: Path) -> None:
    """Write everything into a folder that has what ``docstring_names.shared_folder`` writes."""
    for name, text in CONFIGS.items():
        (place / f"{name}.yaml").write_text(text)
    shutil.copy(place / "photographs" / "cat" / "0.jpg", place / "cat.jpg")
    for name in ("readout", "varsal"):
        shutil.copy(place / "runs" / name / "last.ckpt", place / f"{name}.ckpt")
    (place / "a_file").write_text("no folder")
    (place / "empty").mkdir()
    _texts(place)
    _weights(place)
    _checkpoints(place)
    _statistics(place)
    _indices(place)
    _shards(place)


def _texts(place: Path) -> None:
    (place / "latin.yaml").write_bytes("out: Ergebnisse für alle\n".encode("latin-1"))
    (place / "latin.txt").write_bytes("Ein schöner Film.\n".encode("latin-1"))
    (place / "latin.csv").write_bytes("filename,xmin,ymin,xmax,ymax\nä,1,1,2,2".encode("latin-1"))
    (place / "latin.jsonl").write_bytes('{"text": "schön", "label": 1}'.encode("latin-1"))
    (place / "broken.yaml").write_text("out: [1, 2\nseed: 3\n")
    (place / "tab.yaml").write_text("out: x\n\tseed: 3\n")
    (place / "list.yaml").write_text("- 1\n- 2\n")
    (place / "zero.yaml").write_bytes(bytes(100))
    (place / "unknown.yaml").write_text("batch_sise: 3\n")
    (place / "deep.yaml").write_text("a: " + "[" * 10_000)
    (place / "tag.yaml").write_text("out: !!python/object/apply:os.abort []\n")
    (place / "broken.jsonl").write_text('{"text": "fine", "label": 1}\n{"text": 3\n')
    (place / "label.jsonl").write_text('{"text": "fine", "label": 7}\n')
    (place / "empty.txt").write_text("")
    (place / "inverted.csv").write_text("filename,xmin,ymin,xmax,ymax\n0.jpg,9,9,2,2\n")
    (place / "words.csv").write_text("filename,xmin,ymin,xmax,ymax\n0.jpg,a,b,c,d\n")
    (place / "columns.csv").write_text("name,left\n0.jpg,1\n")
    (place / "cut.jpg").write_bytes((place / "cat.jpg").read_bytes()[:300])
    (place / "text.jpg").write_text("no picture")
    (place / "empty.jpg").write_bytes(b"")
    (place / "bad_class").mkdir()
    (place / "bad_class" / "cat").mkdir()
    (place / "bad_class" / "cat" / "0.jpg").write_text("no picture")
    np.savez(place / "short.npz", x_train=np.zeros((2, 8, 8, 3), np.uint8))
    (place / "text.npz").write_text("no arrays")


def _weights(place: Path) -> None:
    torch.manual_seed(0)
    state = SmallCNN().state_dict()

    def write(name: str, change: dict[str, Any], leave: str = "", **settings: Any) -> None:
        kept = {key: value for key, value in state.items() if key != leave}
        save_weights(place / f"{name}.safetensors", kept | change, {"num_classes": 10} | settings)

    first = next(iter(state))
    write("whole", {})
    write("nan", {first: torch.full_like(state[first], float("nan"))})
    write("missing", {}, first)
    write("extra", {"another": torch.zeros(2)})
    write("shape", {first: torch.zeros(3, 3)})
    write("no_classes", {}, num_classes=0)
    write("many_classes", {}, num_classes=10**12)
    write("text_classes", {}, num_classes="ten")
    write("crop", {}, preprocessing={"crop": 10**9})
    write("deviation", {}, preprocessing={"std": [0, 0, 0]})
    write("side", {}, preprocessing={"side": 3})
    write("few_names", {}, class_names=["one"])
    write("number_names", {}, class_names=list(range(10)))
    escape = [f"[bold red]{i}[/] \x1b]0;owned\x07" for i in range(10)]
    write("escape", {}, class_names=escape)
    whole = (place / "whole.safetensors").read_bytes()
    (place / "cut.safetensors").write_bytes(whole[:-100])
    (place / "text.safetensors").write_text("no weights")
    (place / "empty.safetensors").write_bytes(b"")
    (place / "weights.bin").write_bytes(whole)
    torch.save({"model": [1, 2]}, place / "list.pt")
    (place / "text.pt").write_text("no weights")


def _checkpoints(place: Path) -> None:
    for source in ("readout", "varsal"):
        _changed_checkpoints(place, source)
    (place / "cut.ckpt").write_bytes((place / "readout.ckpt").read_bytes()[:1000])
    (place / "text.ckpt_").write_text("no checkpoint")
    words = Vocabulary.build(["A great film.", "A boring film."])
    shape = {"embedding_size": 4, "hidden_size": 4, "depth": 1, "pooling": "mean", "classes": 2}
    network = LSTMClassifier(len(words), **shape)
    entries = {
        KIND_KEY: "SentimentTraining",
        VOCABULARY_KEY: words.to_json(),
        TEXT_KEY: {"max_length": 20, "shape": shape},
        "state_dict": {f"network.{k}": v for k, v in network.state_dict().items()},
        "global_step": 1,
    }
    torch.save(entries, place / "text.ckpt")
    for name in (VOCABULARY_KEY, TEXT_KEY, "state_dict"):
        torch.save({k: v for k, v in entries.items() if k != name}, place / f"text_no_{name}.ckpt")
    torch.save(entries | {TEXT_KEY: {"max_length": -1, "shape": shape}}, place / "text_length.ckpt")
    odd = {"max_length": 20, "shape": shape | {"hidden_size": 5}}
    torch.save(entries | {TEXT_KEY: odd}, place / "text_shape.ckpt")
    nan = {k: torch.full_like(v, float("nan")) for k, v in entries["state_dict"].items()}
    torch.save(entries | {"state_dict": nan}, place / "text_nan.ckpt")


def _changed_checkpoints(place: Path, source: str) -> None:
    whole = torch.load(place / f"{source}.ckpt", weights_only=True)
    first = next(iter(whole["state_dict"]))

    def write(name: str, change: Callable[[dict[str, Any]], object]) -> None:
        changed = torch.load(place / f"{source}.ckpt", weights_only=True)
        change(changed)
        torch.save(changed, place / f"{source}_{name}.ckpt")

    write("no_state", lambda c: c.pop("state_dict"))
    write("missing", lambda c: c["state_dict"].pop(first))
    write("nan", lambda c: c["state_dict"][first].fill_(float("nan")))
    write("shape", lambda c: c["state_dict"].update({first: torch.zeros(3)}))
    write("text_state", lambda c: c.update(state_dict="none"))
    write("no_settings", lambda c: c.pop("hyper_parameters"))
    write("no_identity", lambda c: c.pop("lit_iba_classifier"))
    write("no_kind", lambda c: c.pop(KIND_KEY))
    write("no_loops", lambda c: c.pop("loops"))


def _statistics(place: Path) -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    generator = torch.Generator().manual_seed(0)
    found = FeatureStatistics.estimate(
        classifier, "layer2", torch.randn(4, 3, 64, 64, generator=generator)
    )
    found.save(place / "layer2.safetensors")
    state = safetensors.torch.load_file(place / "layer2.safetensors")
    with safe_open(place / "layer2.safetensors", framework="pt") as file:
        metadata = file.metadata()
    for name, change, told in (
        ("nan", {"mean": torch.full_like(state["mean"], float("nan"))}, {}),
        ("shape", {"mean": torch.zeros(3)}, {}),
        ("count", {}, {"count": "many"}),
        ("negative", {"sum_of_squares": -state["sum_of_squares"] - 1}, {}),
    ):
        path = place / f"layer2_{name}.safetensors"
        safetensors.torch.save_file(state | change, path, metadata=metadata | told)


def _indices(place: Path) -> None:
    whole = json.loads((place / "digits" / "test" / "index.json").read_text())

    def write(name: str, text: str | None = None, /, **entries: Any) -> None:
        folder = place / f"index_{name}"
        folder.mkdir()
        for tar in (place / "digits" / "test").glob("*.tar"):
            shutil.copy(tar, folder)
        shards = [shard | entries for shard in whole["shards"]]
        content = json.dumps(whole | {"shards": shards}) if text is None else text
        (folder / "index.json").write_text(content)

    write("count", count=10**30)
    write("negative", count=-4)
    write("fraction", count=1.5)
    write("bytes", bytes=1)
    write("larger", bytes=10**9)
    write("name", name="../digits/test/x.tar")
    write("gone", name="gone.tar")
    write("hash", sha256="no hash")
    write("other_hash", sha256="0" * 64)
    write("deep", '{"schema": 1, "shards": ' + "[" * 10_000)
    write("schema", '{"schema": 99, "shards": []}')
    write("none", '{"schema": 1, "shards": []}')
    write("cut", json.dumps(whole)[:60])
    write("classes", json.dumps(whole | {"class_names": [1, 2]}))


def _shards(place: Path) -> None:
    def write(name: str, shards: list[dict[str, bytes]]) -> None:
        folder = place / f"shards_{name}"
        folder.mkdir()
        for number, members in enumerate(shards):
            with tarfile.open(folder / f"{number}.tar", "w") as tar:
                for member, data in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        (folder / "empty.txt").unlink(missing_ok=True)

    picture = (place / "cat.jpg").read_bytes()
    one = {"a.jpg": picture, "a.cls": b"1", "a.json": b'{"bbox": [[4, 4, 30, 30]]}'}
    write("whole", [one])
    write("twice", [one, one])
    write("class", [one | {"a.cls": str(2**70).encode()}])
    write("no_class", [{"a.jpg": picture}])
    write("word_class", [one | {"a.cls": b"cat"}])
    write("high_class", [one | {"a.cls": b"10"}])
    write("inverted", [one | {"a.json": b'{"bbox": [[30, 30, 4, 4]]}'}])
    write("boxes", [one | {"a.json": b'{"bbox": "all"}'}])
    write("pictures", [one | {"a.jpg": b"no picture"}])
    write("no_pictures", [{"a.cls": b"1"}])
    write("empty", [{}])
    whole = (place / "shards_whole" / "0.tar").read_bytes()
    for name, data in (("cut", whole[:900]), ("text", b"no tar" * 200)):
        (place / f"shards_{name}").mkdir()
        (place / f"shards_{name}" / "0.tar").write_bytes(data)
    (place / "shards_folder").mkdir()
    (place / "shards_folder" / "0.tar").mkdir()
    ShardIndex.load(place / "shards_whole").save(place / "shards_whole")
