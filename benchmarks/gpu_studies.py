"""The parts of gpu.py that need a GPU to be true: the tests on CUDA, trainings in full, and tables
of the papers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu import Run
from lightning import Fabric

from lit_iba import FrozenClassifier
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.data.quickstart import QUICKSTART_PREPROCESSING, QuickstartSettings, make_quickstart
from lit_iba.evaluation import Benchmark

ROOT = Path(__file__).parents[1]
CONTROLS: dict[str, Any] = {"random": {}, "constant": {}, "ramp": {}, "centre": {}}
SMALL_BOXES = {"max_box_fraction": 0.33}
_trainings: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
_folder = tempfile.TemporaryDirectory(prefix="lit_iba_gpu_")  # ours until the program ends


def cuda_tests(run: Run) -> None:
    """The suite's CUDA tests, spread over processes that share the device."""
    report = Path(_folder.name) / "tests.log"
    environment = environment_of() | {"LIT_IBA_REHEARSE": "1" if run.device.type == "cpu" else "0"}
    which = ["tests/cuda/test_cuda_metrics.py"] if run.small else ["tests/cuda"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *which,
        "-p",
        "no:cacheprovider",
        "-q",
        "-n",
        "1" if run.small else "8",
    ]
    with report.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            process.wait()
        finally:
            process.kill()
            text = report.read_text(errors="replace")
            failed = re.findall(r"^FAILED (\S+)", text, re.MULTILINE)
            last = text.strip().splitlines()[-1] if text.strip() else "nothing was printed"
            run.add("tests", {"result": last.strip("= "), "failed": ", ".join(failed) or "none"})
            if process.returncode:
                print(text[-6000:])


@dataclass(frozen=True)
class Subject:
    """A network with photographs to explain and pictures to train on."""

    network: str
    weights: str
    layer: str
    photographs: str
    train: str
    side: int | None = None  # of the pictures, where it is not the network's own

    def record(self) -> dict[str, Any]:
        """Keyword arguments of ``FrozenClassifier``."""
        record: dict[str, Any] = {"model": self.network, "weights": self.weights}
        if self.side is not None:
            record["preprocessing"] = {"resize": self.side * 8 // 7, "crop": self.side}
        if self.network == "small_cnn":
            record["preprocessing"] = QUICKSTART_PREPROCESSING.to_dict()
        return record


def subjects(run: Run) -> dict[str, Subject]:
    """``resnet50`` at 224 pixels and ``resnet18`` at 112 of the kit; a toy for both if small.

    Raises:
        FileNotFoundError: There is no kit.
    """
    if run.small:
        folder = Path(_folder.name)
        if not (folder / "small.safetensors").is_file():
            save_weights(folder / "small.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
            make_quickstart(folder / "digits", QuickstartSettings(40, 8, 8))
        where = folder / "digits"
        toy = Subject(
            "small_cnn",
            str(folder / "small.safetensors"),
            "layer2",
            str(where / "val"),
            str(where / "train"),
        )
        return {"resnet50": toy, "resnet18": toy}
    if run.kit is None or not (run.kit / "photographs").is_dir():
        raise FileNotFoundError(f"{run.kit} is not there; collect it with benchmarks/gpu_kit.py")
    kit = run.kit.resolve()
    pictures = str(kit / "photographs" / "*.tar"), str(kit / "train" / "*.tar")
    weights = {name: next((kit / "weights").glob(f"{name}*")) for name in ("resnet50", "resnet18")}
    return {
        "resnet50": Subject("resnet50", str(weights["resnet50"]), "layer2", *pictures),
        "resnet18": Subject("resnet18", str(weights["resnet18"]), "layer2", *pictures, side=112),
    }


def environment_of() -> dict[str, str]:
    """This project importable, also where it is not installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def begin_trainings(run: Run) -> None:
    """Start the readout and VarSal's readout encoder in programs of their own; :func:`trained`
    waits for them.
    """
    known = subjects(run)
    small = [
        "--data.init_args.num_workers",
        "0",
        "--trainer.max_steps",
        "2",
        "--trainer.log_every_n_steps",
        "1",
    ]
    workers = small if run.small else ["--data.init_args.num_workers", "5"]
    for name, config, subject, options in (
        ("varsal", "varsal_readout_resnet18", known["resnet18"], []),
        ("varsal_seed_1", "varsal_readout_resnet18", known["resnet18"], ["--seed_everything", "1"]),
        ("readout", "readout_resnet50", known["resnet50"], ["--trainer.max_epochs", "20"]),
    ):
        if run.small and name == "varsal_seed_1":  # the first one's command, but for a number
            continue
        folder = Path(_folder.name) / re.sub(r"\W+", "_", name)
        data = [
            "--data.init_args.train",
            subject.train,
            "--data.init_args.val",
            subject.photographs,
        ]
        parts = [f"--model.init_args.classifier={json.dumps(subject.record())}"]
        if name == "readout":
            layers = ["layer2", "layer3", "fc"] if run.small else None
            parts += ["--model.init_args.statistics_images", "8" if run.small else "800"]
            parts += (
                ["--model.init_args.layer", layers[0], f"--model.init_args.taps={layers}"]
                if layers
                else []
            )
        file = ROOT / "configs" / "train" / f"{config}.yaml"
        if not file.is_file():
            run.note(name, f"{file.name} is not there")
            continue
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            "fit",
            "--config",
            str(file),
            *parts,
            *data,
            *options,
            *workers,
            "--trainer.default_root_dir",
            str(folder),
            "--trainer.accelerator",
            run.device.type,
            *(["--trainer.precision", "32-true"] if run.device.type == "cpu" else []),
            "--trainer.enable_progress_bar",
            "false",
        ]
        log = (folder.parent / f"{folder.name}.log").open("wb")
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment_of(), stdout=log, stderr=subprocess.STDOUT
        )
        _trainings[name] = process, folder


def judge(
    run: Run,
    table: str,
    subject: Subject,
    explainers: dict[str, Any],
    metrics: dict[str, Any],
    **settings: Any,
) -> None:
    """One benchmark, and a row for each of its explainers."""
    classifier = FrozenClassifier(**subject.record())
    start = time.perf_counter()
    benchmark = Benchmark(
        classifier,
        subject.photographs,
        explainers,
        metrics,
        Path(_folder.name) / table / "_".join(explainers),
        batch_size=4 if run.small else 32,
        gallery=0,
        statistics_data=subject.train,
        statistics_images=400,
        statistics_folder=Path(_folder.name) / "statistics" / subject.network,
        **settings,
    )
    results = benchmark.run(Fabric(accelerator=run.device.type, devices=1))
    for name in explainers:
        row: dict[str, Any] = {"explainer": name, "images": results["data"]["used"]}
        for metric, found in results["results"].items():
            result = found[name]
            row[metric] = result["score"]
            row[f"{metric} ±"] = result["standard_error"]
            row |= {f"{metric} {key}": value for key, value in result["extra"].items()}
        run.add(table, row | {"s an image": results["explainers"][name]["seconds_per_image"]})
    print(f"{table}: {time.perf_counter() - start:.0f} s for {', '.join(explainers)}", flush=True)


def table_1(run: Run) -> None:
    """IBA's table 1 for ResNet-50: boxes, and degradation of all photographs, 100 points, the
    authors' fill.
    """
    subject = subjects(run)["resnet50"]
    short: dict[str, Any] = {"steps": 2, "copies": 2} if run.small else {}
    groups: list[dict[str, Any]] = [
        {
            "per_sample_iba": {"layer": subject.layer, "beta": 10.0, **short},
            "grad_cam": layer_of(run),
            "random": {},
        },
        {"occlusion_14": {"forward_batch_size": 512}, "guided_backprop": {}, "centre": {}},
        {"saliency": {}, "integrated_gradients": {}, "constant": {}},
    ]
    wide = {
        "preset": "reference",
        "points": 4 if run.small else 100,
        "forward_batch_size": 4 if run.small else 512,
    }
    tiles = {
        f"degradation_{tile}": {"metric": "degradation", "tile": tile, **wide} for tile in (14, 8)
    }
    for group in groups[:1] if run.small else groups:
        judge(run, "table_1_box", subject, group, {"bounding_box": {}}, max_box_fraction=0.33)
        judge(run, "table_1_degradation", subject, group, tiles)


def layer_of(run: Run) -> dict[str, Any]:
    """Grad-CAM's layer, where the toy has no usual one."""
    return {"layer": "layer3"} if run.small else {}


def table_2(run: Run) -> None:
    """InputIBA's table 2, with the mask Lambda at the paper's settings, on the photographs with
    small boxes.
    """
    subject = subjects(run)["resnet50"]
    short = {"steps": 2, "generator_steps": 2, "critic_warm_up": 1, "feature_steps": 2, "copies": 2}
    quick = short if run.small else {"precision": "bf16", "forward_batch_size": 320}
    mask = {"explainer": "input_iba", "layer": subject.layer, "smooth": 0.0, **quick}
    iba = {
        "explainer": "per_sample_iba",
        "layer": subject.layer,
        "beta": 10.0,
        **({"steps": 2} if run.small else {}),
    }
    metrics = {
        "ehr": {},
        "ehr_published": {"metric": "ehr", "preset": "reference"},
        "bounding_box": {},
    }
    judge(
        run,
        "table_2",
        subject,
        {"per_sample_iba": iba, "grad_cam": layer_of(run), **CONTROLS},
        metrics,
        **SMALL_BOXES,
    )
    judge(run, "table_2", subject, {"input_iba_mask": mask}, metrics, **SMALL_BOXES)


def trained(run: Run) -> None:
    """What the trainings gave, beside what needs none, on the photographs with small boxes."""
    known, checkpoints = subjects(run), {}
    for name, (process, folder) in _trainings.items():
        process.wait()
        if process.returncode:
            print((folder.parent / f"{folder.name}.log").read_text(errors="replace")[-3000:])
            run.note(name, f"training failed with status {process.returncode}")
            continue
        seconds = (folder / "checkpoints" / "last.ckpt").stat().st_mtime - folder.stat().st_ctime
        run.note(name, f"trained in about {seconds:.0f} s, beside the parts before this one")
        checkpoints[name] = str(folder / "checkpoints" / "last.ckpt")
        if run.keep is not None:
            run.keep.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoints[name], run.keep / f"{name}.ckpt")
    if "readout" in checkpoints:
        explainers = {"readout_iba": {"checkpoint": checkpoints.pop("readout")}}
        judge(run, "readout", known["resnet50"], explainers, {"bounding_box": {}}, **SMALL_BOXES)
    explainers = {
        name: {"explainer": "varsal", "checkpoint": path} for name, path in checkpoints.items()
    }
    explainers |= {"grad_cam": layer_of(run), **CONTROLS}
    judge(
        run,
        "varsal",
        known["resnet18"],
        explainers,
        {"low_k_perturbation": {}, "bounding_box": {}},
        **SMALL_BOXES,
    )
