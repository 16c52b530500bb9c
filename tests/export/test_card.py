"""The model card says what the training knows, and calls the rest unknown."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from export_toys import trained_like

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.cli.main import main
from lit_iba.data import QuickstartSettings, ShardDataModule, make_quickstart
from lit_iba.evaluation import EvaluationMetrics
from lit_iba.export import export_checkpoint, export_explainer
from lit_iba.export.card import card
from lit_iba.export.run_facts import run_facts
from lit_iba.files import sha256_of
from lit_iba.iba import ReadoutTraining

CONFIG = """
seed_everything: 7
data:
  train: s3://key:secret@bucket/digits/train?signature=secret
  remote: {storage_options: {secret: secret}}
trainer:
  callbacks:
  - class_path: lit_iba.evaluation.EvaluationMetrics
    init_args: {images: 3}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training with scores."""
    folder = tmp_path_factory.mktemp("card")
    torch.manual_seed(0)
    save_weights(folder / "digits.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
    make_quickstart(folder / "digits", QuickstartSettings(8, 4, 2))
    module = ReadoutTraining(
        {"model": "small_cnn", "weights": str(folder / "digits.safetensors")},
        layer="layer2",
        taps=["layer2"],
        readout={"hidden": [4, 4]},
        statistics_images=8,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )
    evaluation = EvaluationMetrics({"bounding_box": {}}, controls=["random"], images=3)
    trainer = L.Trainer(
        default_root_dir=folder / "run",
        callbacks=[evaluation],
        max_epochs=1,
        accelerator="cpu",
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False),
        enable_checkpointing=False,
    )
    splits = {split: str(folder / "digits" / split) for split in ("train", "val")}
    trainer.fit(module, ShardDataModule(**splits, batch_size=4, seed=5))
    trainer.save_checkpoint(folder / "run" / "checkpoints" / "last.ckpt")
    return folder / "run"


pytestmark = pytest.mark.filterwarnings("ignore:.*(many workers|LeafSpec|eval mode|litlogger).*")


def lines(folder: Path) -> list[str]:
    return (folder / "explainer.md").read_text("utf-8").splitlines()


def test_a_card_says_what_checkpoint_and_run_know(run: Path, tmp_path: Path) -> None:
    (run / "config.yaml").write_text(CONFIG)
    (run / "command.txt").write_text("train.py fit --config my.yaml\n")
    checkpoint, out = run / "checkpoints" / "last.ckpt", tmp_path / "out"
    given = ["--format", "safetensors", "--out", str(out), "--license", "CC-BY 4.0"]
    assert main(["export", str(checkpoint), *given]) == 0
    state = torch.load(checkpoint, weights_only=True)
    logged = state["callbacks"]["EvaluationMetrics"]["logged"]
    own, control = (
        f"{logged[tag]:.4g} ± {logged[f'{tag}_se']:.2g}"
        for tag in ("val/bounding_box", "val/bounding_box/random")
    )
    found = lines(out)
    for line in (
        "# readout_iba for small_cnn",
        "- Weights: `digits.safetensors`",
        f"- SHA-256 of its parameters: `{state['lit_iba_classifier']['sha256']}`",
        f"- SHA-256 of the checkpoint: `{sha256_of(checkpoint)}`",
        "- Optimiser steps: `2`",
        "- Samples in the data: `8`",
        "- Batch size of a process: `4`",
        "- Seed of the order of samples: `5`",
        "- Seed of the run: `7`",
        "- Command: `train.py fit --config my.yaml`",
        "- Setting `beta`: `10.0`",
        "Images: at most 3 of the validation data.",
        "| metric | better | step | readout_iba | random |",
        f"| bounding_box | higher | 2 | {own} | {control} |",
        "CC-BY 4.0.",
    ):
        assert line in found
    text = "\n".join(found)
    assert "measured on 8 images" in text
    assert "64 x 64 pixels" in text
    assert '"s3://bucket/digits/train"' in text
    assert not any("secret" in path.read_text("utf-8", "ignore") for path in out.iterdir())
    assert "explainer.md" in json.loads((out / "explainer.json").read_text())["documents"]


def test_a_card_speaks_of_a_program_only_where_there_is_one(tmp_path: Path) -> None:
    explainer = trained_like(FrozenClassifier("small_cnn", "random"), "layer1", ["layer1"])
    export_explainer(explainer, tmp_path / "out", ["safetensors"], progress=False)
    description = json.loads((tmp_path / "out" / "explainer.json").read_text())
    assert lines(tmp_path / "out") == card(description).splitlines()
    said = "- The exported program takes no target class."
    for formats, program in [
        (["safetensors"], False),
        (["pt2"], True),
        (["onnx", "safetensors"], True),
    ]:
        text = card(description | {"formats": {key: {} for key in formats}})
        assert (said in text.splitlines()) == program, formats


def test_a_card_calls_unknown_what_nobody_knows(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "last.ckpt"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state["callbacks"] = {}
    torch.save(state, alone)
    export_checkpoint(alone, tmp_path / "out", ["safetensors"], progress=False)
    found = lines(tmp_path / "out")
    for line in (
        "- Data: unknown (no config.yaml lies in the folder of the run)",
        "- Command: unknown (no command.txt lies in the folder of the run)",
        "- Seed of the run: unknown (the config states none)",
        "Unknown: the training logged none with `EvaluationMetrics`.",
        "- What a control scores is unknown: the training judged none. A score alone says little.",
        "Not stated.",
        "The classifier's own licence holds for what was distilled from it.",
    ):
        assert line in found


def test_a_card_of_an_explainer_in_memory(tmp_path: Path) -> None:
    explainer = trained_like(FrozenClassifier("small_cnn", "random"), "layer1", ["layer1"])
    given = {"license": "MIT\n\n# <b>Not</b> a | heading"}
    export_explainer(explainer, tmp_path / "out", ["safetensors"], progress=False, **given)
    found = lines(tmp_path / "out")
    assert "Unknown: the explainer was exported from memory, without a checkpoint." in found
    assert r"MIT \# \<b\>Not\</b\> a \| heading." in found


@pytest.mark.parametrize("config", ["[1, 2]", "a: [", "trainer: 3\ndata: x", "trainer: {}"])
def test_a_config_that_is_none_is_unknown(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "last.ckpt").touch()
    nan = {"history": {"m": [(1, float("nan"), 0.5)]}, "logged": {}}
    saved = {"callbacks": {"EvaluationMetrics": nan}}
    facts = run_facts(saved, tmp_path / "last.ckpt")
    assert facts["seed"] is facts["evaluation"] is facts["plan"] is facts["command"] is None
    assert facts["scores"][0]["score"] == [None, 0.5]
