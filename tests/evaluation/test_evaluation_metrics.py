"""Metrics while an explainer trains: the benchmark's numbers, on any number of processes, through
kills and Lightning's short runs; and what cannot be judged is refused before the first step.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from callback_toys import FLIP, METRICS, Spread, data, module, prepare, scores, trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_iba import Benchmark, FrozenClassifier, InputError, build_explainer
from lit_iba.data import QuickstartDataModule
from lit_iba.evaluation import EvaluationMetrics, ExplainerModule, HeatmapWriter
from lit_iba.metrics import Degradation
from lit_iba.report import read_run

# Lightning's remarks that the command line silences, each with its reason there.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(many workers|LeafSpec|eval mode at the start|litlogger|no `val_dataloader`|"
    "is not empty|is no number).*"  # of a network that was never trained
)

TOYS = Path(__file__).parent / "callback_toys.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("evaluated"))


def classifier_of(folder: Path) -> FrozenClassifier:
    return FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))


def table(results: dict[str, Any]) -> dict[str, Any]:
    return {m: list(by_name.values()) for m, by_name in results["results"].items()}


def test_the_scores_are_the_benchmarks_to_the_bit(folder: Path, tmp_path: Path) -> None:
    metrics = {**METRICS, "decision_flip": FLIP}
    explainer = build_explainer("saliency", classifier_of(folder))
    evaluation = EvaluationMetrics(metrics, ["random"], images=7, target="predicted")
    run = trainer(tmp_path, evaluation)
    run.validate(ExplainerModule(explainer), data(folder), verbose=False)
    named = {"saliency": {}, "random": {}}
    benchmark = Benchmark(
        classifier_of(folder),
        folder / "digits" / "val",
        named,
        metrics,
        tmp_path / "out",
        batch_size=4,
        max_images=7,
        target="predicted",
    )
    results = benchmark.run()["results"]
    logged = scores(run)
    for metric, by_name in results.items():
        for name, suffix in (("saliency", ""), ("random", "/random")):
            wanted = torch.tensor(
                [by_name[name]["score"], by_name[name]["standard_error"]], dtype=torch.float32
            )
            tag = f"val/{metric}{suffix}"
            assert [logged[tag], logged[f"{tag}_se"]] == wanted.tolist()


def test_predictions_make_a_benchmarks_run_shard_by_shard(folder: Path, tmp_path: Path) -> None:
    explainer, out = build_explainer("grad_cam", classifier_of(folder)), tmp_path / "out"
    changes = {"predict": str(folder / "digits" / "val")}

    def predict(name: str) -> Path:
        run = trainer(tmp_path, HeatmapWriter(out, METRICS, gallery=2))
        run.predict(ExplainerModule(explainer), data(folder, **changes), return_predictions=False)
        return out

    predict("first")
    run = read_run(out)
    benchmark = Benchmark(
        classifier_of(folder),
        folder / "digits" / "val",
        {"grad_cam": {}},
        METRICS,
        tmp_path / "benchmark",
        batch_size=4,
    )
    results = benchmark.run()
    assert table(json.loads((out / "results.json").read_text())) == table(results)
    assert run.gallery is not None
    kept, lost, _ = sorted((out / "heatmaps" / "grad_cam").iterdir())
    before = kept.stat().st_mtime_ns
    lost.unlink()
    predict("again")
    assert kept.stat().st_mtime_ns == before
    assert lost.is_file()
    explainer.seed = 5  # another explainer
    with pytest.raises(InputError, match="choose another output folder"):
        predict("other")


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    evaluation = EvaluationMetrics({**METRICS, "decision_flip": FLIP}, ["random"], images=9)
    alone = trainer(tmp_path, evaluation)
    alone.validate(module(folder), data(folder), verbose=False)
    command = [sys.executable, str(TOYS), str(folder), str(tmp_path), "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    wanted = scores(alone)
    assert wanted.keys() == found[0].keys()
    assert "val/decision_flip/random" in wanted
    assert found[0] == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.slow
def test_a_killed_run_ends_where_one_in_peace_does(folder: Path, tmp_path: Path) -> None:
    def start(run: Path, dies_at: int = 0) -> int:
        run.mkdir(exist_ok=True)
        environment = {**os.environ, "PL_GLOBAL_SEED": "0", "DIES_AT": str(dies_at)}
        command = [sys.executable, str(TOYS), str(folder), str(run)]
        return subprocess.run(command, env=environment, capture_output=True, timeout=120).returncode

    peace, killed = tmp_path / "peace", tmp_path / "killed"
    assert start(peace) == 0
    # One batch of the rehearsal and one of the evaluation in the middle of the epoch; then that one
    # again, and one of the evaluation at the epoch's end.
    for step, dies_at in ((3, 3), (6, 6)):
        assert start(killed, dies_at) == -signal.SIGKILL
        saved = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["global_step"] == step
    assert start(killed) == 0
    one, other = (json.loads((run / "done.json").read_text()) for run in (peace, killed))
    assert one == other
    assert [step for step, *_ in one["history"]["mine"]] == [3, 6, 9, 12]


@pytest.mark.slow
def test_checkpoints_and_the_end_follow_a_score(folder: Path, tmp_path: Path) -> None:
    evaluation = EvaluationMetrics(METRICS, ["grad_cam"], images=6, every_n_epochs=2)
    best = ModelCheckpoint(tmp_path, monitor="val/bounding_box", mode="max", filename="best")
    stop = EarlyStopping("val/bounding_box", mode="max", patience=2, min_delta=10)
    board, files = TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "files")
    run = trainer(
        tmp_path,
        evaluation,
        best,
        stop,
        max_epochs=9,
        enable_checkpointing=True,
        logger=[board, files],
    )
    run.fit(module(folder), data(folder))
    assert run.current_epoch == 3  # the first epoch is the best by far, for want of 10 more
    assert [step for step, *_ in evaluation.history["bounding_box"]] == [6, 12]
    assert best.best_model_score == max(s for _, s, _ in evaluation.history["bounding_box"])
    assert best.best_model_path == str(tmp_path / "best.ckpt")
    log = EventAccumulator(board.log_dir, size_guidance={"images": 0}).Reload()
    lines = [event.value for event in log.Scalars("val/bounding_box/grad_cam")]
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert {"val/bounding_box", "val/degradation", "val/degradation_morf"} <= {
        tag.removesuffix("/text_summary") for tag in log.Tags()["images"]
    }
    text = log.Tensors("val/evaluation_rows/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("\n") == 7
    assert text.startswith("| key | bounding_box |")
    assert len(list(Path(files.log_dir).glob("val/evaluation_rows/*.csv"))) == 2
    assert len(list(Path(files.log_dir).glob("val/degradation/*.png"))) == 1


@pytest.mark.parametrize(
    ("settings", "steps", "images"),
    [
        ({"fast_dev_run": True}, [1], 4),
        ({"limit_val_batches": 2, "num_sanity_val_steps": 2}, [6, 12], 8),
        ({"limit_val_batches": 0}, [], None),
        ({"overfit_batches": 1}, [1, 2], 4),
        ({"accumulate_grad_batches": 3, "num_sanity_val_steps": 0}, [2, 4], 10),
        ({"val_check_interval": 3}, [3, 6, 9, 12], 10),
    ],
)
def test_short_runs(
    folder: Path, tmp_path: Path, settings: dict[str, Any], steps: list[int], images: int | None
) -> None:
    evaluation = EvaluationMetrics({"bounding_box": {}, "mine": {"metric": "callback_toys.Spread"}})
    run = trainer(tmp_path, evaluation, **settings)
    run.fit(module(folder), data(folder))
    assert [step for step, *_ in evaluation.history.get("mine", [])] == steps
    assert ("val/mine" in run.callback_metrics) == bool(steps)
    if steps:
        assert len(evaluation._judging["val"].keys) == images


def test_what_no_heatmap_changes_is_computed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    shared = Degradation.shared_scores
    monkeypatch.setattr(
        Degradation, "shared_scores", lambda self, *a: passes.append(1) or shared(self, *a)
    )
    judged: list[str] = []
    metrics = {"degradation": METRICS["degradation"], "mine": {"metric": "callback_toys.Spread"}}
    evaluation = EvaluationMetrics(metrics, ["random"], images=4, batch_size=8)
    score_rows = Spread.score_rows
    monkeypatch.setattr(
        Spread, "score_rows", lambda self, *a: judged.append("") or score_rows(self, *a)
    )
    trainer(tmp_path, evaluation).fit(module(folder), data(folder))
    rehearsals, shards = 2, 3  # of the readout and the control; four images lie in three shards
    assert len(passes) == rehearsals + shards
    assert len(judged) == rehearsals + 3 * shards  # the readout twice, the control once


@pytest.mark.parametrize(
    ("lacks", "metrics", "message"),
    [
        ("boxes", {"bounding_box": {}}, "needs object masks"),
        ("labels", {"mine": {"metric": "callback_toys.Spread"}}, "has no label"),
        ("", {"sanity_check": {}}, "builds readout_iba again"),
        ("", {"loss": {"metric": "callback_toys.Spread"}}, "give the metric another name"),
    ],
)
def test_what_cannot_be_judged_ends_before_the_first_step(
    folder: Path, tmp_path: Path, lacks: str, metrics: dict[str, Any], message: str
) -> None:
    import tarfile

    val = tmp_path / "val.tar"
    dropped = {"boxes": ("json", "png"), "labels": ("cls",), "": ()}[lacks]
    first = sorted((folder / "digits" / "val").glob("*.tar"))[0]
    with tarfile.open(first) as old, tarfile.open(val, "w") as new:
        for member in old.getmembers():
            extension = member.name.partition(".")[2]
            if (
                extension not in dropped and not (lacks == "boxes" and "mask" in extension)
            ) or extension == "png":
                new.addfile(member, old.extractfile(member))
    training = module(folder)
    steps: list[int] = []
    training.training_step = lambda *_: steps.append(1)  # type: ignore[method-assign]
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, EvaluationMetrics(metrics), num_sanity_val_steps=0).fit(
            training, data(folder, val=str(val))
        )
    assert not steps


def test_a_test_writes_the_run_of_a_benchmark(folder: Path, tmp_path: Path) -> None:
    evaluation = EvaluationMetrics(METRICS, ["random"], images=None, out=str(tmp_path / "run"))
    run = trainer(tmp_path, evaluation)
    run.test(module(folder), data(folder), verbose=False)
    found = read_run(tmp_path / "run").results["bounding_box"]
    assert list(found) == ["readout_iba", "random"]
    assert found["random"].n == 6
    logged = torch.tensor(found["readout_iba"].score, dtype=torch.float32)
    assert run.callback_metrics["test/bounding_box"] == logged


def test_loaders_without_names_are_refused(folder: Path, tmp_path: Path) -> None:
    loaders = QuickstartDataModule(str(tmp_path / "digits"), train_samples=4, val_samples=4)
    assert isinstance(loaders, L.LightningDataModule)
    plain = data(folder)
    plain.setup("fit")
    with pytest.raises(InputError, match="takes its images from a data module"):
        trainer(tmp_path, EvaluationMetrics(METRICS)).fit(module(folder), plain.train_dataloader())


def test_a_score_that_is_no_number_is_said(folder: Path, tmp_path: Path) -> None:
    """A network that was never trained loses nothing with its pictures."""
    explainer = build_explainer("random", classifier_of(folder))
    evaluation = EvaluationMetrics({"degradation": METRICS["degradation"]}, images=7)
    with pytest.warns(UserWarning, match="val/degradation is no number.*cannot choose by it"):
        trainer(tmp_path, evaluation).validate(
            ExplainerModule(explainer), data(folder), verbose=False
        )
    assert math.isnan(evaluation.history["degradation"][0][1])


def test_a_metric_called_like_what_others_share_keeps_its_own(folder: Path, tmp_path: Path) -> None:
    """``reference`` is the word by which low-k perturbation's passes are kept."""
    sets = {"metric": "sensitivity_n", "tile": 16, "points": 2, "masks": 3}
    low_k = {"percentages": [50]}

    def found(**metrics: Any) -> dict[str, float]:
        run = trainer(tmp_path, EvaluationMetrics(metrics, images=4))
        explainer = build_explainer("saliency", classifier_of(folder))
        run.validate(ExplainerModule(explainer), data(folder), verbose=False)
        return scores(run)

    alone = found(low_k_perturbation=low_k)
    both = found(reference=sets, low_k_perturbation=low_k)
    assert both["val/low_k_perturbation"] == alone["val/low_k_perturbation"]
    assert both["val/reference"] == found(sets=sets)["val/sets"]
