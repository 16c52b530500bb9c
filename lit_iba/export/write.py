"""Trained explainers as files that others can use: ``.pt2`` and ONNX programs, and ``.safetensors``
to load back here.

An export is a folder: the files, ``explainer.json`` that says what they are, a README that says how
to load them, and a model card. Each file is compared with the explainer before it takes its name;
where they differ, nothing appears.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from lit_iba.checks import check_images, check_numbers
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError, unknown_name
from lit_iba.explainer import EXPLAINERS, Explainer, explainer_class
from lit_iba.export.artefact import (
    as_text,
    check_folder,
    describe,
    hashes,
    load_exported,
    plain_values,
)
from lit_iba.export.card import card
from lit_iba.export.program import (
    Results,
    largest_errors,
    require_onnx,
    run_onnx,
    run_pt2,
    trace_program,
    write_onnx,
    write_pt2,
)
from lit_iba.export.readme import readme
from lit_iba.export.run_facts import run_facts
from lit_iba.files import sha256_of, whole_file, write_text
from lit_iba.registry import class_named
from lit_iba.training.checkpoint import read_checkpoint
from lit_iba.training.exported import (
    CARD_FILE,
    DOCUMENTS,
    FILES,
    METADATA_FILE,
    METADATA_KEY,
    README_FILE,
    is_whole,
    read_description,
)
from lit_iba.training.trained_explainer import TRAINED_EXPLAINERS, TrainedExplainer

FORMATS = ("pt2", "onnx", "safetensors")
BATCH_SIZES = (1, 2, 7)  # each file is checked at these


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how far each format is from the explainer.

    Args:
        folder: The artefact's folder.
        files: Paths by format; the first of each is the one to load.
        errors: Largest relative error, max|a - b| / max|b| over a heatmap, by format and batch
            size.
        description: The content of ``explainer.json``.

    Example:
        >>> from lit_iba.export import export_checkpoint
        >>> formats = ["safetensors"]
        >>> path = "runs/readout/last.ckpt"
        >>> report = export_checkpoint(path, "exported", formats, progress=False)
        >>> list(report.files), max(report.errors["safetensors"].values()) < 1e-4
        (['safetensors'], True)
    """

    folder: Path
    files: dict[str, list[Path]]
    errors: dict[str, dict[int, float]]
    description: dict[str, Any]


@dataclass
class _Export:
    """One export under way, in a scratch folder."""

    explainer: TrainedExplainer  # on the CPU, frozen
    batches: list[Tensor]
    expected: Results
    description: dict[str, Any]
    scratch: Path
    formats: dict[str, dict[str, Any]] = field(default_factory=dict)


def export_explainer(
    explainer: Explainer,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    *,
    example_images: Tensor | None = None,
    checkpoint: dict[str, Any] | None = None,
    license: str | None = None,
    tolerance: float = 1e-4,
    progress: bool = True,
) -> ExportReport:
    """Write a trained explainer as a folder of checked files.

    Formats that an earlier export of the same explainer left in the folder stay; those of another
    explainer go.

    Args:
        explainer: A trained explainer, such as :class:`ReadoutIBA`; it is not changed.
        folder: Where the files go.
        formats: Any of ``"pt2"``, ``"onnx"``, ``"safetensors"``.
        example_images: Normalised images (N, 3, H, W) of the classifier's size, on which the files
            are checked besides random ones.
        checkpoint: Where the explainer comes from, for the record.
        license: Under which it is given away, for the card; None states none.
        tolerance: Largest relative error that is let through.
        progress: Whether to say, on standard error, what is being done.

    Raises:
        InputError: Unknown format, missing packages, an explainer or folder that cannot be used; or
            a written file computes something else than the explainer, of which nothing remains
            then.
        RuntimeError: A ``.pt2`` does not run outside this project.

    Example:
        >>> from lit_iba import ReadoutIBA
        >>> from lit_iba.export import export_explainer
        >>> explainer = ReadoutIBA.load("runs/readout/last.ckpt")
        >>> report = export_explainer(explainer, "exported", ["safetensors"], progress=False)
        >>> report.files["safetensors"][0].name
        'explainer.safetensors'
    """
    folder, formats = Path(folder), _check_formats(formats)
    check_numbers(0, exclusive=True, tolerance=tolerance)
    check_folder(folder)
    console = Console(stderr=True, quiet=not progress)
    trained = _check_explainer(explainer)
    batches = _check_batches(
        explainer.classifier.channels, explainer.classifier.preprocessing.size, example_images
    )
    twin = _frozen_twin(trained)
    with _step(console, "explaining the images of the check"):
        on_cpu = explainer.classifier.device.type == "cpu"
        expected = [(trained if on_cpu else twin).program_expected(images) for images in batches]
    if not all(torch.isfinite(maps).all() for results in expected for maps in results):
        raise InputError(
            "the explainer's heatmaps are not finite, so that no file can be checked; train it"
            " again"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        described = describe(twin, checkpoint, license)
        export = _Export(twin, batches, expected, described, Path(scratch))
        _write_formats(export, formats, tolerance, console)
        description = _publish(export, folder)
    errors = {
        name: {int(size): e for size, e in export.formats[name]["relative_error"].items()}
        for name in formats
    }
    files = {
        name: [folder / file for file in description["formats"][name]["files"]] for name in formats
    }
    return ExportReport(folder, files, errors, description)


def export_checkpoint(
    checkpoint: str | Path,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    classifier: FrozenClassifier | None = None,
    **options: Any,
) -> ExportReport:
    """Export the explainer in a training's checkpoint; ``options`` as in :func:`export_explainer`.

    Args:
        checkpoint: A ``.ckpt`` file of one of the trainings.
        folder: Where the files go.
        formats: As in :func:`export_explainer`.
        classifier: The classifier that it was trained for; built from the checkpoint's own record
            where None.

    Raises:
        InputError: The checkpoint is missing, damaged, or of a training whose explainers cannot be
            exported.

    Example:
        >>> from lit_iba.export import export_checkpoint
        >>> formats = ["safetensors"]
        >>> path = "runs/readout/last.ckpt"
        >>> report = export_checkpoint(path, "exported", formats, progress=False)
        >>> sorted(path.name for path in report.folder.iterdir())
        ['README.md', 'explainer.json', 'explainer.md', 'explainer.safetensors']
    """
    checkpoint = Path(checkpoint)
    saved = read_checkpoint(checkpoint)
    trained_by = saved["lit_iba_kind"]
    if trained_by not in TRAINED_EXPLAINERS:
        known = ", ".join(TRAINED_EXPLAINERS)
        raise InputError(
            f"checkpoint {checkpoint} was written by {trained_by}, which has no export; give one of"
            f" {known}"
        )
    training = {
        k: v
        for k, v in saved.get("hyper_parameters", {}).items()
        if k != "classifier" and not k.startswith("_")
    }
    record = {"file": checkpoint.name, "sha256": sha256_of(checkpoint), "training": training} | {
        k: saved[k] for k in ("epoch", "global_step") if k in saved
    }
    record["run"] = run_facts(saved, checkpoint)
    base: Any = TrainedExplainer  # only to compare with
    cls: type[TrainedExplainer] = class_named(trained_by, "explainer", TRAINED_EXPLAINERS, base)
    return export_explainer(
        cls.load(checkpoint, classifier), folder, formats, checkpoint=record, **options
    )


def _check_explainer(explainer: Explainer) -> TrainedExplainer:
    """The explainer, if its very class can be exported: a subclass may compute something else."""
    registered = explainer_class(explainer.name) if explainer.name in EXPLAINERS else None
    if isinstance(explainer, TrainedExplainer) and type(explainer) is registered:
        if explainer.smooth:
            raise InputError(
                f"the maps of this {type(explainer).__name__} are blurred (smooth ="
                f" {explainer.smooth}), which no exported file does; set smooth to 0, and blur"
                " what the file gives"
            )
        return explainer
    known = ", ".join(path.rpartition(".")[2] for path in TRAINED_EXPLAINERS.values())
    raise InputError(
        f"{type(explainer).__name__} cannot be exported: only trained explainers that need a single"
        f" pass can ({known}); export one of these, or call attribute where lit_iba is installed"
    )


def _check_formats(formats: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    for name in chosen:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
    if not chosen:
        raise InputError(f"no export format was given; choose from {', '.join(FORMATS)}")
    if "onnx" in chosen:
        require_onnx()
    return chosen


def _check_batches(channels: int, size: tuple[int, int], examples: Tensor | None) -> list[Tensor]:
    """Random images, and the examples, at every batch size that is checked."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randn(count, channels, *size, generator=generator, dtype=torch.float32)
        for count in BATCH_SIZES
    ]
    if examples is not None:
        examples = check_images(examples, channels).float().cpu()
        if not len(examples) or examples.shape[-2:] != size:
            given = tuple(examples.shape)
            raise InputError(
                f"example_images have shape {given}; give at least one image "
                f"(N, {channels}, {size[0]}, {size[1]})"
            )
        batches += [examples[torch.arange(count) % len(examples)] for count in BATCH_SIZES]
    return batches


def _frozen_twin(explainer: TrainedExplainer) -> TrainedExplainer:
    """The same explainer on the CPU with nothing left to train, rebuilt from what an export
    holds.
    """
    classifier = explainer.classifier
    if classifier.device.type != "cpu":
        classifier = copy.deepcopy(classifier).to("cpu")
    state = {name: tensor.detach().cpu() for name, tensor in explainer.trained.state_dict().items()}
    return explainer.rebuild(classifier, plain_values(explainer.record), state, "the explainer")


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    """A spinner while a slow step runs, and a line with its time afterwards."""
    start = time.perf_counter()
    with console.status(what):
        yield
    console.print(f"{what}: {time.perf_counter() - start:.1f} s", highlight=False)


def _write_formats(
    export: _Export, formats: Sequence[str], tolerance: float, console: Console
) -> None:
    """Write and check every format in the scratch folder."""
    embedded = json.dumps(export.description)
    program = None
    if {"pt2", "onnx"} & set(formats):
        with _step(console, "tracing the explainer"):
            program = trace_program(export.explainer)
    for name in formats:
        path, facts = export.scratch / f"explainer.{name}", {}
        with _step(console, f"writing {path.name}"):
            if name == "pt2" and program is not None:
                write_pt2(program, path, embedded)
            elif name == "onnx" and program is not None:
                outputs = [output.name for output in export.explainer.outputs]
                facts["opset"] = write_onnx(program, outputs, path, embedded)
            else:
                _write_safetensors(export, path, embedded)
        files = sorted(file.name for file in export.scratch.glob(f"{path.name}*"))
        with _step(console, f"checking {path.name}"):
            errors = largest_errors(_run(export, name, path), export.expected)
        console.print(f"  largest relative error {max(errors.values()):.1e}", highlight=False)
        if not all(error < tolerance for error in errors.values()):
            found = ", ".join(f"{error:.1e} at batch size {size}" for size, error in errors.items())
            raise InputError(
                f"{path.name} computes something else than the explainer: its relative error is"
                f" {found}, allowed is {tolerance:.0e}; nothing was written. Where the explainer's"
                " own float32 rounding is that large (statistics over too few images make it so),"
                " train it again with more statistics_images, or raise the tolerance"
            )
        relative = {str(size): error for size, error in errors.items()}
        export.formats[name] = {
            "files": files,
            "relative_error": relative,
            "tolerance": tolerance,
            **facts,
        }


def _run(export: _Export, name: str, path: Path) -> Results:
    if name == "pt2":
        return run_pt2(path, export.batches, export.scratch)
    if name == "onnx":
        return run_onnx(path, export.batches)
    loaded = load_exported(path, export.explainer.classifier)
    return [loaded.program_expected(images) for images in export.batches]


def _write_safetensors(export: _Export, path: Path, embedded: str) -> None:
    state = export.explainer.trained.state_dict()
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata={METADATA_KEY: embedded}))


def _publish(export: _Export, folder: Path) -> dict[str, Any]:
    """Move the checked files to their place, the description last: until then, a reader finds that
    they do not fit it.
    """
    formats = _formats_to_keep(folder, export) | export.formats
    stale = set(read_description(folder)["files"]) if (folder / METADATA_FILE).is_file() else set()
    for name in (file for facts in export.formats.values() for file in facts["files"]):
        with whole_file(folder / name) as part:
            (export.scratch / name).replace(part)
    names = [file for facts in formats.values() for file in facts["files"]]
    description = export.description | {"formats": formats, "files": hashes(folder, names)}
    write_text(folder / README_FILE, readme(description))
    write_text(folder / CARD_FILE, card(description))
    description["documents"] = hashes(folder, DOCUMENTS)
    write_text(folder / METADATA_FILE, as_text(description))
    for name in (stale & set(FILES)) - set(names):
        (folder / name).unlink(missing_ok=True)
    return description


def _formats_to_keep(folder: Path, export: _Export) -> dict[str, Any]:
    """Formats of an earlier export of this very explainer whose files are still whole."""
    if not (folder / METADATA_FILE).is_file():
        return {}
    old, new = read_description(folder), export.description
    same = ("explainer", "classifier", "preprocessing")
    if any(old.get(key) != new[key] for key in same):
        return {}
    others = {name: facts for name, facts in old["formats"].items() if name not in export.formats}
    return {
        name: facts
        for name, facts in others.items()
        if all(file in FILES and is_whole(folder, old, file) for file in facts["files"])
    }
